#include <gtest/gtest.h>

#include <numeric>

#include "data_channel.h"
#include "server.h"
#include "step_engine.h"

namespace optserve::test {
namespace {

/// Steps through an engine whose connection can be looked at.
class DataConnections : public testing::Test {
 protected:
  explicit DataConnections() : data_("--data-dir=" + (folder_ / "data")) {}

  void open(const std::string& address, const v1::SessionSpec& spec, std::size_t elements) {
    Client client(address);
    session_ = client.create_session(spec, {parameter("w", std::vector<float>(elements))}).info();
    connection_ = std::make_shared<internal::Connection>(address, ClientOptions());
    engine_ = std::make_shared<internal::StepEngine>(connection_, session_, "worker", 1);
  }

  StepResult step(const std::vector<float>& gradient, Deadline deadline = {}) {
    return engine_->step({{"w", gradient}}, pulling(), deadline, 1);
  }

  TemporaryFolder folder_;
  const std::string data_;
  v1::Session session_;
  std::shared_ptr<internal::Connection> connection_;
  std::shared_ptr<internal::StepEngine> engine_;
};

TEST_F(DataConnections, CarryStepsOfAnySize) {
  Server server({data_});
  for (const std::size_t elements : {std::size_t{1}, std::size_t{10'000}, std::size_t{3'000'001}}) {
    open(server.address(), sgd(1), elements);
    std::vector<float> gradient(elements), expected(elements);
    for (int i = 1; i <= 3; ++i) {
      std::iota(gradient.begin(), gradient.end(), static_cast<float>(i));
      for (std::size_t j = 0; j < elements; ++j) expected[j] -= gradient[j];
      EXPECT_EQ(to_vector<float>(step(gradient).parameters.at("w")), expected);
    }
    EXPECT_TRUE(connection_->uses_data_connections);
    std::vector<std::future<StepResult>> results;  // several in flight
    for (int i = 0; i < 8; ++i) results.push_back(engine_->submit({{"w", gradient}}, pulling(), {}, 4));
    for (int i = 0; i < 8; ++i) EXPECT_EQ(results[i].get()->step(), 4 + i);
  }
}

TEST_F(DataConnections, ErrorsAreThoseOfTheCall) {
  Server server({data_});
  open(server.address(), sgd(1), 1);
  StepOptions options;
  options.start.set_expected_step(7);
  const std::vector<float> gradient{1};
  for (int i = 0; i < 2; ++i) {
    try {
      engine_->step({{"w", gradient}}, options, {}, 1);
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.reason(), v1::ERROR_REASON_STEP_MISMATCH) << error.what();
      EXPECT_EQ(error.applied(), Applied::no);
    }
  }
  EXPECT_EQ(step(gradient)->sequence(), 1);
}

TEST_F(DataConnections, DeadlineWhileAStepWaits) {
  Server server({data_});
  v1::SessionSpec spec = sgd(1);
  spec.mutable_coordination()->mutable_sync();
  open(server.address(), spec, 1);
  Client client(server.address());
  Session same = client.open_session(session_.name(), "worker"), other = client.open_session(session_.name());
  const v1::JoinSessionResponse joined = same.join();
  engine_->set_membership(joined.epoch(), joined.next_sequence());
  other.join();
  const std::vector<float> gradient{1};
  try {
    step(gradient, std::chrono::milliseconds(300));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), grpc::StatusCode::DEADLINE_EXCEEDED) << error.what();
    EXPECT_EQ(error.applied(), Applied::unknown);
  }
  auto contribution = std::async(std::launch::async, [&] { return other.step({{"w", gradient}}, pulling()); });
  EXPECT_EQ(step(gradient)->step(), 1);
  EXPECT_EQ(contribution.get()->contributions(), 2);
}

TEST_F(DataConnections, ServerKilledInAStep) {
  Server first({data_}, {{"OPTSERVE_FAILPOINT", "after-journal-fsync:5"}});
  const std::string port = first.address().substr(first.address().rfind(':') + 1);
  open(first.address(), sgd(1), 1000);
  auto second = std::async(std::launch::async, [&] {
    first.wait();
    return std::make_unique<Server>(std::vector<std::string>{data_, "--port=" + port});
  });
  const std::vector<float> gradient(1000, 1);
  for (int i = 1; i <= 10; ++i) {
    EXPECT_EQ(to_vector<float>(step(gradient).parameters.at("w")), std::vector<float>(1000, static_cast<float>(-i)));
  }
  EXPECT_TRUE(first.has_ended());
  first.kill();
}

TEST_F(DataConnections, StepsBehindAPortMappingUseTheCall) {
  Server server({data_});
  Proxy proxy(server.address());
  open(proxy.address(), sgd(1), 1);
  EXPECT_EQ(step({1})->step(), 1);
  EXPECT_FALSE(connection_->uses_data_connections);
}

}  // namespace
}  // namespace optserve::test
