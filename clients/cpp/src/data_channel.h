#pragma once

#include <memory>

#include "connection.h"

namespace optserve::internal {

/// Opens a channel for steps: over a data connection if the server offers one, else over gRPC.
std::shared_ptr<StreamCall> open_step_channel(Connection& connection);

}  // namespace optserve::internal
