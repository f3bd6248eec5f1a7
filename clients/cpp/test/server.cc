#include "server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <stdexcept>

#include "optserve/v1/capabilities_service.grpc.pb.h"
#include "optserve/v1/session_service.grpc.pb.h"

extern char** environ;

namespace optserve::test {
namespace {

using std::chrono::milliseconds;

constexpr std::chrono::minutes kReadyTimeout{1};
constexpr milliseconds kPollInterval{10};
constexpr std::size_t kBufferBytes = std::size_t{64} << 10;

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

bool send_all(int socket, const char* data, std::size_t size) {
  while (size > 0) {
    const ssize_t sent = ::send(socket, data, size, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    data += sent;
    size -= static_cast<std::size_t>(sent);
  }
  return true;
}

}  // namespace

TemporaryFolder::TemporaryFolder() {
  std::string pattern = std::filesystem::temp_directory_path() / "optserve-cpp-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string python() {
  const char* path = std::getenv("OPTSERVE_PYTHON");
  return path != nullptr ? path : REPOSITORY "/.venv/bin/python";
}

pid_t start(const std::vector<std::string>& command, const std::string& output,
            const std::map<std::string, std::string>& environment) {
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (std::string(*variable).rfind("OPTSERVE_", 0) != 0) variables.emplace_back(*variable);
  }
  for (const auto& [name, value] : environment) variables.push_back(name + "=" + value);
  std::vector<char*> arguments, variable_pointers;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  for (const std::string& variable : variables) variable_pointers.push_back(const_cast<char*>(variable.c_str()));
  arguments.push_back(nullptr);
  variable_pointers.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addchdir_np(&actions, REPOSITORY);
  posix_spawn_file_actions_addopen(&actions, 1, output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_addopen(&actions, 2, (output + ".log").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  pid_t process = 0;
  const int failure =
      posix_spawn(&process, arguments[0], &actions, nullptr, arguments.data(), variable_pointers.data());
  posix_spawn_file_actions_destroy(&actions);
  if (failure != 0) throw std::runtime_error(command[0] + " cannot be started; run make .venv/.test");
  return process;
}

int wait_for(pid_t process) {
  int status = 0;
  waitpid(process, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Server::Server(const std::vector<std::string>& flags, const std::map<std::string, std::string>& environment) {
  const std::string port_file = folder_ / "port";
  std::vector<std::string> command{
      python(), "-m", "optserve_server", "--port-file=" + port_file, "--metrics-port=off", "--backend=numpy"};
  command.insert(command.end(), flags.begin(), flags.end());
  if (std::none_of(flags.begin(), flags.end(), [](const auto& flag) { return flag.rfind("--port=", 0) == 0; })) {
    command.emplace_back("--port=0");
  }
  process_ = start(command, folder_ / "printed", environment);
  const auto end = std::chrono::steady_clock::now() + kReadyTimeout;
  std::string port;
  while ((port = contents(port_file)).empty() || port.back() != '\n') {
    if (std::chrono::steady_clock::now() > end || waitpid(process_, nullptr, WNOHANG) != 0) {
      throw std::runtime_error("the server did not start: " + contents(folder_ / "printed.log"));
    }
    std::this_thread::sleep_for(kPollInterval);
  }
  address_ = "127.0.0.1:" + std::to_string(std::stoi(port));
}

void Server::kill() {
  if (!has_ended_) ::kill(process_, SIGKILL);
  wait();
}

void Server::wait() {
  std::call_once(waits_, [this] {
    wait_for(process_);
    has_ended_ = true;
  });
}

Server& Server::shared() {
  static TemporaryFolder folder;
  static Server server({"--data-dir=" + (folder / "data"), "--data-port=off"});
  return server;
}

struct Proxy::Link {
  int client;
  int server;
  std::int64_t left;  // bytes to the server until the cut; 0 for no cut

  void cut() const {
    shutdown(client, SHUT_RDWR);
    shutdown(server, SHUT_RDWR);
  }
};

// A server that is started meanwhile must not inherit a connection: it would stay open when the proxy closes it.
Proxy::Proxy(std::string upstream)
    : listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), upstream_(std::move(upstream)) {
  sockaddr_in address = loopback(0);
  socklen_t size = sizeof address;
  if (bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 || listen(listener_, SOMAXCONN) != 0 ||
      getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    throw std::runtime_error("the proxy cannot listen");
  }
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { accept(); });
}

Proxy::~Proxy() {
  is_closed_ = true;
  shutdown(listener_, SHUT_RDWR);
  acceptor_.join();
  cut();
  for (std::thread& thread : threads_) thread.join();
  close(listener_);
}

void Proxy::accept() {
  while (!is_closed_) {
    const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) continue;
    const std::lock_guard lock(mutex_);
    const sockaddr_in address = loopback(std::stoi(upstream_.substr(upstream_.rfind(':') + 1)));
    const int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(server, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      close(client);
      close(server);
      continue;
    }
    const auto link = std::make_shared<Link>(Link{client, server, std::exchange(cut_after_, 0)});
    links_.push_back(link);
    threads_.emplace_back([this, link] { pass(link); });
  }
}

void Proxy::pass(const std::shared_ptr<Link>& link) {
  std::vector<char> buffer(kBufferBytes);
  for (bool is_open = true; is_open;) {
    std::array<pollfd, 2> ends{pollfd{link->client, POLLIN, 0}, pollfd{link->server, POLLIN, 0}};
    if (stalls_) ends[1].events = 0;
    poll(ends.data(), ends.size(), static_cast<int>(kPollInterval.count()));
    for (std::size_t side = 0; side < ends.size() && is_open; ++side) {
      if ((ends[side].revents & (POLLIN | POLLHUP | POLLERR)) == 0 || (side == 1 && stalls_)) continue;
      const std::size_t wanted =
          side == 0 && link->left > 0 ? std::min(buffer.size(), static_cast<std::size_t>(link->left)) : buffer.size();
      const ssize_t received = recv(ends[side].fd, buffer.data(), wanted, 0);
      is_open = received > 0 && send_all(ends[1 - side].fd, buffer.data(), static_cast<std::size_t>(received));
      if (side == 0 && link->left > 0 && is_open && (link->left -= received) == 0) is_open = false;
    }
  }
  const std::lock_guard lock(mutex_);
  close(link->client);
  close(link->server);
  links_.erase(std::find(links_.begin(), links_.end(), link));
}

void Proxy::cut() {
  const std::lock_guard lock(mutex_);
  for (const auto& link : links_) link->cut();
}

void Proxy::cut_next_after(std::int64_t byte_count) {
  const std::lock_guard lock(mutex_);
  cut_after_ = byte_count;
}

void Proxy::route(const std::string& upstream) {
  const std::lock_guard lock(mutex_);
  upstream_ = upstream;
}

v1::GetCapabilitiesResponse capabilities(const Client& client, Deadline deadline) {
  return client.call(&v1::CapabilitiesService::Stub::GetCapabilities, {}, deadline);
}

v1::Snapshot save(const Client& client, const Session& session) {
  v1::CreateSnapshotRequest request;
  request.set_name(session.name());
  return client.call(&v1::SessionService::Stub::CreateSnapshot, request).snapshot();
}

v1::SessionSpec sgd(double rate) {
  v1::SessionSpec spec;
  spec.mutable_optimizer()->mutable_sgd()->set_learning_rate(rate);
  return spec;
}

v1::SessionSpec adam() {
  v1::SessionSpec spec;
  spec.mutable_optimizer()->mutable_adam()->set_learning_rate(0.01);
  return spec;
}

}  // namespace optserve::test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
