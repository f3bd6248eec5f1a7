#include "step_engine.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "data_channel.h"
#include "numbers.h"

namespace optserve::internal {
namespace {

constexpr std::chrono::milliseconds kHalfCloseTimeout{500};

constexpr Clock::duration kConnectSlice = std::chrono::milliseconds(50);  // after which a pause looks whether to end

/// Unlocks a lock for a scope.
class Unlocked {
 public:
  explicit Unlocked(std::unique_lock<std::mutex>& lock) : lock_(lock) { lock_.unlock(); }
  ~Unlocked() { lock_.lock(); }

 private:
  std::unique_lock<std::mutex>& lock_;
};

/// The sequence with which the server says to continue; 0 if it says none.
std::uint64_t expected_sequence(const Failure& failure) {
  const auto expected = failure.metadata.find("expected");
  const bool is_sequence = v1::ErrorReason_Name(failure.reason).rfind("ERROR_REASON_SEQUENCE_", 0) == 0;
  return is_sequence && expected != failure.metadata.end() ? std::strtoull(expected->second.c_str(), nullptr, 10) : 0;
}

/// Receives the answer to a step, and that to its plan before it.
StepResult receive_result(StreamCall& channel, PendingStep& step) {
  v1::StepStreamResponse answer;
  ChunkReader reader(channel, answer.kChunkFieldNumber);
  reader.read(answer);
  if (answer.has_planned()) {
    step.plan->parameters = answer.planned().parameters();
    reader.read(answer);
  }
  if (!answer.has_result()) throw malformed("to a step has no result");
  StepResult result{std::move(*answer.mutable_result()), {}, answer.parameters_step()};
  if (step.plan->pulls) result.parameters = read_parameters(step.plan->parameters.tensors(), step.into, reader);
  return result;
}

}  // namespace

StepEngine::StepEngine(std::shared_ptr<Connection> connection, const v1::Session& session, std::string worker,
                       std::uint64_t next_sequence)
    : connection_(std::move(connection)),
      session_(session.name()),
      worker_(std::move(worker)),
      layout_(session.layout()),
      next_(next_sequence),
      parameters_step_(session.step()) {}

StepEngine::~StepEngine() {
  close();
  {
    const std::lock_guard lock(mutex_);
    is_ended_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

StepResult StepEngine::step(const TensorViews& gradients, const StepOptions& options, const Deadline& deadline,
                            int window, std::optional<std::uint64_t> failures) {
  Lock lock(mutex_);
  const std::shared_ptr<PendingStep> step = enqueue(lock, gradients, options, deadline, window, failures);
  settle_until(lock, [&] { return step->is_settled; });
  return step->promise.get_future().get();
}

std::future<StepResult> StepEngine::submit(const TensorViews& gradients, const StepOptions& options,
                                           const Deadline& deadline, int window,
                                           std::optional<std::uint64_t> failures) {
  Lock lock(mutex_);
  if (!thread_.joinable()) {
    thread_ = std::thread([this] {
      Lock own(mutex_);
      settle_until(own, [this] { return is_ended_; });
    });
  }
  return enqueue(lock, gradients, options, deadline, window, failures)->promise.get_future();
}

void StepEngine::set_membership(std::uint64_t epoch, std::uint64_t next_sequence) {
  Lock lock(mutex_);
  changed_.wait(lock, [&] { return waiting_.empty(); });
  epoch_ = epoch;
  if (next_sequence > 0) next_ = next_sequence;
}

void StepEngine::close() {
  Lock lock(mutex_);
  if (!waiting_.empty()) {
    is_closing_ = true;
    if (channel_ != nullptr) channel_->cancel();
    changed_.notify_all();
    changed_.wait(lock, [&] { return waiting_.empty(); });
    is_closing_ = false;
  } else if (channel_ != nullptr) {
    grpc::Alarm alarm;
    alarm.Set(std::chrono::system_clock::now() + kHalfCloseTimeout, [channel = channel_](bool is_expired) {
      if (is_expired) channel->cancel();
    });
    channel_->half_close();
    channel_->finish();
    channel_.reset();
  }
}

/// Makes a step that has the next sequence.
std::shared_ptr<PendingStep> StepEngine::prepare(const TensorViews& gradients, const StepOptions& options,
                                                 const Deadline& deadline) {
  auto step = std::make_shared<PendingStep>();
  v1::StepStreamRequest first;
  v1::StepPlan& plan = *first.mutable_plan() = options.plan;
  v1::StepStart& start = *step->request.mutable_step() = options.start;
  plan.set_session(session_);
  for (std::string& name : layout_.collect(gradients, plan.gradient_dtype(), step->payload)) {
    plan.add_tensors(std::move(name));
  }
  for (const auto& [name, rows] : options.sparse) {
    const v1::TensorLayout& own = layout_.find(name);
    Shape shape(own.shape().begin(), own.shape().end());
    if (shape.empty()) throw rejection(v1::ERROR_REASON_SHAPE_MISMATCH, name, "the tensor has no rows");
    shape[0] = static_cast<std::int64_t>(rows.indices.size());
    check_shape(name, rows.values, shape);
    step->payload.add(name, rows.values,
                      plan.gradient_dtype() == v1::DATA_TYPE_UNSPECIFIED ? own.dtype() : plan.gradient_dtype());
    plan.add_sparse_tensors(name);
    *start.add_row_indices() = rows.indices.message();
  }
  if (gradients.empty() && options.sparse.empty()) {
    throw rejection(v1::ERROR_REASON_FIELD_REQUIRED, "gradients", "there is no gradient");
  }
  layout_.check_fillable(options.into);
  step->into = options.into;
  if (!options.into.empty()) plan.mutable_pull();
  if (!start.validate_only()) {  // such a step has no sequence
    plan.set_worker(worker_);
    plan.set_worker_epoch(epoch_);
    start.set_sequence(next_);
  }
  if (std::string encoded = first.SerializeAsString(); plan_ == nullptr || plan_->encoded != encoded) {
    plan_ = std::make_shared<Plan>(Plan{std::move(encoded), plan.has_pull(), {}});
  }
  step->plan = plan_;
  start.set_byte_count(step->payload.byte_count());
  if (epoch_ > 0 && !start.has_parameters_step()) start.set_parameters_step(parameters_step_);
  step->end = connection_->end_of(deadline, (plan.has_pull() ? 2 : 1) * step->payload.byte_count());
  return step;
}

/// Puts a step behind the others once the window has space, and writes it.
std::shared_ptr<PendingStep> StepEngine::enqueue(Lock& lock, const TensorViews& gradients, const StepOptions& options,
                                                 const Deadline& deadline, int window,
                                                 std::optional<std::uint64_t> failures) {
  const auto has_space = [&] { return waiting_.size() < static_cast<std::size_t>(window); };
  if (!changed_.wait_until(lock, system_time(connection_->end_of(deadline, layout_.byte_count())), has_space)) {
    throw Error(failure_with(grpc::StatusCode::DEADLINE_EXCEEDED, "earlier steps took too long", Applied::no));
  }
  if (failures && *failures != failures_) {
    throw Error(failure_with(grpc::StatusCode::ABORTED, "an earlier step of the stream failed", Applied::no));
  }
  std::shared_ptr<PendingStep> step = prepare(gradients, options, deadline);
  if (step->sequence() > 0) ++next_;
  waiting_.push_back(step);
  if (!is_writing_ && (sent_ > 0 || waiting_.size() == 1)) write(lock, kMaxWindow);  // not before earlier ones
  changed_.notify_all();
  return step;
}

/// Writes steps that are not sent, in order, on the channel, which is opened if there is none.
void StepEngine::write(Lock& lock, std::size_t limit) {
  is_writing_ = true;
  set_alarm(waiting_.front()->end);
  if (channel_ == nullptr) {
    channel_ = open_step_channel(*connection_);
    announced_.reset();
  }
  const std::shared_ptr<StreamCall> channel = channel_;
  while (channel_ == channel && sent_ < waiting_.size() && limit-- > 0) {
    const std::shared_ptr<PendingStep> step = waiting_[sent_++];
    const bool is_announced = std::exchange(announced_, step->plan) == step->plan;
    step->is_sent = true;
    {
      const Unlocked unlocked(lock);
      if (is_announced || channel->send(step->plan->encoded, {})) {  // what fails is not answered
        step->payload.send(*channel, step->request, v1::StepStreamRequest::kChunkFieldNumber);
      }
    }
    step->is_written = true;
    changed_.notify_all();
  }
  is_writing_ = false;
  changed_.notify_all();
}

/// Reads answers, unless another thread does, until something holds. Connects again if that helps.
void StepEngine::settle_until(Lock& lock, const std::function<bool()>& is_done) {
  while (!is_done()) {
    if (waiting_.empty() || is_reading_) {
      changed_.wait(lock);
      continue;
    }
    is_reading_ = true;
    const std::shared_ptr<PendingStep> step = waiting_.front();
    for (int attempts = 1; !step->is_settled; ++attempts) {
      try {
        exchange(lock, *step);
      } catch (const Error& error) {
        drop(lock);
        accept_error(lock, error.failure(), attempts);
      }
    }
    is_reading_ = false;
    changed_.notify_all();
  }
}

void StepEngine::exchange(Lock& lock, PendingStep& step) {
  changed_.wait(lock, [&] { return sent_ > 0 || !is_writing_; });
  if (is_closing_) throw Error(failure_with(grpc::StatusCode::CANCELLED, "the stream was closed"));
  if (sent_ == 0) write(lock, 1);
  set_alarm(step.end);
  const std::shared_ptr<StreamCall> channel = channel_;
  StepResult result;
  {
    const Unlocked unlocked(lock);
    result = receive_result(*channel, step);
  }
  changed_.wait(lock, [&] { return step.is_written; });  // the thread that wrote it uses its arrays no more
  if (step.plan->pulls) parameters_step_ = result.parameters_step;
  if (step.sequence() > 0) result.result.set_worker(worker_);
  waiting_.pop_front();
  --sent_;
  step.is_settled = true;
  step.promise.set_value(std::move(result));
}

/// Ends the channel, and waits until nothing reads the gradients. What was sent is to be sent again.
void StepEngine::drop(Lock& lock) {
  if (channel_ != nullptr) channel_->cancel();
  channel_.reset();
  sent_ = 0;
  changed_.wait(lock, [&] { return !is_writing_; });
  for (const std::shared_ptr<PendingStep>& step : waiting_) step->is_written = false;
}

/// Decides what follows from an error that ended the channel.
void StepEngine::accept_error(Lock& lock, Failure failure, int attempts) {
  const PendingStep& oldest = *waiting_.front();
  const std::uint64_t sequence = oldest.sequence(), expected = expected_sequence(failure);
  if (is_closing_) {
    failure = failure_with(grpc::StatusCode::CANCELLED, "the stream was closed");
  } else if (failure.reason == v1::ERROR_REASON_SEQUENCE_REUSED && sequence < unknown_below_ && expected > sequence) {
    next_ = expected;  // the step whose result stayed unknown was applied
    for (const std::shared_ptr<PendingStep>& step : waiting_) {
      if (step->sequence() > 0) step->request.mutable_step()->set_sequence(next_++);
    }
    return;
  } else {
    if (!failure.is_described && oldest.end <= Clock::now()) {
      failure = failure_with(grpc::StatusCode::DEADLINE_EXCEEDED, "no answer came before the deadline");
    }
    if (const auto pause = pause_before_repeat(failure, attempts, oldest.end)) {
      for (const Clock::time_point end = Clock::now() + *pause; Clock::now() < end && !is_closing_;) {
        const Unlocked unlocked(lock);
        connection_->sleep_while_connecting(std::min(end - Clock::now(), kConnectSlice));
      }
      return;
    }
  }
  reject(failure);
}

/// Fails the oldest step, and abandons those behind it.
void StepEngine::reject(const Failure& failure) {
  Failure own = failure;
  for (const std::shared_ptr<PendingStep>& step : waiting_) {
    own.applied = step->is_sent ? failure.applied : Applied::no;
    if (const std::uint64_t sequence = step->sequence(); sequence > 0) {
      next_ = std::min(next_, sequence);
      if (own.applied == Applied::unknown) unknown_below_ = std::max(unknown_below_, sequence + 1);
    }
    step->is_settled = true;
    step->promise.set_exception(std::make_exception_ptr(Error(own)));
    own = failure_with(grpc::StatusCode::ABORTED, "an earlier step failed: " + failure.message);
  }
  waiting_.clear();
  ++failures_;
  if (const std::uint64_t expected = expected_sequence(failure); expected > 0) next_ = expected;
}

/// Has the channel cancelled when the oldest step's deadline has passed. Most steps end before, so the alarm is set
/// again only when it goes off.
void StepEngine::set_alarm(Clock::time_point at) {
  if (at >= alarm_at_) return;
  alarm_at_ = at;
  alarm_.emplace().Set(system_time(at), [weak = weak_from_this()](bool is_expired) {
    const auto engine = weak.lock();
    if (engine == nullptr || !is_expired) return;
    const std::lock_guard lock(engine->mutex_);
    engine->alarm_at_ = Clock::time_point::max();
    if (engine->waiting_.empty()) return;
    if (const Clock::time_point end = engine->waiting_.front()->end; end > Clock::now()) {
      engine->set_alarm(end);
    } else if (engine->channel_ != nullptr) {
      engine->channel_->cancel();
    }
  });
}

}  // namespace optserve::internal
