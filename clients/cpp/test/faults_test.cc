#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "server.h"

namespace optserve::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// The error of a call.
template <class Call>
Error error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  throw std::logic_error("the call did not fail");
}

/// Checks that a call is rejected with a reason, and changes nothing.
template <class Call>
Error expect_reason(v1::ErrorReason reason, const Call& call) {
  const Error error = error_of(call);
  EXPECT_EQ(v1::ErrorReason_Name(error.reason()), v1::ErrorReason_Name(reason)) << error.what();
  EXPECT_EQ(error.applied(), Applied::no);
  return error;
}

const std::vector<double> kOne{1};

/// Takes steps in a session of their own, several in flight, and returns the parameters.
template <class Before>
std::vector<float> train(Client& client, int steps, const Before& before) {
  constexpr int kElements = 3000, kWindow = 3;
  Session session = new_session(client, adam(), std::vector<float>(kElements));
  StepStream stream = session.stream(kWindow);
  std::vector<std::vector<float>> gradients(kWindow + 1, std::vector<float>(kElements));
  std::vector<std::future<StepResult>> results;
  for (int step = 0; step < steps; ++step) {
    before(step);
    if (step > kWindow) {
      EXPECT_EQ(results[step - kWindow - 1].get().result.step(), step - kWindow);
    }
    std::vector<float>& gradient = gradients[step % gradients.size()];
    for (int i = 0; i < kElements; ++i) gradient[i] = static_cast<float>((step * 31 + i * 17) % 101) - 50;
    results.push_back(stream.submit({{"w", gradient}}, pulling()));
  }
  for (auto& result : results) {
    if (result.valid()) result.get();
  }
  const Parameters found = session.pull();
  EXPECT_EQ(found.step, steps);
  return to_vector<float>(found.tensors.at("w"));
}

const auto nothing = [](int) {};

TEST(Errors, ByReason) {
  Client client(Server::shared().address());
  Error error = expect_reason(v1::ERROR_REASON_SESSION_NOT_FOUND, [&] { client.open_session("missing"); });
  EXPECT_EQ(error.code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(error.failure().metadata.at("name"), "sessions/missing");
  EXPECT_FALSE(error.failure().request_id.empty());
  error = expect_reason(v1::ERROR_REASON_OUT_OF_RANGE, [&] { new_session(client, sgd(-1), kOne); });
  EXPECT_EQ(error.field(), "spec.optimizer.sgd.learning_rate");

  Session session = new_session(client, sgd(1), std::vector<double>{1, 2});
  const std::vector<double> gradient{1, 1};
  StepOptions options;
  options.start.set_expected_step(5);
  error = expect_reason(v1::ERROR_REASON_STEP_MISMATCH, [&] { session.step({{"w", gradient}}, options); });
  EXPECT_EQ(error.failure().metadata.at("current"), "0");
  expect_reason(v1::ERROR_REASON_SHAPE_MISMATCH, [&] { session.step({{"w", kOne}}); });
  expect_reason(v1::ERROR_REASON_SHAPE_MISMATCH, [&] { TensorView(kOne, Shape{2}); });
  expect_reason(v1::ERROR_REASON_UNKNOWN_TENSOR, [&] { session.step({{"b", kOne}}); });
  expect_reason(v1::ERROR_REASON_DTYPE_MISMATCH, [&] { session.step({{"w", std::vector<std::int32_t>{1, 1}}}); });
  expect_reason(v1::ERROR_REASON_FIELD_REQUIRED, [&] { session.step({}); });
  std::vector<double> into(1);
  options = {};
  options.into.emplace("w", into);
  expect_reason(v1::ERROR_REASON_SHAPE_MISMATCH, [&] { session.step({{"w", gradient}}, options); });
  EXPECT_EQ(session.step({{"w", gradient}})->sequence(), 1);  // rejected steps use up no sequence
  Client(Server::shared().address()).open_session(session.name()).delete_session();
  expect_reason(v1::ERROR_REASON_SESSION_NOT_FOUND, [&] { session.step({{"w", gradient}}); });
}

TEST(Errors, StepsBehindARejectedOneAreAbandoned) {
  Client client(Server::shared().address());
  Session session = new_session(client, sgd(1), kOne);
  StepStream stream = session.stream();
  StepOptions wrong;
  wrong.start.set_expected_step(9);
  auto first = stream.submit({{"w", kOne}});
  auto second = stream.submit({{"w", kOne}}, wrong);
  auto third = stream.submit({{"w", kOne}}, wrong);
  EXPECT_EQ(first.get()->step(), 1);
  expect_reason(v1::ERROR_REASON_STEP_MISMATCH, [&] { second.get(); });
  EXPECT_EQ(error_of([&] { third.get(); }).applied(), Applied::no);
  EXPECT_EQ(error_of([&] { stream.submit({{"w", kOne}}); }).code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(session.stream().step({{"w", kOne}})->sequence(), 2);
}

TEST(Errors, UnreachableServer) {
  const std::string address = Proxy(Server::shared().address()).address();  // closed at once
  ClientOptions options;
  options.timeout = seconds(1);
  const Error error = error_of([&] { capabilities(Client(address, options)); });
  EXPECT_EQ(error.code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(error.applied(), Applied::unknown);
  EXPECT_NE(std::string(error.what()).find("tried"), std::string::npos) << error.what();
}

TEST(Security, WrongTokenAndRightOne) {
  const TemporaryFolder folder;
  ASSERT_EQ(wait_for(start({python(), "-m", "optserve_server", "token", "--tokens-file", folder / "tokens",
                            "--namespace", "alice", "--name", "test"},
                           folder / "printed")),
            0);
  std::ifstream printed(folder / "printed");
  std::string token;
  while (token.size() <= 20 && printed >> token) continue;
  Server server({"--tokens-file=" + (folder / "tokens"), "--data-port=off"});
  ClientOptions options;
  options.token = "wrong";
  expect_reason(v1::ERROR_REASON_UNAUTHENTICATED, [&] { Client(server.address(), options).open_session("x"); });
  setenv("OPTSERVE_SERVER", server.address().c_str(), 1);
  setenv("OPTSERVE_TOKEN", token.c_str(), 1);
  Client client;
  unsetenv("OPTSERVE_SERVER");
  unsetenv("OPTSERVE_TOKEN");
  EXPECT_EQ(new_session(client, sgd(1), kOne).step({{"w", kOne}})->step(), 1);
}

TEST(Security, TlsAndMutualTls) {
  const TemporaryFolder folder;
  const std::string script = R"(
import sys; from pathlib import Path; from tests.support.certificates import Authority
authority, folder = Authority(), Path(sys.argv[1])
(folder / "ca.pem").write_bytes(authority.pem); authority.pair().write(folder, "own"))";
  ASSERT_EQ(wait_for(start({python(), "-c", script, folder / ""}, folder / "made")), 0);
  const std::vector<std::string> own{"--tls-certificate=" + (folder / "own.pem"), "--tls-key=" + (folder / "own.key")};
  ClientOptions options;
  options.timeout = seconds(5);
  grpc::SslCredentialsOptions tls;
  tls.pem_root_certs = contents(folder / "ca.pem");
  options.credentials = grpc::SslCredentials(tls);
  {
    Server server(own);
    Client client(server.address(), options);
    EXPECT_EQ(new_session(client, sgd(1), kOne).step({{"w", kOne}})->step(), 1);
  }
  Server server({own[0], own[1], "--tls-client-ca=" + (folder / "ca.pem")});
  setenv("OPTSERVE_CA", (folder / "ca.pem").c_str(), 1);
  ClientOptions without;
  without.timeout = seconds(1);
  EXPECT_EQ(error_of([&] { capabilities(Client(server.address(), without)); }).code(), grpc::StatusCode::UNAVAILABLE);
  unsetenv("OPTSERVE_CA");
  tls.pem_cert_chain = contents(folder / "own.pem");
  tls.pem_private_key = contents(folder / "own.key");
  options.credentials = grpc::SslCredentials(tls);
  Client client(server.address(), options);
  EXPECT_EQ(new_session(client, sgd(1), kOne).step({{"w", kOne}})->step(), 1);
  setenv("OPTSERVE_CA", (folder / "missing").c_str(), 1);
  EXPECT_EQ(error_of([&] { Client(server.address(), without); }).field(), "OPTSERVE_CA");
  unsetenv("OPTSERVE_CA");
}

/// Gives up a step whose answer is late, and settles it.
void give_up(double second, double expected, bool replayed) {
  Proxy proxy(Server::shared().address());
  Client client(proxy.address());
  Session session = new_session(client, sgd(1), std::vector<double>{0});
  session.step({{"w", kOne}});
  proxy.stall(true);
  const Error error = error_of([&] { session.step({{"w", kOne}}, {}, milliseconds(300)); });
  EXPECT_EQ(error.code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(error.applied(), Applied::unknown);
  Client direct(Server::shared().address());
  while (direct.open_session(session.name()).info().step() < 2) continue;
  proxy.stall(false);
  const StepResult result = session.step({{"w", std::vector<double>{second}}}, pulling());
  EXPECT_EQ(to_vector<double>(result.parameters.at("w")), std::vector<double>{expected});
  EXPECT_EQ(result->replayed(), replayed);
}

TEST(Faults, TheSameStepAfterADeadlineIsAppliedOnce) { give_up(1, -2, true); }
TEST(Faults, AnotherStepAfterADeadlineIsAppliedToo) { give_up(2, -4, false); }

TEST(Faults, DeadlineWhileTheWindowIsFull) {
  Proxy proxy(Server::shared().address());
  Client client(proxy.address());
  Session session = new_session(client, sgd(1), kOne);
  StepStream stream = session.stream(2);
  stream.step({{"w", kOne}});  // connects
  proxy.stall(true);
  std::vector<std::future<StepResult>> results;
  for (int i = 0; i < 2; ++i) results.push_back(stream.submit({{"w", kOne}}));
  const Error error = error_of([&] { stream.submit({{"w", kOne}}, {}, milliseconds(100)); });
  EXPECT_EQ(error.code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(error.applied(), Applied::no);
  proxy.stall(false);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(results[i].get()->step(), i + 2);
}

TEST(Faults, CloseEndsStepsInFlight) {
  Proxy proxy(Server::shared().address());
  Client client(proxy.address());
  Session session = new_session(client, sgd(1), kOne);
  session.step({{"w", kOne}});  // connects
  proxy.stall(true);
  auto result = session.stream().submit({{"w", kOne}});
  session.close();
  EXPECT_EQ(error_of([&] { result.get(); }).code(), grpc::StatusCode::CANCELLED);
  proxy.stall(false);
  EXPECT_EQ(session.step({{"w", kOne}})->step(), 2);  // the same one, once
}

TEST(Faults, CutConnectionsLeaveTheSameBits) {
  constexpr int kSteps = 1000;
  Client direct(Server::shared().address());
  Proxy proxy(Server::shared().address());
  Client client(proxy.address());
  const std::vector<float> expected = train(direct, kSteps, nothing);
  const std::vector<float> found = train(client, kSteps, [&](int step) {
    if (step % 40 != 0) return;
    proxy.cut_next_after(400 + 7919 * step % 200'000);  // within one of the next gradients
    proxy.cut();
  });
  EXPECT_EQ(found, expected);
}

TEST(Faults, ServerKilledAtEveryFailpoint) {
  constexpr int kSteps = 12;
  Client direct(Server::shared().address());
  const std::vector<float> expected = train(direct, kSteps, nothing);
  for (const std::string failpoint :
       {"before-journal-write", "after-journal-fsync", "after-apply", "before-ack", "after-ack"}) {
    SCOPED_TRACE(failpoint);
    const TemporaryFolder folder;
    const std::vector<std::string> flags{"--data-dir=" + (folder / "data"), "--data-port=off"};
    Server first(flags, {{"OPTSERVE_FAILPOINT", failpoint + ":7"}});
    Proxy proxy(first.address());
    auto second = std::async(std::launch::async, [&] {
      first.wait();
      auto server = std::make_unique<Server>(flags);
      proxy.route(server->address());
      return server;
    });
    ClientOptions options;
    options.timeout = std::chrono::minutes(3);
    Client client(proxy.address(), options);
    EXPECT_EQ(train(client, kSteps, nothing), expected);
    EXPECT_TRUE(first.has_ended());
    first.kill();
  }
}

/// gRPC alone would look after a connection every five seconds only.
TEST(Faults, ConnectsSoonWhenTheServerIsBack) {
  const TemporaryFolder folder;
  for (const std::string data_port : {"off", "0"}) {
    const std::vector<std::string> flags{"--data-dir=" + (folder / data_port), "--data-port=" + data_port};
    Server first(flags);
    Client client(first.address());
    Session session = new_session(client, sgd(1), kOne);
    session.step({{"w", kOne}});
    first.kill();
    auto next = std::async(std::launch::async, [&] { return session.step({{"w", kOne}})->step(); });
    std::vector<std::string> again = flags;
    again.push_back("--port=" + first.address().substr(first.address().rfind(':') + 1));
    const Server second(again);
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(next.get(), 2);
    EXPECT_LE(std::chrono::steady_clock::now() - begin, seconds(3));
  }
}

TEST(Faults, RestartedClientContinuesWithItsWorkersSequence) {
  std::string name;
  {
    Client client(Server::shared().address());
    SessionOptions options;
    options.worker = "worker";
    Session session = client.create_session(sgd(1), {parameter("w", kOne)}, options);
    name = session.name();
    for (int i = 0; i < 3; ++i) session.step({{"w", kOne}});
  }
  Client client(Server::shared().address());
  Session session = client.open_session(name, "worker");
  const StepResult result = session.step({{"w", kOne}});
  EXPECT_EQ(result->sequence(), 4);
  EXPECT_EQ(result->step(), 4);
}

TEST(Faults, ServerThatHasLostTheLastSteps) {
  const TemporaryFolder folder;
  const std::vector<std::string> flags{"--data-dir=" + (folder / "data"), "--data-port=off", "--durability=snapshot"};
  Server first(flags);
  Proxy proxy(first.address());
  Client client(proxy.address());
  Session session = new_session(client, sgd(1), kOne);
  session.step({{"w", kOne}});
  save(client, session);
  for (int i = 0; i < 3; ++i) session.step({{"w", kOne}});
  first.kill();
  Server second(flags);
  proxy.route(second.address());
  expect_reason(v1::ERROR_REASON_SEQUENCE_GAP, [&] { session.step({{"w", kOne}}); });
  const StepResult result = session.step({{"w", kOne}});
  EXPECT_EQ(result->step(), 2);
  EXPECT_EQ(result->sequence(), 2);
}

TEST(Faults, FencedMember) {
  Client client(Server::shared().address());
  Session session = new_session(client, sgd(1), kOne);
  Session same = client.open_session(session.name(), session.worker());
  session.join();
  session.step({{"w", kOne}});
  same.join();  // in a new epoch
  expect_reason(v1::ERROR_REASON_FENCED, [&] { session.step({{"w", kOne}}); });
  session.join();
  EXPECT_EQ(session.step({{"w", kOne}})->sequence(), 2);
}

}  // namespace
}  // namespace optserve::test
