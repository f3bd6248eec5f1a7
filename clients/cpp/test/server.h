#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "optserve/optserve.h"
#include "optserve/v1/capabilities_service.pb.h"

namespace optserve::test {

namespace v1 = optserve::v1;

/// A folder that is deleted with its scope.
class TemporaryFolder {
 public:
  TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder();

  std::string operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// What is in a file.
std::string contents(const std::string& path);

/// The interpreter that has the server: OPTSERVE_PYTHON, or the repository's own.
std::string python();

/// Starts a program in the folder of the repository.
///
/// @param output file that standard output goes to; standard error goes to a file beside it, with .log
/// @param environment variables that are added to this process', from which those of optserve are left out
pid_t start(const std::vector<std::string>& command, const std::string& output,
            const std::map<std::string, std::string>& environment = {});

/// Waits for the end of a program, and returns its exit status; -1 if it was killed.
int wait_for(pid_t process);

/// A real server in a process of its own, on a free port of the loopback address.
class Server {
 public:
  explicit Server(const std::vector<std::string>& flags = {},
                  const std::map<std::string, std::string>& environment = {});
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  ~Server() { kill(); }

  const std::string& address() const { return address_; }
  /// Ends the server at once, as a crash does.
  void kill();
  /// Waits until the server has ended.
  void wait();
  bool has_ended() const { return has_ended_; }

  /// A server that tests share; it has a data directory.
  static Server& shared();

 private:
  TemporaryFolder folder_;
  pid_t process_;
  std::once_flag waits_;
  std::atomic<bool> has_ended_{false};
  std::string address_;
};

/// Passes connections on to a server, and fails as a network does.
class Proxy {
 public:
  explicit Proxy(std::string upstream);
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;
  ~Proxy();

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  /// Breaks all connections.
  void cut();
  /// Cuts the next connection after some bytes to the server.
  void cut_next_after(std::int64_t byte_count);
  /// Holds answers back, or passes them on again.
  void stall(bool stalls) { stalls_ = stalls; }
  /// Passes new connections on to another server.
  void route(const std::string& upstream);

 private:
  struct Link;
  void accept();
  void pass(const std::shared_ptr<Link>& link);

  int listener_;
  int port_;
  std::atomic<bool> stalls_{false}, is_closed_{false};
  std::mutex mutex_;
  std::string upstream_;
  std::int64_t cut_after_ = 0;
  std::vector<std::shared_ptr<Link>> links_;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

v1::SessionSpec sgd(double rate);
v1::SessionSpec adam();

/// Creates a session with one parameter "w".
template <class T>
Session new_session(Client& client, const v1::SessionSpec& spec, const std::vector<T>& w) {
  return client.create_session(spec, {parameter("w", w)});
}

/// A pull of all parameters.
inline StepOptions pulling() {
  StepOptions options;
  options.plan.mutable_pull();
  return options;
}

v1::GetCapabilitiesResponse capabilities(const Client& client, Deadline deadline = {});
v1::Snapshot save(const Client& client, const Session& session);

}  // namespace optserve::test
