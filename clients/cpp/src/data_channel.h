#pragma once

#include <memory>

#include "step_channel.h"

namespace optserve::internal {

/// Opens a channel for steps: over a data connection if the server offers one, else over gRPC.
std::shared_ptr<StepChannel> open_step_channel(Connection& connection);

}  // namespace optserve::internal
