#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "connection.h"
#include "messages.h"

namespace optserve::internal {

/// Carries the messages of one StepStream call, in order. One thread at a time sends, and one receives.
class StepChannel {
 public:
  StepChannel() = default;
  StepChannel(const StepChannel&) = delete;
  StepChannel& operator=(const StepChannel&) = delete;
  virtual ~StepChannel() = default;

  /// Sends a message; see Send.
  virtual bool send(const std::string& head, const std::vector<Piece>& pieces) = 0;
  /// Waits for a message; see Receiver::next.
  virtual google::protobuf::io::ZeroCopyInputStream& receive() = 0;
  /// Ends the call at once, from any thread.
  virtual void cancel() = 0;
  /// Half-closes the call when everything is answered, and waits for its end.
  virtual void finish() = 0;
};

/// A channel over gRPC.
class GrpcStepChannel final : public StepChannel {
 public:
  explicit GrpcStepChannel(const Connection& connection) {
    connection.prepare(context_, Clock::time_point::max());
    using Factory = grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, grpc::ByteBuffer>;
    const grpc::internal::RpcMethod method("/optserve.v1.SessionService/StepStream",
                                           grpc::internal::RpcMethod::BIDI_STREAMING, connection.channel());
    call_.reset(Factory::Create(connection.channel().get(), method, &context_));
  }

  bool send(const std::string& head, const std::vector<Piece>& pieces) override {
    return call_->Write(join(head, pieces));
  }
  google::protobuf::io::ZeroCopyInputStream& receive() override { return receiver_.next(*call_, context_); }
  void cancel() override { context_.TryCancel(); }
  void finish() override {
    call_->WritesDone();
    grpc::ByteBuffer rest;
    while (call_->Read(&rest)) continue;
    call_->Finish();  // any end is as good
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>> call_;
  Receiver receiver_;
};

}  // namespace optserve::internal
