#include "optserve/error.h"

#include "failures.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace optserve {
namespace {

constexpr char kPrefix[] = "ERROR_REASON_";

std::string describe(const Failure& failure) {
  std::string text = "status " + std::to_string(failure.code);
  if (failure.reason != v1::ERROR_REASON_UNSPECIFIED) {
    text = v1::ErrorReason_Name(failure.reason).substr(sizeof kPrefix - 1);
  }
  text = "optserve: " + text + ": " + failure.message;
  if (!failure.field.empty()) text += " (" + failure.field + ")";
  if (!failure.request_id.empty()) text += " [request " + failure.request_id + "]";
  return text;
}

}  // namespace

Error::Error(Failure failure)
    : std::runtime_error(describe(failure)), failure_(std::make_shared<const Failure>(std::move(failure))) {}

namespace internal {

Failure failure_with(grpc::StatusCode code, const std::string& message, Applied applied) {
  return {code, message, applied};
}

Error rejection(v1::ErrorReason reason, const std::string& field, const std::string& message) {
  return Error({grpc::StatusCode::INVALID_ARGUMENT, message, Applied::no, reason, field});
}

Error malformed(const std::string& what) {
  return Error(failure_with(grpc::StatusCode::INTERNAL, "the answer of the server " + what));
}

void check(const grpc::Status& status, const grpc::ClientContext& context) {
  if (status.ok()) return;
  Failure failure = failure_with(status.error_code(), status.error_message());
  const auto& trailers = context.GetServerTrailingMetadata();
  if (const auto id = trailers.find("x-request-id"); id != trailers.end()) {
    failure.request_id.assign(id->second.data(), id->second.size());
  }
  google::rpc::Status details;
  details.ParseFromString(status.error_details());  // fails for those of a proxy, which do not count
  for (const google::protobuf::Any& detail : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest request;
    google::rpc::RetryInfo retry;
    if (detail.UnpackTo(&info) && info.domain() == "optserve.v1") {
      failure.is_described = true;
      v1::ErrorReason_Parse(kPrefix + info.reason(), &failure.reason);
      failure.metadata.insert(info.metadata().begin(), info.metadata().end());
      if (failure.metadata["applied"] == "no") failure.applied = Applied::no;
    } else if (detail.UnpackTo(&request) && request.field_violations_size() > 0) {
      failure.field = request.field_violations(0).field();
    } else if (detail.UnpackTo(&retry)) {
      const google::protobuf::Duration& delay = retry.retry_delay();
      failure.retry_after = std::chrono::milliseconds(delay.seconds() * 1000 + delay.nanos() / 1'000'000);
    }
  }
  throw Error(std::move(failure));
}

bool is_repeatable(const Failure& failure) {
  if (failure.is_described) return failure.retry_after || failure.code == grpc::StatusCode::UNAVAILABLE;
  return failure.code == grpc::StatusCode::UNAVAILABLE || failure.code == grpc::StatusCode::CANCELLED ||
         failure.code == grpc::StatusCode::DEADLINE_EXCEEDED ||
         failure.code == grpc::StatusCode::UNKNOWN;  // of a stream whose connection was lost
}

}  // namespace internal
}  // namespace optserve
