#pragma once

#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <memory>
#include <string>
#include <vector>

#include "optserve/deadline.h"
#include "optserve/session.h"
#include "optserve/tensor.h"
#include "optserve/v1/capabilities_service.pb.h"
#include "optserve/v1/function_service.pb.h"

/// @cond
namespace grpc {
class Channel;
}  // namespace grpc
/// @endcond

namespace optserve {

/// Version of this client.
inline constexpr char kVersion[] = "0.1.0";

/// Options of a client.
struct ClientOptions {
  std::string token;  ///< Bearer token; OPTSERVE_TOKEN if empty. Without TLS it is not encrypted.
  bool tls = false;   ///< Encrypts the connection; implied by any of the following files.
  /// PEM file with the authorities to trust; OPTSERVE_CA if empty, and the system's if that is not set.
  std::string ca_file;
  std::string certificate_file;  ///< PEM file with the client's certificate and its chain, for mutual TLS.
  std::string key_file;          ///< PEM file with the key of the client's certificate.
  std::chrono::milliseconds timeout = std::chrono::minutes(1);  ///< Deadline of calls that state none.
  /// Whether steps use a TCP connection beside gRPC if the server offers one, which it does without TLS only.
  bool data_connections = true;
};

/// Options of a new session.
struct SessionOptions {
  std::string id;          ///< Last part of the session's name; chosen by the server if empty.
  std::uint64_t seed = 0;  ///< Seed of the initializers.
  /// Name under which the handle numbers its steps; a random one if empty. No two processes may use one at a time.
  std::string worker;
};

/// A parameter of a new session with its value, float32 or float64.
v1::ParameterInit parameter(const std::string& name, const TensorView& value);
/// A parameter of a new session whose value the server computes.
v1::ParameterInit parameter(const std::string& name, const v1::InitializerSpec& initializer, const Shape& shape,
                            v1::DataType dtype = v1::DATA_TYPE_FLOAT32);

/// A client of one server. Any number of threads may use it. Calls throw Error, and are repeated until their deadline
/// if that may help. Handles of sessions keep the connection open.
class Client {
 public:
  /// A client that connects with its first call, and again when the connection is lost.
  ///
  /// @param target such as "localhost:50051" or "unix:/path"; OPTSERVE_SERVER if empty
  /// @throws Error INVALID_ARGUMENT if there is no target, or a file cannot be read
  explicit Client(const std::string& target = "", const ClientOptions& options = {});

  /// Creates a session. Values of more than 1 MiB in total are uploaded after the session is created; if that fails,
  /// the session is deleted.
  Session create_session(const v1::SessionSpec& spec, std::vector<v1::ParameterInit> parameters,
                         const SessionOptions& options = {}, Deadline deadline = {});
  /// Opens an existing session.
  ///
  /// @param name the resource name, sessions/{id}, or the id
  /// @param worker see SessionOptions; a name that has taken steps continues with its next sequence
  Session open_session(const std::string& name, const std::string& worker = "", Deadline deadline = {});
  /// Creates a session from a file that Session::export_to wrote, on any server.
  ///
  /// @param file is read from its beginning
  /// @param id last part of the session's name; chosen by the server if empty
  Session import_session(std::istream& file, const std::string& id = "", Deadline deadline = {});
  /// Lists the server's sessions by name.
  std::vector<v1::Session> list_sessions(Deadline deadline = {}) const;
  /// What the server can do.
  v1::GetCapabilitiesResponse capabilities(Deadline deadline = {}) const;

  /// Computes the learning rates of steps; the first update is step 0.
  v1::EvaluateScheduleResponse evaluate_schedule(const v1::EvaluateScheduleRequest& request,
                                                 Deadline deadline = {}) const;
  /// Computes a loss and its gradient.
  v1::ComputeLossResponse compute_loss(const v1::ComputeLossRequest& request, Deadline deadline = {}) const;
  /// Computes an activation.
  v1::ComputeActivationResponse compute_activation(const v1::ComputeActivationRequest& request,
                                                   Deadline deadline = {}) const;
  /// Computes the gradient with respect to an activation's input, from that with respect to its output.
  v1::ComputeActivationGradientResponse compute_activation_gradient(const v1::ComputeActivationGradientRequest& request,
                                                                    Deadline deadline = {}) const;
  /// Computes the operations and the memory of a network, layer by layer.
  v1::EstimateComplexityResponse estimate_complexity(const v1::EstimateComplexityRequest& request,
                                                     Deadline deadline = {}) const;

  /// The gRPC channel, for services that this client does not cover.
  std::shared_ptr<grpc::Channel> channel() const;

 private:
  std::shared_ptr<internal::Connection> connection_;
};

}  // namespace optserve
