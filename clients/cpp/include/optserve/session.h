#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <iosfwd>
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
  /// Parameters that are returned with the result; none if it is unset and `into` is empty.
  std::optional<v1::PullOptions> pull;
  /// Arrays that are filled with the parameters; others are returned as tensors. They must not overlap the gradients.
  /// After an error they may hold a part of the new values.
  MutableTensorViews into;
  std::map<std::string, SparseRows> sparse;  ///< Gradients of some rows of tensors, by name.
  /// Element type in which gradients are sent: float16 to float64; that of the session's tensors if unspecified.
  v1::DataType wire_dtype = v1::DATA_TYPE_UNSPECIFIED;
  std::optional<std::int64_t> expected_step;          ///< The step that the session must have.
  std::optional<double> loss_scale;                   ///< The factor of the loss, by which gradients are divided.
  std::vector<v1::HyperparameterOverride> overrides;  ///< Hyperparameters that have other values in this step alone.
  bool validate_only = false;                         ///< Checks and measures the step, and applies nothing.
  bool per_tensor_norms = false;                      ///< Requests the norm of each tensor's gradient.
  std::optional<std::uint64_t> example_count;         ///< Number of examples that the gradient was computed of.
  /// Of a member: the step of the parameters at which the gradient was computed; that of the parameters which the
  /// handle received last if it is unset.
  std::optional<std::int64_t> parameters_step;
  std::vector<std::int64_t> completed_shards;  ///< Shards of the session's data plan that the gradient was computed of.
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

/// Options of Session::pull.
struct ReadOptions {
  v1::PullOptions pull;  ///< Tensors, point and element type; all parameters in their own type by default.
  std::optional<std::int64_t> if_newer_than;  ///< Sends no values unless the session's step is greater.
  std::optional<std::int64_t> newer_than;     ///< Waits until the session's step is greater.
  MutableTensorViews into;                    ///< Arrays that are filled; others are returned as tensors.
};

/// Parameters of a session.
struct Parameters {
  Tensors tensors;          ///< The values, without those of ReadOptions::into.
  std::int64_t step = 0;    ///< The step that they belong to.
  bool is_modified = true;  ///< Whether there are values; false only with ReadOptions::if_newer_than.
};

/// Options of a change of a session.
struct ChangeOptions {
  std::optional<std::int64_t> expected_step;  ///< The step that the session must have.
  std::string request_id;  ///< Name of the change, so that another process can repeat it; a random one if empty.
};

/// Options of Session::push.
struct PushOptions : ChangeOptions {
  /// Element type in which values are sent; that of the session's tensors if unspecified.
  v1::DataType wire_dtype = v1::DATA_TYPE_UNSPECIFIED;
  bool reset_state = false;  ///< Whether the tensors' optimizer state is initialized.
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

  /// Reads the session's description.
  v1::Session get(Deadline deadline = {}) const;
  /// Reads parameters.
  Parameters pull(const ReadOptions& options = {}, Deadline deadline = {});
  /// Writes parameters: all given ones, or none.
  v1::Session push(const TensorViews& values, const PushOptions& options = {}, Deadline deadline = {});
  /// Reports metrics of the current model, such as the loss on a validation set.
  v1::ReportMetricsResponse report_metrics(const std::map<std::string, double>& metrics,
                                           const ChangeOptions& options = {}, Deadline deadline = {});
  /// Replaces the specification between two steps. The answer has the transfer of each group's state.
  v1::UpdateSessionResponse update(const v1::SessionSpec& spec, const ChangeOptions& options = {},
                                   Deadline deadline = {});
  /// Calls `on_event` with the session's events, first its state, until that returns false or the session is deleted.
  void watch(const std::function<bool(const v1::WatchSessionResponse&)>& on_event,
             Deadline deadline = Deadline::never()) const;
  /// Deletes the session and everything it holds.
  void delete_session(Deadline deadline = {});

  /// Saves the session on the server's disk, until the snapshot or the session is deleted.
  v1::Snapshot create_snapshot(Deadline deadline = {});
  /// Lists the snapshots, the latest first.
  std::vector<v1::Snapshot> list_snapshots(Deadline deadline = {}) const;
  /// Deletes the snapshot of a step.
  void delete_snapshot(std::int64_t step, Deadline deadline = {});
  /// Restores the session from the snapshot of a step: all of it, or its parameters alone.
  v1::Session restore_snapshot(std::int64_t step, bool weights_only = false, const ChangeOptions& options = {},
                               Deadline deadline = {});
  /// Creates a copy of the session, or of the snapshot of a step.
  ///
  /// @param id last part of the copy's name; chosen by the server if empty
  Session fork(const std::string& id = "", std::optional<std::int64_t> step = std::nullopt, Deadline deadline = {});
  /// Writes the session, or the snapshot of a step, as a safetensors file; a part of it after an error.
  ///
  /// @returns the session's step in the file
  std::int64_t export_to(std::ostream& file, std::optional<std::int64_t> step = std::nullopt,
                         Deadline deadline = Deadline::never()) const;

  /// Makes the handle's worker a member: its steps carry the epoch. It pulls parameters with them, and renews its lease
  /// by steps or renew_lease three times within a lease.
  ///
  /// @param lease time without a call after which the membership ends; the server's default if unset
  /// @returns epoch, rank, lease and the session
  v1::JoinSessionResponse join(std::optional<std::chrono::duration<double>> lease = std::nullopt,
                               Deadline deadline = {});
  /// Renews the lease.
  void renew_lease(Deadline deadline = {});
  /// Ends the membership.
  void leave(Deadline deadline = {});
  /// Lists the members, and those that were members.
  std::vector<v1::Worker> list_workers(Deadline deadline = {}) const;

 private:
  friend class Client;
  Session(std::shared_ptr<internal::Connection> connection, v1::Session info, const std::string& worker,
          std::uint64_t next_sequence);
  std::string snapshot_name(std::optional<std::int64_t> step) const;
  template <class Request>
  Request member_request() const;

  std::shared_ptr<internal::Connection> connection_;
  v1::Session info_;
  std::shared_ptr<internal::StepEngine> engine_;
};

}  // namespace optserve
