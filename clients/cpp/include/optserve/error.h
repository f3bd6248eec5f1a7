#pragma once

#include <grpcpp/support/status_code_enum.h>

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "optserve/v1/error_reason.pb.h"

namespace optserve {

/// Whether a failed call may have changed anything.
enum class Applied {
  unknown,  ///< It may have. The same call again settles it.
  no,       ///< It changed nothing.
};

/// What is known of a failed call.
struct Failure {
  grpc::StatusCode code = grpc::StatusCode::UNKNOWN;  ///< The gRPC status code.
  std::string message{};                              ///< What was wrong.
  Applied applied = Applied::unknown;
  /// The contract's reason; unspecified if the error is not the server's, or newer than this client.
  v1::ErrorReason reason = v1::ERROR_REASON_UNSPECIFIED;
  std::string field{};                            ///< Path of the wrong field in the request; empty if there is none.
  std::map<std::string, std::string> metadata{};  ///< Facts about the error; v1::ErrorReason lists them.
  /// Time after which a repeat may succeed, if the server states one.
  std::optional<std::chrono::milliseconds> retry_after{};
  std::string request_id{};   ///< Name of the call in the server's log.
  bool is_described = false;  ///< Whether the server described the error, so that `reason` and `applied` are its own.
};

/// The error of a failed call. Act on reason() or code(), never on the text.
class Error : public std::runtime_error {
 public:
  explicit Error(Failure failure);

  grpc::StatusCode code() const { return failure_->code; }
  v1::ErrorReason reason() const { return failure_->reason; }
  Applied applied() const { return failure_->applied; }
  const std::string& field() const { return failure_->field; }
  /// All that is known.
  const Failure& failure() const { return *failure_; }

 private:
  std::shared_ptr<const Failure> failure_;
};

}  // namespace optserve
