#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/sync_stream.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "failures.h"
#include "messages.h"
#include "optserve/client.h"

namespace optserve::internal {

using Clock = Deadline::Clock;

/// A name that no other client has.
std::string random_name();

/// The pause before a repeat.
Clock::duration pause_after(int attempts, const Failure& failure);

/// Adds to a failure how often the call was tried.
void note_attempts(Failure& failure, int attempts);

/// gRPC's deadline of a time.
std::chrono::system_clock::time_point system_time(Clock::time_point at);

/// A connection to a server: the channel, and calls that are repeated.
class Connection {
 public:
  Connection(const std::string& target, const ClientOptions& options);

  const std::string& target() const { return target_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  /// Whether step streams ask for data connections.
  std::atomic<bool> uses_data_connections;

  /// When a call is given up that transfers about as many bytes.
  Clock::time_point end_of(const Deadline& deadline, std::size_t byte_count = 0) const;

  /// Sets the metadata and the deadline of a call.
  void prepare(grpc::ClientContext& context, Clock::time_point end) const;

  /// Makes attempts until one does not throw, or a repeat has no prospect.
  void retry(const Deadline& deadline, std::size_t byte_count,
             const std::function<void(grpc::ClientContext&)>& attempt) const;

  // The following calls are made as the generated stubs do, but for messages that are encoded here: chunks are copied
  // once, from the caller's arrays and to them.

  /// Makes a call with one request and many answers.
  ///
  /// @param field number of the chunk in the answers
  template <class Request>
  void download(grpc::ClientContext& context, const char* name, const Request& request, int field,
                const std::function<void(ChunkReader&)>& read) const {
    using Factory = grpc::internal::ClientReaderFactory<grpc::ByteBuffer>;
    const grpc::internal::RpcMethod method(name, grpc::internal::RpcMethod::SERVER_STREAMING, channel_);
    const std::unique_ptr<grpc::ClientReader<grpc::ByteBuffer>> call(
        Factory::Create(channel_.get(), method, &context, request));
    Receiver receiver;
    {
      ChunkReader reader(
          field, [&]() -> auto& { return receiver.next(*call, context); });
      read(reader);
    }
    grpc::ByteBuffer rest;
    while (call->Read(&rest)) continue;
    check(call->Finish(), context);
  }

  /// Makes a call with many requests and one answer.
  template <class Response>
  void upload(grpc::ClientContext& context, const char* name, Response& response,
              const std::function<void(const Send&)>& write) const {
    using Factory = grpc::internal::ClientWriterFactory<grpc::ByteBuffer>;
    const grpc::internal::RpcMethod method(name, grpc::internal::RpcMethod::CLIENT_STREAMING, channel_);
    const std::unique_ptr<grpc::ClientWriter<grpc::ByteBuffer>> call(
        Factory::Create(channel_.get(), method, &context, &response));
    write([&](const std::string& head, const std::vector<Piece>& pieces) { return call->Write(join(head, pieces)); });
    call->WritesDone();
    check(call->Finish(), context);
  }

 private:
  std::string target_, token_;
  std::chrono::milliseconds timeout_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace optserve::internal
