/// @file
/// A worker that fits a line together with others: each has a part of the points, and the server averages their
/// gradients. Start as many as you like with one id, in any order; a worker that is killed does not stop the others.
///
///     optserve_sync_worker ID NUMBER [HOST:PORT] [STEPS]

#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "optserve/optserve.h"

namespace {

namespace v1 = optserve::v1;

constexpr int kPoints = 16;
constexpr int kSteps = 200;
constexpr std::chrono::seconds kLease{5};

/// Creates the session, or opens the one that another worker has created.
optserve::Session open(optserve::Client& client, const std::string& id, const std::string& worker) {
  v1::SessionSpec spec;
  spec.mutable_optimizer()->mutable_adam()->set_learning_rate(0.1);
  spec.mutable_coordination()->mutable_sync();
  optserve::SessionOptions options;
  options.id = id;
  options.worker = worker;
  try {
    return client.create_session(spec, {optserve::parameter("line", std::array<double, 2>{})}, options);
  } catch (const optserve::Error& error) {
    if (error.reason() != v1::ERROR_REASON_SESSION_EXISTS) throw;
    return client.open_session(id, worker);
  }
}

void run(const std::string& id, int number, const std::string& server, int steps) {
  optserve::Client client(server);
  optserve::Session session = open(client, id, "worker-" + std::to_string(number));
  session.join(kLease);
  std::array<double, 2> line{};  // slope and intercept, filled by every step
  optserve::StepOptions options;
  options.into = {{"line", line}};
  std::int64_t step = session.pull({}, options.into).step;
  while (step < steps) {
    // The gradient of the squared distance from this worker's points of y = 2x + 1.
    std::array<double, 2> gradient{};
    for (int i = 0; i < kPoints; ++i) {
      const double x = std::sin(number * kPoints + i), residual = line[0] * x + line[1] - (2 * x + 1);
      gradient[0] += residual * x / kPoints;
      gradient[1] += residual / kPoints;
    }
    const optserve::StepResult result = session.step({{"line", gradient}}, options);
    step = result.parameters_step;
    std::fprintf(stderr, "\rworker %d: step %ld with %d workers, norm %.6f ", number, static_cast<long>(result->step()),
                 result->contributions(), result->gradient_norm());
  }
  std::fputc('\n', stderr);
  session.leave();
  std::printf("y = %.2f x + %.2f\n", line[0], line[1]);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr
        << "usage: optserve_sync_worker ID NUMBER [HOST:PORT] [STEPS]; without a server, OPTSERVE_SERVER is used\n";
    return 2;
  }
  try {
    run(argv[1], std::stoi(argv[2]), argc > 3 ? argv[3] : "", argc > 4 ? std::stoi(argv[4]) : kSteps);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  return 0;
}
