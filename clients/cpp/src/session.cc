#include "optserve/session.h"

#include "connection.h"
#include "optserve/call.h"
#include "optserve/v1/session_service.grpc.pb.h"
#include "optserve/v1/worker_service.grpc.pb.h"
#include "step_engine.h"

namespace optserve {
namespace {

using Sessions = v1::SessionService::Stub;
using Workers = v1::WorkerService::Stub;
using internal::call;

}  // namespace

StepStream::StepStream(std::shared_ptr<internal::StepEngine> engine, int window)
    : engine_(std::move(engine)), window_(window), failures_(engine_->failures()) {}

std::future<StepResult> StepStream::submit(const TensorViews& gradients, const StepOptions& options,
                                           Deadline deadline) {
  return engine_->submit(gradients, options, deadline, window_, failures_);
}

StepResult StepStream::step(const TensorViews& gradients, const StepOptions& options, Deadline deadline) {
  return engine_->step(gradients, options, deadline, window_, failures_);
}

Session::Session(std::shared_ptr<internal::Connection> connection, v1::Session info, const std::string& worker,
                 std::uint64_t next_sequence)
    : connection_(std::move(connection)),
      info_(std::move(info)),
      engine_(std::make_shared<internal::StepEngine>(
          connection_, info_, worker.empty() ? internal::random_name() : worker, next_sequence)) {}

const std::string& Session::worker() const { return engine_->worker(); }

StepResult Session::step(const TensorViews& gradients, const StepOptions& options, Deadline deadline) {
  return engine_->step(gradients, options, deadline, 1);
}

StepStream Session::stream(int window) {
  if (window < 1 || window > internal::kMaxWindow) {
    throw internal::rejection(v1::ERROR_REASON_OUT_OF_RANGE, "window",
                              "the window is " + std::to_string(window) + ", but must be from 1 to 64");
  }
  return {engine_, window};
}

void Session::close() { engine_->close(); }

Parameters Session::pull(v1::PullParametersRequest request, const MutableTensorViews& into, Deadline deadline) {
  engine_->layout().check_fillable(into);
  request.set_name(name());
  Parameters found;
  connection_->retry(deadline, engine_->layout().byte_count(), [&](auto end) {
    internal::StreamCall call(*connection_, "/optserve.v1.SessionService/PullParameters", end);
    call.send(request.SerializeAsString(), {});
    call.half_close();
    v1::PullParametersResponse answer;
    internal::ChunkReader reader(call, answer.kChunkFieldNumber);
    reader.read(answer);
    found.step = answer.header().step();
    found.is_modified = !answer.header().not_modified();
    if (found.is_modified) found.tensors = read_parameters(answer.header().layout(), into, reader);
    call.finish();
  });
  if (found.is_modified) engine_->note_parameters(found.step);
  return found;
}

v1::Session Session::push(const TensorViews& values, v1::PushHeader header, Deadline deadline) {
  internal::Payload payload;
  v1::PushParametersRequest request;
  for (std::string& tensor : engine_->layout().collect(values, header.wire_dtype(), payload)) {
    header.add_tensors(std::move(tensor));
  }
  header.set_name(name());
  if (header.request_id().empty()) header.set_request_id(internal::random_name());
  header.set_byte_count(payload.byte_count());
  *request.mutable_header() = std::move(header);
  v1::PushParametersResponse response;
  connection_->retry(deadline, payload.byte_count(), [&](auto end) {
    internal::StreamCall call(*connection_, "/optserve.v1.SessionService/PushParameters", end);
    payload.send(call, request, request.kChunkFieldNumber);
    call.half_close();
    response.ParseFromZeroCopyStream(&call.receive());
    call.finish();
  });
  return response.session();
}

void Session::watch(const std::function<bool(const v1::WatchSessionResponse&)>& on_event, Deadline deadline) const {
  const auto context = connection_->make_context(connection_->end_of(deadline));
  v1::WatchSessionRequest request;
  request.set_name(name());
  const auto call = Sessions(connection_->channel()).WatchSession(context.get(), request);
  for (v1::WatchSessionResponse event; call->Read(&event);) {
    if (!on_event(event)) return;
  }
  internal::check(call->Finish(), *context);
}

void Session::delete_session(Deadline deadline) {
  close();
  v1::DeleteSessionRequest request;
  request.set_name(name());
  call(*connection_, &Sessions::DeleteSession, request, deadline);
}

Session Session::fork(v1::ForkSessionRequest request, Deadline deadline) {
  if (request.name().empty()) request.set_name(name());
  return {connection_, call(*connection_, &Sessions::ForkSession, request, deadline).session(), "", 1};
}

v1::JoinSessionResponse Session::join(std::optional<std::chrono::duration<double>> lease, Deadline deadline) {
  v1::JoinSessionRequest request;
  request.set_session(name());
  request.set_worker(worker());
  if (lease) request.set_lease_seconds(lease->count());
  auto joined = call(*connection_, &Workers::JoinSession, request, deadline);
  engine_->set_membership(joined.epoch(), joined.next_sequence());
  return joined;
}

void Session::leave(Deadline deadline) {
  v1::LeaveSessionRequest request;
  request.set_session(name());
  request.set_worker(worker());
  request.set_worker_epoch(engine_->epoch());
  call(*connection_, &Workers::LeaveSession, request, deadline);
  engine_->set_membership(0, 0);
}

}  // namespace optserve
