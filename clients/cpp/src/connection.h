#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "failures.h"
#include "messages.h"
#include "optserve/client.h"

namespace optserve::internal {

using Clock = Deadline::Clock;

/// A name that no other client has.
std::string random_name();

/// The pause before a repeat; none if a repeat has no prospect before the end, and then the failure says how often the
/// call was tried.
std::optional<Clock::duration> pause_before_repeat(Failure& failure, int attempts, Clock::time_point end);

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

  /// The metadata and the deadline of a call.
  std::unique_ptr<grpc::ClientContext> make_context(Clock::time_point end) const;

  /// Sleeps between two attempts. gRPC connects meanwhile, which it does only in a call that waits: between calls that
  /// fail at once, it looks after a connection every five seconds alone.
  void sleep_while_connecting(Clock::duration pause) const;

  /// Makes attempts, with the time when they end, until one does not throw, or a repeat has no prospect.
  void retry(const Deadline& deadline, std::size_t byte_count,
             const std::function<void(Clock::time_point end)>& attempt) const;

 private:
  std::string target_, token_;
  std::chrono::milliseconds timeout_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace optserve::internal
