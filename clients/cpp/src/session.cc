#include "optserve/session.h"

#include <ostream>

#include "connection.h"
#include "step_engine.h"

namespace optserve {
namespace {

using Sessions = v1::SessionService::Stub;
using Workers = v1::WorkerService::Stub;
using internal::rejection;

template <class Request>
Request request_of(const std::string& name) {
  Request request;
  request.set_name(name);
  return request;
}

template <class Request>
Request change_of(const std::string& name, const std::string& request_id = "") {
  auto request = request_of<Request>(name);
  request.set_request_id(request_id.empty() ? internal::random_name() : request_id);
  return request;
}

template <class Request>
Request change_of(const std::string& name, const ChangeOptions& options) {
  auto request = change_of<Request>(name, options.request_id);
  if (options.expected_step) request.set_expected_step(*options.expected_step);
  return request;
}

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
    throw rejection(v1::ERROR_REASON_OUT_OF_RANGE, "window",
                    "the window is " + std::to_string(window) + ", but must be from 1 to 64");
  }
  return {engine_, window};
}

void Session::close() { engine_->close(); }

v1::Session Session::get(Deadline deadline) const {
  return connection_->call(&Sessions::GetSession, request_of<v1::GetSessionRequest>(name()), deadline).session();
}

Parameters Session::pull(const ReadOptions& options, Deadline deadline) {
  engine_->layout().check_fillable(options.into);
  auto request = request_of<v1::PullParametersRequest>(name());
  *request.mutable_pull() = options.pull;
  if (options.if_newer_than) request.set_if_newer_than_step(*options.if_newer_than);
  if (options.newer_than) request.set_newer_than_step(*options.newer_than);
  Parameters found;
  const auto read = [&](internal::ChunkReader& reader) {
    v1::PullParametersResponse answer;
    reader.read(answer);
    found.step = answer.header().step();
    found.is_modified = !answer.header().not_modified();
    if (found.is_modified) found.tensors = read_parameters(answer.header().layout(), options.into, reader);
  };
  connection_->retry(deadline, engine_->layout().byte_count(), [&](grpc::ClientContext& context) {
    connection_->download(context, "/optserve.v1.SessionService/PullParameters", request, internal::kChunkField, read);
  });
  if (found.is_modified) engine_->note_parameters(found.step);
  return found;
}

v1::Session Session::push(const TensorViews& values, const PushOptions& options, Deadline deadline) {
  auto header = change_of<v1::PushHeader>(name(), options);
  internal::Payload payload;
  for (std::string& tensor : engine_->layout().collect(values, options.wire_dtype, payload)) {
    header.add_tensors(std::move(tensor));
  }
  header.set_wire_dtype(options.wire_dtype);
  header.set_reset_state(options.reset_state);
  header.set_byte_count(payload.byte_count());
  v1::PushParametersResponse response;
  connection_->retry(deadline, payload.byte_count(), [&](grpc::ClientContext& context) {
    connection_->upload(context, "/optserve.v1.SessionService/PushParameters", response, [&](const auto& send) {
      payload.send(internal::encode_field(internal::kHeaderField, header), internal::kChunkField, send);
    });
  });
  return response.session();
}

v1::ReportMetricsResponse Session::report_metrics(const std::map<std::string, double>& metrics,
                                                  const ChangeOptions& options, Deadline deadline) {
  auto request = change_of<v1::ReportMetricsRequest>(name(), options);
  for (const auto& [metric, value] : metrics) {
    v1::Metric* added = request.add_metrics();
    added->set_name(metric);
    added->set_value(value);
  }
  return connection_->call(&Sessions::ReportMetrics, request, deadline);
}

v1::UpdateSessionResponse Session::update(const v1::SessionSpec& spec, const ChangeOptions& options,
                                          Deadline deadline) {
  auto request = change_of<v1::UpdateSessionRequest>(name(), options);
  *request.mutable_spec() = spec;
  return connection_->call(&Sessions::UpdateSession, request, deadline);
}

void Session::watch(const std::function<bool(const v1::WatchSessionResponse&)>& on_event, Deadline deadline) const {
  grpc::ClientContext context;
  connection_->prepare(context, connection_->end_of(deadline));
  const auto call = connection_->stub<Sessions>().WatchSession(&context, request_of<v1::WatchSessionRequest>(name()));
  v1::WatchSessionResponse event;
  while (call->Read(&event)) {
    if (!on_event(event)) return;
  }
  internal::check(call->Finish(), context);
}

void Session::delete_session(Deadline deadline) {
  close();
  connection_->call(&Sessions::DeleteSession, change_of<v1::DeleteSessionRequest>(name()), deadline);
}

v1::Snapshot Session::create_snapshot(Deadline deadline) {
  const auto request = change_of<v1::CreateSnapshotRequest>(name());
  return connection_->call(&Sessions::CreateSnapshot, request, deadline).snapshot();
}

std::vector<v1::Snapshot> Session::list_snapshots(Deadline deadline) const {
  const auto answer =
      connection_->call(&Sessions::ListSnapshots, request_of<v1::ListSnapshotsRequest>(name()), deadline);
  return {answer.snapshots().begin(), answer.snapshots().end()};
}

void Session::delete_snapshot(std::int64_t step, Deadline deadline) {
  connection_->call(&Sessions::DeleteSnapshot, change_of<v1::DeleteSnapshotRequest>(snapshot_name(step)), deadline);
}

v1::Session Session::restore_snapshot(std::int64_t step, bool weights_only, const ChangeOptions& options,
                                      Deadline deadline) {
  auto request = change_of<v1::RestoreSnapshotRequest>(snapshot_name(step), options);
  request.set_weights_only(weights_only);
  return connection_->call(&Sessions::RestoreSnapshot, request, deadline).session();
}

Session Session::fork(const std::string& id, std::optional<std::int64_t> step, Deadline deadline) {
  auto request = change_of<v1::ForkSessionRequest>(snapshot_name(step));
  request.set_session_id(id);
  return {connection_, connection_->call(&Sessions::ForkSession, request, deadline).session(), "", 1};
}

std::int64_t Session::export_to(std::ostream& file, std::optional<std::int64_t> step, Deadline deadline) const {
  grpc::ClientContext context;
  connection_->prepare(context, connection_->end_of(deadline, engine_->layout().byte_count()));
  v1::ExportSnapshotResponse answer;
  std::vector<char> buffer(internal::kChunkBytes);
  connection_->download(context, "/optserve.v1.SessionService/ExportSnapshot",
                        request_of<v1::ExportSnapshotRequest>(snapshot_name(step)), internal::kChunkField,
                        [&](internal::ChunkReader& reader) {
                          reader.read(answer);
                          for (std::size_t left = answer.header().byte_count(); left > 0;) {
                            const std::size_t some = std::min(left, buffer.size());
                            reader.read(buffer.data(), some);
                            file.write(buffer.data(), static_cast<std::streamsize>(some));
                            left -= some;
                          }
                        });
  if (!file) throw rejection(v1::ERROR_REASON_UNSPECIFIED, "file", "the file cannot be written");
  return answer.header().step();
}

v1::JoinSessionResponse Session::join(std::optional<std::chrono::duration<double>> lease, Deadline deadline) {
  v1::JoinSessionRequest request;
  request.set_session(name());
  request.set_worker(worker());
  if (lease) request.set_lease_seconds(lease->count());
  auto joined = connection_->call(&Workers::JoinSession, request, deadline);
  engine_->set_membership(joined.epoch(), joined.next_sequence());
  return joined;
}

void Session::renew_lease(Deadline deadline) {
  connection_->call(&Workers::RenewLease, member_request<v1::RenewLeaseRequest>(), deadline);
}

void Session::leave(Deadline deadline) {
  connection_->call(&Workers::LeaveSession, member_request<v1::LeaveSessionRequest>(), deadline);
  engine_->set_membership(0, 0);
}

std::vector<v1::Worker> Session::list_workers(Deadline deadline) const {
  v1::ListWorkersRequest request;
  request.set_session(name());
  const auto answer = connection_->call(&Workers::ListWorkers, request, deadline);
  return {answer.workers().begin(), answer.workers().end()};
}

/// The session's name, or that of the snapshot of a step.
std::string Session::snapshot_name(std::optional<std::int64_t> step) const {
  return step ? name() + "/snapshots/" + std::to_string(*step) : name();
}

template <class Request>
Request Session::member_request() const {
  Request request;
  request.set_session(name());
  request.set_worker(worker());
  request.set_worker_epoch(engine_->epoch());
  return request;
}

}  // namespace optserve
