#pragma once

/// @file
/// Client of optserve, which takes optimizer steps as a service.

#include "optserve/client.h"
#include "optserve/deadline.h"
#include "optserve/error.h"
#include "optserve/session.h"
#include "optserve/tensor.h"
