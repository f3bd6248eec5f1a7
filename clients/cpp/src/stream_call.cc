#include "stream_call.h"

#include <grpc/slice.h>

#include <algorithm>
#include <cstring>

#include "connection.h"

namespace optserve::internal {

StreamCall::StreamCall(const Connection& connection, const char* name, Clock::time_point end)
    : context_(connection.make_context(end)) {
  using Factory = grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, grpc::ByteBuffer>;
  const grpc::internal::RpcMethod method(name, grpc::internal::RpcMethod::BIDI_STREAMING, connection.channel());
  call_.reset(Factory::Create(connection.channel().get(), method, context_.get()));
}

bool StreamCall::send(const std::string& head, const std::vector<Piece>& pieces) {
  std::size_t size = head.size();
  for (const Piece& piece : pieces) size += piece.size;
  grpc_slice slice = grpc_slice_malloc(size);
  std::uint8_t* to = std::copy(head.begin(), head.end(), GRPC_SLICE_START_PTR(slice));
  for (const Piece& piece : pieces) {
    std::memcpy(to, piece.data, piece.size);
    to += piece.size;
  }
  const grpc::Slice whole(slice, grpc::Slice::STEAL_REF);
  return call_->Write(grpc::ByteBuffer(&whole, 1));
}

google::protobuf::io::ZeroCopyInputStream& StreamCall::receive() {
  reader_.reset();
  buffer_.Clear();  // not held while the next message arrives
  if (!call_->Read(&buffer_)) {
    check(call_->Finish(), *context_);
    throw Error(failure_with(grpc::StatusCode::UNAVAILABLE, "the answer ended early"));
  }
  return reader_.emplace(&buffer_);
}

void StreamCall::finish() {
  for (grpc::ByteBuffer rest; call_->Read(&rest);) rest.Clear();
  call_->Finish();
}

}  // namespace optserve::internal
