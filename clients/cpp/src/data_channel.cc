#include "data_channel.h"

#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <mutex>
#include <optional>

// Level 3 of the contract. A client without it makes a StreamCall in place of this one.

namespace optserve::internal {
namespace {

using google::protobuf::io::ZeroCopyInputStream;

constexpr char kMethod[] = "/optserve.v1.SessionService/StepStream";
constexpr char kGreeting[] = "optserve data 1\n";
constexpr char kAccepted = 1;
constexpr std::size_t kPrefixBytes = 5, kBufferBytes = std::size_t{128} << 10;
constexpr std::size_t kMaxRuns = 512;  // systems take about a thousand at once
constexpr timeval kConnectTimeout{1, 0};

Error lost() { return Error(failure_with(grpc::StatusCode::UNAVAILABLE, "the data connection was lost")); }

/// Host and port of a gRPC target that is one address.
std::optional<std::pair<std::string, std::string>> parse_target(std::string target) {
  if (target.rfind("dns:", 0) == 0) target.erase(0, std::max(target.rfind('/') + 1, std::size_t{4}));
  if (target.rfind("ipv4:", 0) == 0 || target.rfind("ipv6:", 0) == 0) target.erase(0, 5);
  const std::size_t colon = target.rfind(':');
  if (colon == std::string::npos || target.find_first_not_of("0123456789", colon + 1) != std::string::npos) return {};
  std::string host = target.substr(0, colon);
  const bool is_bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (is_bracketed) host = host.substr(1, host.size() - 2);
  if (host.empty() || host.find_first_of(is_bracketed ? "/,[]" : "/,[]:") != std::string::npos) return {};
  return std::pair(host, target.substr(colon + 1));
}

/// A TCP connection; -1 if there is none.
class Socket {
 public:
  Socket() = default;
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }

  /// Connects, and shows a ticket.
  bool connect(const std::string& host, const v1::DataConnectionOffer& offer) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (getaddrinfo(host.c_str(), std::to_string(offer.port()).c_str(), &hints, &found) != 0) return false;
    const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, freeaddrinfo);
    for (const addrinfo* address = found; address != nullptr && fd_ < 0; address = address->ai_next) {
      fd_ = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
      set_timeouts(kConnectTimeout);
      if (::connect(fd_, address->ai_addr, address->ai_addrlen) != 0) close(std::exchange(fd_, -1));
    }
    const int on = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd_, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    const std::string hello = kGreeting + offer.ticket();
    char answer = 0;
    if (!send({{hello.data(), hello.size()}}) || receive(&answer, 1) != 1 || answer != kAccepted) return false;
    set_timeouts({});
    return true;
  }

  /// Sends runs of bytes.
  bool send(const std::vector<Piece>& pieces) const {
    std::array<iovec, kMaxRuns> runs;
    for (auto next = pieces.begin(); next != pieces.end();) {
      msghdr message{};
      message.msg_iov = runs.data();
      for (; next != pieces.end() && message.msg_iovlen < kMaxRuns; ++next) {
        runs[message.msg_iovlen++] = {const_cast<void*>(next->data), next->size};
      }
      while (message.msg_iovlen > 0) {
        const ssize_t sent = sendmsg(fd_, &message, MSG_NOSIGNAL);
        if (sent < 0) return false;
        for (auto left = static_cast<std::size_t>(sent); message.msg_iovlen > 0;) {
          iovec& run = *message.msg_iov;
          const std::size_t some = std::min(left, run.iov_len);
          run = {static_cast<char*>(run.iov_base) + some, run.iov_len - some};
          left -= some;
          if (run.iov_len > 0) break;
          ++message.msg_iov;
          --message.msg_iovlen;
        }
      }
    }
    return true;
  }

  /// Receives some bytes; 0 at the end of the connection, or less if it is lost.
  ssize_t receive(void* to, std::size_t size) const { return recv(fd_, to, size, 0); }
  /// Ends one direction or both, from any thread.
  void shut(int how) const { shutdown(fd_, how); }

 private:
  void set_timeouts(timeval timeout) const {
    setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  }

  int fd_ = -1;
};

/// The messages that come over a connection, one at a time.
class SocketInput final : public ZeroCopyInputStream {
 public:
  explicit SocketInput(const Socket& socket) : socket_(socket), buffer_(kBufferBytes) {}

  /// Waits for the next message; false at the end of the connection.
  bool begin() {
    while (left_ > 0) skip_window();
    std::array<unsigned char, kPrefixBytes> prefix{};
    for (std::size_t i = 0; i < kPrefixBytes; ++i) {
      if (at_ == end_ && !receive()) {
        if (i > 0) throw lost();
        return false;
      }
      prefix[i] = static_cast<unsigned char>(buffer_[at_++]);
    }
    for (std::size_t i = 1; i < kPrefixBytes; ++i) left_ = left_ << 8 | prefix[i];
    return true;
  }

  bool Next(const void** data, int* size) override {
    if (left_ == 0) return false;
    if (at_ == end_ && !receive()) throw lost();
    const std::size_t some = std::min(left_, end_ - at_);
    *data = &buffer_[at_];
    *size = static_cast<int>(some);
    at_ += some;
    left_ -= some;
    return true;
  }
  void BackUp(int count) override {
    at_ -= static_cast<std::size_t>(count);
    left_ += static_cast<std::size_t>(count);
  }
  bool Skip(int) override { return false; }         // not called
  int64_t ByteCount() const override { return 0; }  // not called

 private:
  void skip_window() {
    const void* data = nullptr;
    int size = 0;
    Next(&data, &size);
  }
  bool receive() {
    const ssize_t received = socket_.receive(buffer_.data(), buffer_.size());
    if (received < 0) throw lost();
    at_ = 0;
    end_ = static_cast<std::size_t>(received);
    return received > 0;
  }

  const Socket& socket_;
  std::vector<char> buffer_;
  std::size_t at_ = 0, end_ = 0;  // of what is received and not read
  std::size_t left_ = 0;          // of the message
};

/// A channel over a data connection, which is made with the first message; over gRPC if there is none.
///
/// The call carries the first plan, its answer, and how the stream ends.
class DataStepChannel final : public StreamCall {
 public:
  DataStepChannel(Connection& connection, std::string host, std::string port)
      : StreamCall(connection, kMethod, Clock::time_point::max()),
        connection_(connection),
        host_(std::move(host)),
        port_(std::move(port)) {}

  bool send(const std::string& head, const std::vector<Piece>& pieces) override {
    if (!is_open_) {
      open(head);
      return failure_ == nullptr;
    }
    if (!is_connected_) return StreamCall::send(head, pieces);
    std::size_t size = head.size();
    for (const Piece& piece : pieces) size += piece.size;
    std::array<char, kPrefixBytes> prefix{};
    for (std::size_t i = 1; i < kPrefixBytes; ++i) prefix[i] = static_cast<char>(size >> (8 * (kPrefixBytes - 1 - i)));
    std::vector<Piece> all{{prefix.data(), kPrefixBytes}, {head.data(), head.size()}};
    all.insert(all.end(), pieces.begin(), pieces.end());
    return socket_.send(all);
  }

  ZeroCopyInputStream& receive() override {
    {
      std::unique_lock lock(mutex_);
      opened_.wait(lock, [&] { return is_open_; });
    }
    if (failure_ != nullptr) std::rethrow_exception(failure_);
    if (!planned_.empty()) {
      message_ = std::exchange(planned_, "");
      return array_.emplace(message_.data(), static_cast<int>(message_.size()));
    }
    if (!is_connected_) return StreamCall::receive();
    if (!input_.begin()) check_end();
    return input_;
  }

  void cancel() override {
    StreamCall::cancel();
    const std::lock_guard lock(mutex_);
    is_cancelled_ = true;
    if (is_connected_) socket_.shut(SHUT_RDWR);
  }

  void half_close() override {
    if (is_connected_) socket_.shut(SHUT_WR);
    StreamCall::half_close();
  }

 private:
  /// Sends the first plan, and makes the connection.
  void open(const std::string& plan) {
    std::exception_ptr failure;
    bool is_connected = false;
    try {
      is_connected = StreamCall::send(plan, {}) && negotiate();
    } catch (const Error&) {
      failure = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    is_open_ = true;
    failure_ = failure;
    is_connected_ = is_connected;
    if (is_connected && is_cancelled_) socket_.shut(SHUT_RDWR);
    opened_.notify_all();
  }

  bool negotiate() {
    v1::StepStreamRequest request;
    request.mutable_data_connection();
    StreamCall::send(request.SerializeAsString(), {});
    v1::StepStreamResponse answer;
    answer.ParseFromZeroCopyStream(&StreamCall::receive());
    answer.SerializeToString(&planned_);
    try {
      answer.ParseFromZeroCopyStream(&StreamCall::receive());
    } catch (const Error& error) {
      if (error.reason() != v1::ERROR_REASON_STREAM_PROTOCOL) throw;
      connection_.uses_data_connections = false;  // a server without this level
      throw Error(failure_with(grpc::StatusCode::UNAVAILABLE, error.what()));
    }
    const v1::DataConnectionOffer& offer = answer.data_connection();
    if (offer.port() == 0 || std::to_string(offer.server_port()) != port_ || !socket_.connect(host_, offer)) {
      connection_.uses_data_connections = false;
      return false;
    }
    request.mutable_data_connection()->set_ticket(offer.ticket());
    return StreamCall::send(request.SerializeAsString(), {});
  }

  /// Throws what the call says of the end of the connection.
  [[noreturn]] void check_end() {
    try {
      StreamCall::receive();
    } catch (const Error& error) {
      if (error.reason() == v1::ERROR_REASON_STREAM_TRUNCATED) throw lost();  // of bytes that were sent all the same
      throw;
    }
    throw malformed("came over a call that has a data connection");
  }

  Connection& connection_;
  const std::string host_, port_;
  Socket socket_;
  SocketInput input_{socket_};
  std::mutex mutex_;
  std::condition_variable opened_;
  // Set when it is opened, by the thread that sends.
  bool is_open_ = false, is_connected_ = false, is_cancelled_ = false;
  std::exception_ptr failure_;
  std::string planned_, message_;
  std::optional<google::protobuf::io::ArrayInputStream> array_;
};

}  // namespace

std::shared_ptr<StreamCall> open_step_channel(Connection& connection) {
  if (const auto address = parse_target(connection.target()); address && connection.uses_data_connections) {
    return std::make_shared<DataStepChannel>(connection, address->first, address->second);
  }
  return std::make_shared<StreamCall>(connection, kMethod, Clock::time_point::max());
}

}  // namespace optserve::internal
