#include "optserve/client.h"

#include <algorithm>
#include <istream>
#include <ostream>

#include "connection.h"
#include "optserve/v1/session_service.grpc.pb.h"

namespace optserve {
namespace {

using Sessions = v1::SessionService::Stub;

/// Values of a new session in more bytes are uploaded after it is created.
constexpr std::size_t kInlineBytes = std::size_t{1} << 20;
constexpr std::chrono::seconds kCleanupTimeout{5};

}  // namespace

v1::ParameterInit parameter(const std::string& name, const TensorView& value) {
  v1::ParameterInit init;
  init.set_name(name);
  *init.mutable_value() = value.message();
  return init;
}

v1::ParameterInit parameter(const std::string& name, const v1::InitializerSpec& initializer, const Shape& shape,
                            v1::DataType dtype) {
  v1::ParameterInit init;
  init.set_name(name);
  init.mutable_initializer()->set_dtype(dtype);
  init.mutable_initializer()->mutable_shape()->Add(shape.begin(), shape.end());
  *init.mutable_initializer()->mutable_spec() = initializer;
  return init;
}

Client::Client(const std::string& target, const ClientOptions& options)
    : connection_(std::make_shared<internal::Connection>(target, options)) {}

Session Client::create_session(const v1::SessionSpec& spec, std::vector<v1::ParameterInit> parameters,
                               const SessionOptions& options, Deadline deadline) {
  std::size_t byte_count = 0;
  for (const v1::ParameterInit& init : parameters) byte_count += init.value().data().size();
  Tensors uploads;
  v1::CreateSessionRequest request;
  request.set_session_id(options.id);
  *request.mutable_spec() = spec;
  request.set_seed(options.seed);
  for (v1::ParameterInit& init : parameters) {
    if (init.has_value() && byte_count > kInlineBytes) {
      v1::Tensor& value = uploads[init.name()] = std::move(*init.mutable_value());
      init.mutable_upload()->set_dtype(value.dtype());
      *init.mutable_upload()->mutable_shape() = value.shape();
    }
    *request.add_parameters() = std::move(init);
  }
  const Deadline end = connection_->end_of(deadline, byte_count);
  Session session(connection_, call(&Sessions::CreateSession, request, end).session(), options.worker, 1);
  try {
    if (!uploads.empty()) session.push({uploads.begin(), uploads.end()}, {}, end);
  } catch (const Error&) {
    try {
      session.delete_session(kCleanupTimeout);
    } catch (const Error&) {  // the first error says more
    }
    throw;
  }
  return session;
}

Session Client::open_session(const std::string& name, const std::string& worker, Deadline deadline) {
  v1::GetSessionRequest request;
  request.set_name(name.rfind("sessions/", 0) == 0 ? name : "sessions/" + name);
  request.set_worker(worker);
  const auto answer = call(&Sessions::GetSession, request, deadline);
  return {connection_, answer.session(), worker, std::max<std::uint64_t>(answer.next_sequence(), 1)};
}

Session Client::import_session(std::istream& file, const std::string& id, Deadline deadline) {
  file.seekg(0, std::ios::end);
  const auto byte_count = static_cast<std::uint64_t>(file.tellg());
  v1::ImportSnapshotRequest first;
  first.mutable_header()->set_request_id(internal::random_name());
  first.mutable_header()->set_session_id(id);
  first.mutable_header()->set_byte_count(byte_count);
  v1::ImportSnapshotResponse response;
  connection_->retry(deadline, byte_count, [&](auto end) {
    const auto context = connection_->make_context(end);
    const auto call = Sessions(channel()).ImportSnapshot(context.get(), &response);
    v1::ImportSnapshotRequest request = first;
    file.seekg(0);
    for (std::uint64_t offset = 0; call->Write(request) && offset < byte_count;) {
      v1::Chunk& chunk = *request.mutable_chunk();
      chunk.set_byte_offset(offset);
      chunk.mutable_data()->resize(std::min<std::uint64_t>(byte_count - offset, internal::kChunkBytes));
      file.read(chunk.mutable_data()->data(), static_cast<std::streamsize>(chunk.data().size()));
      if (!file) throw internal::rejection(v1::ERROR_REASON_UNSPECIFIED, "file", "the file cannot be read");
      offset += chunk.data().size();
      request.clear_header();
    }
    call->WritesDone();
    internal::check(call->Finish(), *context);
  });
  return {connection_, response.session(), "", 1};
}

std::int64_t Client::export_session(const std::string& name, std::ostream& file, Deadline deadline) const {
  const auto context = connection_->make_context(connection_->end_of(deadline));
  v1::ExportSnapshotRequest request;
  request.set_name(name);
  const auto call = Sessions(channel()).ExportSnapshot(context.get(), request);
  std::int64_t step = 0;
  for (v1::ExportSnapshotResponse answer; call->Read(&answer);) {
    if (answer.has_header()) step = answer.header().step();
    file << answer.chunk().data();
  }
  internal::check(call->Finish(), *context);
  if (!file) throw internal::rejection(v1::ERROR_REASON_UNSPECIFIED, "file", "the file cannot be written");
  return step;
}

}  // namespace optserve
