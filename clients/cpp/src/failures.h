#pragma once

#include <grpcpp/grpcpp.h>

#include <string>

#include "optserve/error.h"

namespace optserve::internal {

/// A failure that the server did not describe.
Failure failure_with(grpc::StatusCode code, const std::string& message, Applied applied = Applied::unknown);

/// The error of an argument that cannot be sent.
Error rejection(v1::ErrorReason reason, const std::string& field, const std::string& message);

/// The error of an answer that breaks the contract.
Error malformed(const std::string& what);

/// Throws the error of a call, if it failed.
void check(const grpc::Status& status, const grpc::ClientContext& context);

/// Whether the same call may succeed later.
bool is_repeatable(const Failure& failure);

}  // namespace optserve::internal
