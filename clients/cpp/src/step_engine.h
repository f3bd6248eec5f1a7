#pragma once

#include <grpcpp/alarm.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "connection.h"
#include "optserve/session.h"

namespace optserve::internal {

constexpr int kMaxWindow = 64;  // results that a server stores of each worker

/// What steps have in common.
struct Plan {
  std::string encoded;        ///< the message that announces it
  bool pulls;                 ///< whether parameters follow each result
  v1::ByteLayout parameters;  ///< of the server's answer
};

/// A step without a result.
struct PendingStep {
  std::shared_ptr<Plan> plan;
  v1::StepStreamRequest request;  ///< with a StepStart
  Payload payload;
  MutableTensorViews into;
  Clock::time_point end;
  std::promise<StepResult> promise;
  bool is_sent = false;     ///< at least in part, on any channel
  bool is_written = false;  ///< as a whole, on the current channel
  bool is_settled = false;

  std::uint64_t sequence() const { return request.step().sequence(); }
};

/// Takes the steps of one worker, several of them in flight at once, for any number of threads.
///
/// A sequence is used up when its step's result is known. A step that was rejected gives its sequence to the next one.
/// If the result stays unknown, the next step gets the same sequence: the same content returns the stored result, and
/// for another one SEQUENCE_REUSED proves that the unknown step was applied, and states where to continue.
///
/// A thread that submits a step writes it, and one that waits for a step reads answers; for futures, a thread of the
/// engine waits. After a failure, the thread that reads sends steps without an answer again, one at a time.
class StepEngine : public std::enable_shared_from_this<StepEngine> {
 public:
  StepEngine(std::shared_ptr<Connection> connection, const v1::Session& session, std::string worker,
             std::uint64_t next_sequence);
  ~StepEngine();

  const std::string& worker() const { return worker_; }
  const SessionLayout& layout() const { return layout_; }
  std::uint64_t epoch() const { return epoch_; }
  /// How often steps have failed. A stream ends with the next failure, because its steps build on each other.
  std::uint64_t failures() const { return failures_; }

  /// Takes a step and waits for its result; see Session::step.
  ///
  /// @param failures rejects the step if there are others; none for a step that builds on no other
  StepResult step(const TensorViews& gradients, const StepOptions& options, const Deadline& deadline, int window,
                  std::optional<std::uint64_t> failures = std::nullopt);
  /// Hands over a step; see StepStream::submit.
  std::future<StepResult> submit(const TensorViews& gradients, const StepOptions& options, const Deadline& deadline,
                                 int window, std::optional<std::uint64_t> failures = std::nullopt);
  /// Takes the following steps in a membership, or in none if the epoch is 0.
  void set_membership(std::uint64_t epoch, std::uint64_t next_sequence);
  /// Notes the step of parameters that the caller received.
  void note_parameters(std::int64_t step) { parameters_step_ = step; }
  /// Ends the stream, and fails the steps in flight.
  void close();

 private:
  using Lock = std::unique_lock<std::mutex>;

  std::shared_ptr<PendingStep> prepare(const TensorViews& gradients, const StepOptions& options,
                                       const Deadline& deadline);
  std::shared_ptr<PendingStep> enqueue(Lock& lock, const TensorViews& gradients, const StepOptions& options,
                                       const Deadline& deadline, int window, std::optional<std::uint64_t> failures);
  void write(Lock& lock, std::size_t limit);
  void settle_until(Lock& lock, const std::function<bool()>& is_done);
  void exchange(Lock& lock, PendingStep& step);
  void accept_error(Lock& lock, Failure failure, int attempts);
  void reject(const Failure& failure);
  void drop(Lock& lock);
  void set_alarm(Clock::time_point at);

  const std::shared_ptr<Connection> connection_;
  const std::string session_, worker_;
  const SessionLayout layout_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<PendingStep>> waiting_;  // steps without an answer, in order
  std::size_t sent_ = 0;                              // how many of them were sent on the channel
  std::shared_ptr<StreamCall> channel_;
  std::shared_ptr<Plan> plan_, announced_;  // of the last step; the last one on the channel
  std::uint64_t next_;
  std::uint64_t unknown_below_ = 0;  // lower sequences may have been used by steps whose result is not known
  std::atomic<std::uint64_t> epoch_{0}, failures_{0};
  std::atomic<std::int64_t> parameters_step_;
  bool is_writing_ = false, is_reading_ = false;  // whether a thread does
  bool is_closing_ = false, is_ended_ = false;
  std::thread thread_;                // settles steps of futures
  std::optional<grpc::Alarm> alarm_;  // gRPC's streams have no deadline of a message
  Clock::time_point alarm_at_ = Clock::time_point::max();
};

}  // namespace optserve::internal
