#pragma once

#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <memory>
#include <string>
#include <vector>

#include "optserve/call.h"
#include "optserve/deadline.h"
#include "optserve/session.h"
#include "optserve/tensor.h"

namespace optserve {

/// Version of this client.
inline constexpr char kVersion[] = "0.1.0";

/// Options of a client.
struct ClientOptions {
  std::string token;  ///< Bearer token; OPTSERVE_TOKEN if empty. Without TLS it is not encrypted.
  /// Encrypts the connection, such as grpc::SslCredentials, with a certificate for mutual TLS. If unset, OPTSERVE_CA
  /// names a PEM file with the authorities to trust; without it the connection is not encrypted.
  std::shared_ptr<grpc::ChannelCredentials> credentials;
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
  /// Creates a session from a file that export_session wrote, on any server.
  ///
  /// @param file is read from its beginning
  /// @param id last part of the session's name; chosen by the server if empty
  Session import_session(std::istream& file, const std::string& id = "", Deadline deadline = {});
  /// Writes a session, sessions/{id}, or one of its snapshots as a safetensors file; a part of it after an error.
  ///
  /// @returns the step in the file
  std::int64_t export_session(const std::string& name, std::ostream& file, Deadline deadline = Deadline::never()) const;

  /// Makes any call of the contract that has one request and one answer, such as
  /// `call(&v1::FunctionService::Stub::ComputeLoss, request)` with optserve/v1/function_service.grpc.pb.h. A change
  /// gets a request id, unless it has one.
  template <class Stub, class Request, class Response>
  Response call(internal::Method<Stub, Request, Response> method, Request request, Deadline deadline = {}) const {
    return internal::call(*connection_, method, std::move(request), deadline);
  }

  /// The gRPC channel, for services that this client does not cover.
  std::shared_ptr<grpc::Channel> channel() const { return internal::channel_of(*connection_); }

 private:
  std::shared_ptr<internal::Connection> connection_;
};

}  // namespace optserve
