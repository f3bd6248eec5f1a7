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

constexpr milliseconds kFirstPause{100}, kLongestPause{3000};
constexpr double kBytesPerSecond = 10e6;  // assumed of a slow network, if the caller states no deadline
constexpr int kConnectTimeoutMs = 5'000;
// More often than balancers forget a silent connection (350 s), less often than servers reject (300 s).
constexpr int kKeepaliveMs = 330'000, kKeepaliveTimeoutMs = 20'000;

std::string value_or_environment(const std::string& value, const char* name) {
  const char* variable = std::getenv(name);
  return !value.empty() || variable == nullptr ? value : variable;
}

std::uint64_t random_number() {
  thread_local std::random_device device;
  return static_cast<std::uint64_t>(device()) << 32 | device();
}

std::string contents(const std::string& path) {
  if (path.empty()) return "";
  std::ifstream file(path, std::ios::binary);
  if (!file) throw rejection(v1::ERROR_REASON_UNSPECIFIED, "tls", "the file " + path + " cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

bool uses_tls(const ClientOptions& options) {
  return options.tls || !options.certificate_file.empty() ||
         !value_or_environment(options.ca_file, "OPTSERVE_CA").empty();
}

std::shared_ptr<grpc::ChannelCredentials> credentials(const ClientOptions& options) {
  if (!uses_tls(options)) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions ssl;
  ssl.pem_root_certs = contents(value_or_environment(options.ca_file, "OPTSERVE_CA"));
  ssl.pem_cert_chain = contents(options.certificate_file);
  ssl.pem_private_key = contents(options.key_file);
  return grpc::SslCredentials(ssl);
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
  std::string name;
  for (int word = 0; word < 2; ++word) {
    for (std::uint64_t bits = random_number(), digit = 0; digit < 16; ++digit, bits >>= 4) {
      name += "0123456789abcdef"[bits & 15];
    }
  }
  return name;
}

Clock::duration pause_after(int attempts, const Failure& failure) {
  const milliseconds longest = std::min(kLongestPause, kFirstPause * (1 << std::min(attempts - 1, 8)));
  const milliseconds jitter(random_number() % static_cast<std::uint64_t>(longest.count() / 2));
  return std::max(failure.retry_after.value_or(milliseconds::zero()), longest - jitter);
}

void note_attempts(Failure& failure, int attempts) {
  if (attempts > 1) failure.message += " (tried " + std::to_string(attempts) + " times)";
}

std::chrono::system_clock::time_point system_time(Clock::time_point at) {
  using System = std::chrono::system_clock;
  const auto left = std::chrono::duration_cast<System::duration>(at - Clock::now());
  return System::now() + std::min<System::duration>(left, std::chrono::hours(24 * 365));
}

Connection::Connection(const std::string& target, const ClientOptions& options)
    : uses_data_connections(options.data_connections && !uses_tls(options)),
      target_(value_or_environment(target, "OPTSERVE_SERVER")),
      token_(value_or_environment(options.token, "OPTSERVE_TOKEN")),
      timeout_(options.timeout) {
  if (target_.empty()) {
    throw rejection(v1::ERROR_REASON_FIELD_REQUIRED, "target", "the target is empty, and OPTSERVE_SERVER is not set");
  }
  channel_ = grpc::CreateCustomChannel(target_, credentials(options), arguments());
}

Clock::time_point Connection::end_of(const Deadline& deadline, std::size_t byte_count) const {
  const std::chrono::duration<double> transfer(static_cast<double>(byte_count) / kBytesPerSecond);
  return deadline.at().value_or(Clock::now() + timeout_ + std::chrono::duration_cast<Clock::duration>(transfer));
}

void Connection::prepare(grpc::ClientContext& context, Clock::time_point end) const {
  if (!token_.empty()) context.AddMetadata("authorization", "Bearer " + token_);
  if (end != Clock::time_point::max()) context.set_deadline(system_time(end));
}

void Connection::retry(const Deadline& deadline, std::size_t byte_count,
                       const std::function<void(grpc::ClientContext&)>& attempt) const {
  const Clock::time_point end = end_of(deadline, byte_count);
  for (int attempts = 1;; ++attempts) {
    grpc::ClientContext context;
    prepare(context, end);
    try {
      attempt(context);
      return;
    } catch (const Error& error) {
      const Clock::duration pause = pause_after(attempts, error.failure());
      if (!is_repeatable(error.failure()) || end - Clock::now() <= pause) {
        Failure failure = error.failure();
        note_attempts(failure, attempts);
        throw Error(std::move(failure));
      }
      std::this_thread::sleep_for(pause);
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
  connection.retry(deadline, 0, [&](grpc::ClientContext& context) { check(attempt(&context), context); });
}

}  // namespace optserve::internal
