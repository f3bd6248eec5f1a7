#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "server.h"

namespace optserve::test {
namespace {

std::vector<std::vector<std::string>> words(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::vector<std::string>> found;
  for (std::string line; std::getline(file, line);) {
    std::istringstream stream(line);
    found.emplace_back(std::istream_iterator<std::string>(stream), std::istream_iterator<std::string>());
  }
  return found;
}

/// Compares the table of the quickstart with what the Python demo computes.
TEST(Examples, QuickstartHasTheNumbersOfThePythonDemo) {
  const TemporaryFolder folder;
  const std::string& address = Server::shared().address();
  ASSERT_EQ(wait_for(start({PROGRAMS "/optserve_quickstart", "data/iris.csv", address, "25"}, folder / "found")), 0);
  const std::string demo = R"(
import sys; sys.path.insert(0, "examples"); import optserve; from demo import iris
with optserve.connect(sys.argv[1]) as client:
    for run in iris.train_all(client, 25):
        print(run.optimizer, run.losses[-1], 100*run.accuracies[-1]))";
  ASSERT_EQ(wait_for(start({python(), "-c", demo, address}, folder / "expected")), 0);
  const auto found = words(folder / "found"), expected = words(folder / "expected");
  ASSERT_EQ(found.size(), 6);
  ASSERT_EQ(expected.size(), 5);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    SCOPED_TRACE(expected[i][0]);
    EXPECT_EQ(found[i + 1][0], expected[i][0]);
    // The first steps of RMSProp amplify rounding, and the order of NumPy's sums depends on the processor.
    const bool is_rough = expected[i][0] == "RMSProp";
    EXPECT_NEAR(std::stod(found[i + 1][1]), std::stod(expected[i][1]), is_rough ? 0.1 : 1e-6);
    EXPECT_NEAR(std::stod(found[i + 1][2]), std::stod(expected[i][2]), is_rough ? 50 : 0.06);
  }
}

TEST(Examples, SyncWorkersFindTheSameLine) {
  constexpr int kWorkers = 3;
  const TemporaryFolder folder;
  std::vector<pid_t> processes;
  for (int number = 0; number < kWorkers; ++number) {
    processes.push_back(
        start({PROGRAMS "/optserve_sync_worker", "sync-line", std::to_string(number), Server::shared().address()},
              folder / std::to_string(number)));
  }
  for (const pid_t process : processes) EXPECT_EQ(wait_for(process), 0);
  for (int number = 0; number < kWorkers; ++number) {
    EXPECT_EQ(words(folder / std::to_string(number)),
              (std::vector<std::vector<std::string>>{{"y", "=", "2.00", "x", "+", "1.00"}}));
  }
}

}  // namespace
}  // namespace optserve::test
