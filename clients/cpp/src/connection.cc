#include "connection.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <thread>

#include "optserve/call.h"
#include "service_config.h"

namespace optserve::internal {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstPause{100}, kLongestPause{1000};
constexpr double kBytesPerSecond = 10e6;  // assumed of a slow network, if the caller states no deadline
constexpr int kConnectTimeoutMs = 5'000;
// More often than balancers forget a silent connection (350 s), less often than servers reject (300 s).
constexpr int kKeepaliveMs = 330'000, kKeepaliveTimeoutMs = 20'000;

std::string value_or_environment(const std::string& value, const char* name) {
  const char* variable = std::getenv(name);
  return !value.empty() || variable == nullptr ? value : variable;
}

/// TLS with the authorities that the environment names; null if it names none.
std::shared_ptr<grpc::ChannelCredentials> credentials_of_environment() {
  const std::string path = value_or_environment("", "OPTSERVE_CA");
  if (path.empty()) return nullptr;
  std::ifstream file(path, std::ios::binary);
  if (!file) throw rejection(v1::ERROR_REASON_UNSPECIFIED, "OPTSERVE_CA", "the file " + path + " cannot be read");
  grpc::SslCredentialsOptions tls;
  tls.pem_root_certs.assign(std::istreambuf_iterator<char>(file), {});
  return grpc::SslCredentials(tls);
}

grpc::ChannelArguments arguments() {
  grpc::ChannelArguments found;
  found.SetMaxReceiveMessageSize(-1);
  found.SetMaxSendMessageSize(-1);
  found.SetServiceConfigJSON(kServiceConfig);
  found.SetUserAgentPrefix(std::string("optserve-cpp/") + kVersion);
  found.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  found.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  // Instead of windows that grow with the network's speed, and with them the bytes that wait to be read.
  found.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  found.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, static_cast<int>(kChunkBytes));
  // Soon, because calls are repeated soon.
  found.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, static_cast<int>(kFirstPause.count()));
  found.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, static_cast<int>(kLongestPause.count()));
  found.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectTimeoutMs);
  found.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // the connection is closed with the client
  return found;
}

}  // namespace

std::string random_name() {
  std::random_device device;
  std::string name = "cpp";
  for (int word = 0; word < 4; ++word) name += "-" + std::to_string(device());
  return name;
}

std::optional<Clock::duration> pause_before_repeat(Failure& failure, int attempts, Clock::time_point end) {
  if (!is_repeatable(failure)) return {};
  thread_local std::minstd_rand random(std::random_device{}());
  const milliseconds longest = std::min(kLongestPause, kFirstPause * (1 << std::min(attempts - 1, 8)));
  const milliseconds jitter(random() % (longest.count() / 2));
  const milliseconds pause = std::max(failure.retry_after.value_or(milliseconds::zero()), longest - jitter);
  if (end - Clock::now() > pause) return pause;
  if (attempts > 1) failure.message += " (tried " + std::to_string(attempts) + " times)";
  return {};
}

std::chrono::system_clock::time_point system_time(Clock::time_point at) {
  using System = std::chrono::system_clock;
  const auto left = std::chrono::duration_cast<System::duration>(at - Clock::now());
  return System::now() + std::min<System::duration>(left, std::chrono::hours(24 * 365));
}

Connection::Connection(const std::string& target, const ClientOptions& options)
    : target_(value_or_environment(target, "OPTSERVE_SERVER")),
      token_(value_or_environment(options.token, "OPTSERVE_TOKEN")),
      timeout_(options.timeout) {
  if (target_.empty()) {
    throw rejection(v1::ERROR_REASON_FIELD_REQUIRED, "target", "the target is empty, and OPTSERVE_SERVER is not set");
  }
  auto credentials = options.credentials != nullptr ? options.credentials : credentials_of_environment();
  uses_data_connections = options.data_connections && credentials == nullptr;
  if (credentials == nullptr) credentials = grpc::InsecureChannelCredentials();
  channel_ = grpc::CreateCustomChannel(target_, credentials, arguments());
}

Clock::time_point Connection::end_of(const Deadline& deadline, std::size_t byte_count) const {
  const std::chrono::duration<double> transfer(static_cast<double>(byte_count) / kBytesPerSecond);
  return deadline.at().value_or(Clock::now() + timeout_ + std::chrono::duration_cast<Clock::duration>(transfer));
}

std::unique_ptr<grpc::ClientContext> Connection::make_context(Clock::time_point end) const {
  auto context = std::make_unique<grpc::ClientContext>();
  if (!token_.empty()) context->AddMetadata("authorization", "Bearer " + token_);
  if (end != Clock::time_point::max()) context->set_deadline(system_time(end));
  return context;
}

void Connection::sleep_while_connecting(Clock::duration pause) const {
  const Clock::time_point end = Clock::now() + pause;
  channel_->WaitForConnected(system_time(end));
  std::this_thread::sleep_until(end);
}

void Connection::retry(const Deadline& deadline, std::size_t byte_count,
                       const std::function<void(Clock::time_point)>& attempt) const {
  const Clock::time_point end = end_of(deadline, byte_count);
  for (int attempts = 1;; ++attempts) {
    try {
      attempt(end);
      return;
    } catch (const Error& error) {
      Failure failure = error.failure();
      const auto pause = pause_before_repeat(failure, attempts, end);
      if (!pause) throw Error(std::move(failure));
      sleep_while_connecting(*pause);
    }
  }
}

std::shared_ptr<grpc::Channel> channel_of(const Connection& connection) { return connection.channel(); }

void repeat(const Connection& connection, google::protobuf::Message& request, const Deadline& deadline,
            const std::function<grpc::Status(grpc::ClientContext*)>& attempt) {
  const auto* id = request.GetDescriptor()->FindFieldByName("request_id");
  if (id != nullptr && request.GetReflection()->GetString(request, id).empty()) {
    request.GetReflection()->SetString(&request, id, random_name());
  }
  connection.retry(deadline, 0, [&](Clock::time_point end) {
    const auto context = connection.make_context(end);
    check(attempt(context.get()), *context);
  });
}

}  // namespace optserve::internal
