#include <gtest/gtest.h>
#include <sys/resource.h>

#include "server.h"

namespace optserve::test {
namespace {

/// The largest resident set of this process so far, in bytes.
std::int64_t peak() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return std::int64_t{1024} * usage.ru_maxrss;
}

/// Streams 100 MB both ways; a copy of the gradient or of the parameters would show.
TEST(Memory, LargeStepsNeedNoCopy) {
  constexpr std::int64_t kElements = 25'000'000, kAllowed = std::int64_t{48} << 20;
  Client client(Server::shared().address());
  v1::InitializerSpec zeros;
  zeros.mutable_zeros();
  Session session = client.create_session(sgd(1), {parameter("w", zeros, {kElements})});
  const std::vector<float> gradient(kElements, 1);
  std::vector<float> w(kElements);
  StepOptions options;
  options.into.emplace("w", w);
  const std::int64_t before = peak();
  for (int i = 0; i < 3; ++i) session.step({{"w", gradient}}, options);
  const std::int64_t grown = peak() - before;
  EXPECT_LT(grown, kAllowed);
  EXPECT_EQ(w.back(), -3);
  session.delete_session();
}

}  // namespace
}  // namespace optserve::test
