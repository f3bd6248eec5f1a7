#pragma once

#include <chrono>
#include <optional>

namespace optserve {

/// When a call is given up, with all its repeats: a duration from now, or a time. If it is left out, the client's
/// timeout, and a second more for each 10 MB that are transferred.
class Deadline {
 public:
  using Clock = std::chrono::steady_clock;

  Deadline() = default;
  Deadline(Clock::time_point at) : at_(at) {}
  template <class Rep, class Period>
  Deadline(std::chrono::duration<Rep, Period> timeout)
      : at_(Clock::now() + std::chrono::duration_cast<Clock::duration>(timeout)) {}

  /// No deadline.
  static Deadline never() { return Clock::time_point::max(); }
  const std::optional<Clock::time_point>& at() const { return at_; }

 private:
  std::optional<Clock::time_point> at_;
};

}  // namespace optserve
