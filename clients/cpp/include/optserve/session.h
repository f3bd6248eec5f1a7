#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "optserve/deadline.h"
#include "optserve/tensor.h"
#include "optserve/v1/session.pb.h"
#include "optserve/v1/session_service.pb.h"
#include "optserve/v1/worker_service.pb.h"

namespace optserve {

/// @cond
namespace internal {
class Connection;
class StepEngine;
}  // namespace internal
/// @endcond

/// Gradients of some rows of a tensor.
struct SparseRows {
  TensorView indices;  ///< The rows, int32 or int64. Rows that are given more than once are summed.
  TensorView values;   ///< A row of the tensor for each index.
};

/// Options of a step.
struct StepOptions {
  /// Of this step alone: expected_step, loss_scale, overrides, validate_only, and of a member example_count,
  /// completed_shards and parameters_step, which is that of the parameters that the handle received last if it is
  /// unset. The client sets the other fields.
  v1::StepStart start;
  /// Of steps in general: gradient_dtype, pull and per_tensor_norms. The client sets the other fields.
  v1::StepPlan plan;
  /// Arrays that are filled with the parameters, which are pulled then; others are returned as tensors. They must not
  /// overlap the gradients. After an error they may hold a part of the new values.
  MutableTensorViews into;
  std::map<std::string, SparseRows> sparse;  ///< Gradients of some rows of tensors, by name.
};

/// The result of a step.
struct StepResult {
  v1::StepResult result;
  Tensors parameters;  ///< The parameters that were pulled, without those of StepOptions::into.
  /// The step that they belong to. Later than the result's if this is a stored result, sent again.
  std::int64_t parameters_step = 0;

  const v1::StepResult* operator->() const { return &result; }
};

/// Takes steps, several of them in flight at once; see Session::stream. Any number of threads may use it.
class StepStream {
 public:
  /// Hands over a step, which is sent before the call returns. It waits while the window is full.
  ///
  /// Gradients, and the arrays of `into`, must not be used before the future is ready. It has the result, or the
  /// Error of the step. Steps are applied in order. After one that failed, those behind it and all later ones of this
  /// stream fail with ABORTED; Session::stream returns another stream.
  std::future<StepResult> submit(const TensorViews& gradients, const StepOptions& options = {}, Deadline deadline = {});
  /// Takes a step and waits for its result; see Session::step.
  StepResult step(const TensorViews& gradients, const StepOptions& options = {}, Deadline deadline = {});

 private:
  friend class Session;
  StepStream(std::shared_ptr<internal::StepEngine> engine, int window);

  std::shared_ptr<internal::StepEngine> engine_;
  int window_;
  std::uint64_t failures_;  // of the engine when the stream was made
};

/// Parameters of a session.
struct Parameters {
  Tensors tensors;          ///< The values, without those of arrays that were filled.
  std::int64_t step = 0;    ///< The step that they belong to.
  bool is_modified = true;  ///< Whether there are values; false only with if_newer_than_step.
};

/// A handle of a session on a server.
///
/// A handle is one worker: it numbers its steps, and each is applied once, also if the connection is lost and the step
/// is sent again. It keeps a stream open for them. Any number of threads may use it; their steps are taken one after
/// the other. Calls throw Error, and are repeated until their deadline if that may help. The last copy of a handle ends
/// its stream; the session stays on the server.
class Session {
 public:
  /// The resource name, sessions/{id}.
  const std::string& name() const { return info_.name(); }
  /// The name under which steps are numbered.
  const std::string& worker() const;
  /// The session when it was created or opened.
  const v1::Session& info() const { return info_; }

  /// Takes one step of any size and waits for its result.
  ///
  /// @param gradients by tensor name; tensors that are left out do not change
  /// @throws Error if it was rejected, or its result is not known at the deadline; applied() is then unknown, and a
  /// step
  ///   with the same gradients and options settles whether it was applied, and applies it once
  StepResult step(const TensorViews& gradients, const StepOptions& options = {}, Deadline deadline = {});
  /// Returns a stream for many steps, which are numbered with those of the handle.
  ///
  /// @param window largest number of steps in flight, from 1 to 64
  StepStream stream(int window = 8);
  /// Ends the handle's stream at once; the next step opens another. Whether steps in flight are applied is unknown.
  void close();

  /// Reads parameters.
  ///
  /// @param request which ones, of which point, in which type, and whether to wait for a later step; all by default.
  /// Its
  ///   name is the session's.
  /// @param into arrays that are filled; others are returned as tensors
  Parameters pull(v1::PullParametersRequest request = {}, const MutableTensorViews& into = {}, Deadline deadline = {});
  /// Writes parameters: all given ones, or none.
  ///
  /// @param header options: wire_dtype, reset_state, expected_step and request_id; the client sets the other fields
  v1::Session push(const TensorViews& values, v1::PushHeader header = {}, Deadline deadline = {});
  /// Calls `on_event` with the session's events, first its state, until that returns false or the session is deleted.
  void watch(const std::function<bool(const v1::WatchSessionResponse&)>& on_event,
             Deadline deadline = Deadline::never()) const;
  /// Deletes the session and everything it holds.
  void delete_session(Deadline deadline = {});

  /// Creates a copy of the session, or of the snapshot that the request names.
  Session fork(v1::ForkSessionRequest request = {}, Deadline deadline = {});

  /// Makes the handle's worker a member: its steps carry the epoch. It pulls parameters with them, and renews its lease
  /// by steps or other calls three times within a lease.
  ///
  /// @param lease time without a call after which the membership ends; the server's default if unset
  /// @returns epoch, rank, lease and the session
  v1::JoinSessionResponse join(std::optional<std::chrono::duration<double>> lease = std::nullopt,
                               Deadline deadline = {});
  /// Ends the membership.
  void leave(Deadline deadline = {});

 private:
  friend class Client;
  Session(std::shared_ptr<internal::Connection> connection, v1::Session info, const std::string& worker,
          std::uint64_t next_sequence);

  std::shared_ptr<internal::Connection> connection_;
  v1::Session info_;
  std::shared_ptr<internal::StepEngine> engine_;
};

}  // namespace optserve
