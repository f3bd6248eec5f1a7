#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/sync_stream.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "failures.h"
#include "optserve/deadline.h"

namespace optserve::internal {

class Connection;

/// A run of bytes in memory.
struct Piece {
  const void* data;
  std::size_t size;
};

/// A call with any number of messages both ways, which are encoded here: chunks are copied once, from the caller's
/// arrays and to them. One thread at a time sends, and one receives.
class StreamCall {
 public:
  /// @param name the method, /{service}/{method}
  StreamCall(const Connection& connection, const char* name, Deadline::Clock::time_point end);
  virtual ~StreamCall() = default;

  /// Sends a message: what is encoded, and then runs of bytes, which are not used after the call. Returns false if the
  /// call has ended.
  virtual bool send(const std::string& head, const std::vector<Piece>& pieces);
  /// Says that no more is sent.
  virtual void half_close() { call_->WritesDone(); }
  /// Waits for a message; it is valid until the next call.
  ///
  /// @throws Error if the call has ended
  virtual google::protobuf::io::ZeroCopyInputStream& receive();
  /// Ends the call at once, from any thread.
  virtual void cancel() { context_->TryCancel(); }
  /// Waits for the end of a call whose answer is complete. Without that, the server sees it as cancelled.
  void finish();

 private:
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>> call_;
  grpc::ByteBuffer buffer_;
  std::optional<grpc::ProtoBufferReader> reader_;
};

}  // namespace optserve::internal
