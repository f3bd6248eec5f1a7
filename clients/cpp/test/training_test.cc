#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <sstream>

#include "numbers.h"
#include "optserve/v1/function_service.grpc.pb.h"
#include "optserve/v1/session_service.grpc.pb.h"
#include "optserve/v1/worker_service.grpc.pb.h"
#include "server.h"

namespace optserve::test {
namespace {

using Sessions = v1::SessionService::Stub;

Client shared_client() { return Client(Server::shared().address()); }

TEST(Numbers, EveryFloat16SurvivesAFloatAndBack) {
  for (const v1::DataType dtype : {v1::DATA_TYPE_FLOAT16, v1::DATA_TYPE_BFLOAT16}) {
    std::vector<std::uint16_t> bits(1 << 16), back(bits.size());
    std::iota(bits.begin(), bits.end(), std::uint16_t{0});
    std::vector<float> values(bits.size());
    internal::convert(bits.data(), dtype, values.data(), v1::DATA_TYPE_FLOAT32, bits.size());
    internal::convert(values.data(), v1::DATA_TYPE_FLOAT32, back.data(), dtype, bits.size());
    for (std::size_t i = 0; i < bits.size(); ++i) {
      if (std::isnan(values[i])) continue;
      ASSERT_EQ(back[i], bits[i]) << values[i];
    }
  }
}

TEST(Numbers, RoundToNearestAndTiesToEven) {
  const std::vector<double> values{1.0 + 0x1p-11,     1.0 + 0x1.8p-10, 1.0 + 0x1p-11 + 0x1p-40,
                                   65519.9,           65520,           0x1p-25,
                                   0x1p-25 + 0x1p-60, -0x1.8p-24,      INFINITY};
  const std::vector<std::uint16_t> expected{0x3c00, 0x3c02, 0x3c01, 0x7bff, 0x7c00, 0, 1, 0x8002, 0x7c00};
  std::vector<std::uint16_t> found(values.size());
  internal::convert(values.data(), v1::DATA_TYPE_FLOAT64, found.data(), v1::DATA_TYPE_FLOAT16, values.size());
  EXPECT_EQ(found, expected);
  const std::vector<double> more{1.0 + 0x1p-8, 1.0 + 0x1.8p-7, 1.0 + 0x1p-8 + 0x1p-50, 0x1.fffp127};
  const std::vector<std::uint16_t> expected_too{0x3f80, 0x3f82, 0x3f81, 0x7f80};
  found.resize(more.size());
  internal::convert(more.data(), v1::DATA_TYPE_FLOAT64, found.data(), v1::DATA_TYPE_BFLOAT16, more.size());
  EXPECT_EQ(found, expected_too);
}

TEST(Training, StepFillsTheCallersArray) {
  Client client = shared_client();
  std::vector<double> w{1, 2};
  Session session = new_session(client, sgd(0.5), w);
  StepOptions options;
  options.into.emplace("w", w);
  const StepResult result = session.step({{"w", std::vector<double>{3, 4}}}, options);
  EXPECT_EQ(w, (std::vector<double>{-0.5, 0}));
  EXPECT_EQ(result->step(), 1);
  EXPECT_EQ(result->gradient_norm(), 5);
  EXPECT_EQ(result->worker(), session.worker());
  EXPECT_EQ(result.parameters_step, 1);
  EXPECT_TRUE(result.parameters.empty());
  session.delete_session();
}

TEST(Training, SmallTypesOnTheWire) {
  Client client = shared_client();
  for (const v1::DataType dtype : {v1::DATA_TYPE_FLOAT16, v1::DATA_TYPE_BFLOAT16, v1::DATA_TYPE_FLOAT64}) {
    Session session = new_session(client, sgd(1), std::vector<float>{0, 0, 0});
    StepOptions options = pulling();
    options.plan.set_gradient_dtype(dtype);
    options.plan.mutable_pull()->set_wire_dtype(dtype);
    const std::array<float, 3> gradient{1, -2, 0.5F};
    const StepResult result = session.step({{"w", gradient}}, options);
    if (dtype == v1::DATA_TYPE_FLOAT64) {
      EXPECT_EQ(to_vector<double>(result.parameters.at("w")), (std::vector<double>{-1, 2, -0.5}));
    } else {
      EXPECT_EQ(to_vector<float>(result.parameters.at("w")), (std::vector<float>{-1, 2, -0.5F}));
    }
    std::vector<double> into(3);
    v1::PullParametersRequest read;
    read.mutable_pull()->set_wire_dtype(dtype);
    EXPECT_EQ(session.pull(read, {{"w", into}}).step, 1);
    EXPECT_EQ(into, (std::vector<double>{-1, 2, -0.5}));
  }
}

TEST(Training, ManyTensorsInSeveralChunks) {
  Client client = shared_client();
  std::vector<v1::ParameterInit> parameters;
  std::map<std::string, std::vector<float>> gradients;
  std::map<std::string, std::vector<float>> filled;
  TensorViews views;
  StepOptions options;
  for (int i = 0; i < 7; ++i) {
    const std::string name = "w" + std::to_string(6 - i);
    const std::size_t size = 1 + 150'001 * static_cast<std::size_t>(i);
    parameters.push_back(parameter(name, std::vector<float>(size)));
    auto& gradient = gradients[name];
    for (std::size_t j = 0; j < size; ++j) gradient.push_back(static_cast<float>(j % 1013) - 500);
    filled[name].resize(size);
    views.emplace(name, gradient);
    options.into.emplace(name, filled[name]);
  }
  parameters.push_back(parameter("d", std::vector<double>(3)));  // wider elements come first
  Session session = client.create_session(sgd(1), parameters);
  const std::vector<double> d{1, 2, 3};
  views.emplace("d", d);
  const StepResult result = session.step(views, options);
  for (auto& [name, values] : filled) {
    for (float& value : values) value = -value;
  }
  EXPECT_EQ(filled, gradients);
  EXPECT_EQ(to_vector<double>(result.parameters.at("d")), (std::vector<double>{-1, -2, -3}));
  session.delete_session();
}

TEST(Training, SparseRowsAndOverrides) {
  Client client = shared_client();
  Session session = client.create_session(sgd(1), {parameter("e", TensorView(std::vector<float>(6), Shape{3, 2}))});
  StepOptions options = pulling();
  const std::vector<std::int32_t> rows{2, 0};
  const std::vector<float> values{1, 2, 3, 4};
  options.sparse["e"] = {rows, values};
  v1::HyperparameterOverride& rate = *options.start.add_overrides();
  rate.set_name("learning_rate");
  rate.set_value(2);
  EXPECT_EQ(to_vector<float>(session.step({}, options).parameters.at("e")), (std::vector<float>{-6, -8, 0, 0, -2, -4}));
}

TEST(Training, ValidationChangesNothing) {
  Client client = shared_client();
  Session session = new_session(client, sgd(1), std::vector<float>{0});
  StepOptions options;
  options.start.set_validate_only(true);
  const std::vector<float> gradient{1};
  EXPECT_EQ(session.step({{"w", gradient}}, options)->outcome(), v1::STEP_OUTCOME_VALIDATED);
  EXPECT_EQ(session.step({{"w", gradient}})->sequence(), 1);
}

TEST(Training, StreamKeepsOrder) {
  Client client = shared_client();
  Session session = new_session(client, sgd(1), std::vector<float>(1000));
  StepStream stream = session.stream(4);
  std::vector<std::vector<float>> gradients;
  std::vector<std::future<StepResult>> results;
  for (int i = 0; i < 20; ++i) gradients.emplace_back(1000, static_cast<float>(i));
  for (const auto& gradient : gradients) results.push_back(stream.submit({{"w", gradient}}, pulling()));
  float sum = 0;
  for (int i = 0; i < 20; ++i) {
    const StepResult result = results[i].get();
    sum -= static_cast<float>(i);
    EXPECT_EQ(result->step(), i + 1);
    EXPECT_EQ(result->sequence(), i + 1);
    EXPECT_EQ(to_vector<float>(result.parameters.at("w"))[999], sum);
  }
  EXPECT_EQ(session.step({{"w", gradients[1]}})->sequence(), 21);  // numbered with those of the stream
  EXPECT_THROW(session.stream(65), Error);
}

TEST(Training, ThreadsShareAHandle) {
  Client client = shared_client();
  Session session = new_session(client, sgd(1), std::vector<float>{0});
  StepStream stream = session.stream(3);
  const std::vector<float> gradient{1};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < 25; ++i) {
        if (thread % 2 == 0) {
          session.step({{"w", gradient}}, pulling());
        } else {
          stream.submit({{"w", gradient}}).get();
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const Parameters found = session.pull();
  EXPECT_EQ(found.step, 100);
  EXPECT_EQ(to_vector<float>(found.tensors.at("w")), std::vector<float>{-100});
}

TEST(Sessions, PushPullMetricsAndUpdate) {
  Client client = shared_client();
  v1::SessionSpec spec = sgd(1);
  spec.mutable_reduce_on_plateau()->set_patience(1);
  Session session = new_session(client, spec, std::vector<float>{1, 2});
  const std::vector<float> values{5, 6};
  session.push({{"w", values}});
  const Parameters pulled = session.pull();
  EXPECT_EQ(to_vector<float>(pulled.tensors.at("w")), values);
  v1::PullParametersRequest newer;
  newer.set_if_newer_than_step(pulled.step);
  EXPECT_FALSE(session.pull(newer).is_modified);
  newer.Clear();
  newer.set_newer_than_step(0);
  auto waiting = std::async(std::launch::async, [&] { return session.pull(newer); });
  session.step({{"w", values}});
  EXPECT_EQ(to_vector<float>(waiting.get().tensors.at("w")), (std::vector<float>{0, 0}));

  v1::ReportMetricsRequest report;
  report.set_name(session.name());
  v1::Metric& loss = *report.add_metrics();
  loss.set_name("val_loss");
  loss.set_value(1);
  EXPECT_FALSE(client.call(&Sessions::ReportMetrics, report).reduced());
  loss.set_value(2);
  EXPECT_TRUE(client.call(&Sessions::ReportMetrics, report).reduced());
  v1::UpdateSessionRequest update;
  update.set_name(session.name());
  *update.mutable_spec() = sgd(3);
  update.set_expected_step(1);
  client.call(&Sessions::UpdateSession, update);
  EXPECT_EQ(client.open_session(session.name()).info().spec().optimizer().sgd().learning_rate(), 3);
  v1::ListSessionsRequest all;
  all.set_page_size(1000);
  const auto listed = client.call(&Sessions::ListSessions, all);
  EXPECT_TRUE(std::any_of(listed.sessions().begin(), listed.sessions().end(),
                          [&](const auto& one) { return one.name() == session.name(); }));
}

TEST(Sessions, LargeValuesAreUploaded) {
  Client client = shared_client();
  std::vector<float> w(400'000);
  std::iota(w.begin(), w.end(), 0.F);
  Session session = new_session(client, sgd(1), w);
  EXPECT_EQ(to_vector<float>(session.pull().tensors.at("w")), w);
  session.delete_session();
}

TEST(Sessions, SnapshotsForksAndFiles) {
  Client client = shared_client();
  Session session = new_session(client, sgd(1), std::vector<float>{0});
  const std::vector<float> one{1};
  session.step({{"w", one}});
  const v1::Snapshot snapshot = save(client, session);
  EXPECT_EQ(snapshot.step(), 1);
  session.step({{"w", one}});
  const v1::Snapshot later = save(client, session);
  v1::ListSnapshotsRequest list;
  list.set_name(session.name());
  EXPECT_EQ(client.call(&Sessions::ListSnapshots, list).snapshots(1).step(), 1);
  v1::ForkSessionRequest of_snapshot;
  of_snapshot.set_name(snapshot.name());
  Session fork = session.fork(of_snapshot);
  EXPECT_EQ(fork.step({{"w", one}})->step(), 2);
  std::stringstream file;
  EXPECT_EQ(client.export_session(snapshot.name(), file), 1);
  Session import = client.import_session(file);
  EXPECT_EQ(to_vector<float>(import.pull().tensors.at("w")), std::vector<float>{-1});
  v1::DeleteSnapshotRequest deletion;
  deletion.set_name(snapshot.name());
  client.call(&Sessions::DeleteSnapshot, deletion);
  const v1::ListSnapshotsResponse left = client.call(&Sessions::ListSnapshots, list);
  for (const v1::Snapshot& other : left.snapshots()) {
    EXPECT_FALSE(other.kept() && other.step() == 1);
  }
  session.step({{"w", one}});
  v1::RestoreSnapshotRequest restore;
  restore.set_name(later.name());
  EXPECT_EQ(client.call(&Sessions::RestoreSnapshot, restore).session().step(), 2);
}

TEST(Sessions, WatchUntilTheSessionIsDeleted) {
  Client client = shared_client();
  Session session = new_session(client, sgd(1), std::vector<float>{0});
  std::vector<int> events;
  session.watch([&](const v1::WatchSessionResponse& event) {
    events.push_back(event.event_case());
    if (event.has_began()) session.step({{"w", std::vector<float>{1}}});
    if (event.has_step()) session.delete_session();
    return true;
  });
  EXPECT_EQ(events, (std::vector<int>{v1::WatchSessionResponse::kBegan, v1::WatchSessionResponse::kStep,
                                      v1::WatchSessionResponse::kDeleted}));
}

TEST(Sessions, MembersOfASyncSession) {
  Client client = shared_client();
  v1::SessionSpec spec = sgd(1);
  spec.mutable_coordination()->mutable_sync();
  Session first = new_session(client, spec, std::vector<float>{0});
  Session second = client.open_session(first.name(), "second");
  const v1::JoinSessionResponse joined = first.join(std::chrono::seconds(20));
  EXPECT_EQ(joined.lease_seconds(), 20);
  EXPECT_EQ(second.join().rank(), 1);
  const std::vector<float> one{1}, three{3};
  for (int step = 1; step <= 3; ++step) {
    auto other = std::async(std::launch::async, [&] { return second.step({{"w", three}}, pulling()); });
    const StepResult result = first.step({{"w", one}}, pulling());
    EXPECT_EQ(result->contributions(), 2);
    EXPECT_EQ(to_vector<float>(result.parameters.at("w")), std::vector<float>{-2.F * static_cast<float>(step)});
    EXPECT_EQ(other.get().result.step(), step);
  }
  v1::RenewLeaseRequest renewal;
  renewal.set_session(first.name());
  renewal.set_worker(first.worker());
  renewal.set_worker_epoch(joined.epoch());
  EXPECT_EQ(client.call(&v1::WorkerService::Stub::RenewLease, renewal).step(), 3);
  v1::ListWorkersRequest members;
  members.set_session(first.name());
  EXPECT_EQ(client.call(&v1::WorkerService::Stub::ListWorkers, members).workers_size(), 2);
  second.leave();
  EXPECT_EQ(first.step({{"w", one}})->contributions(), 1);
}

TEST(Functions, WithoutASession) {
  Client client = shared_client();
  v1::EvaluateScheduleRequest schedule;
  schedule.mutable_schedule()->mutable_constant()->set_value(0.5);
  schedule.mutable_steps()->add_steps(3);
  const auto rates = client.call(&v1::FunctionService::Stub::EvaluateSchedule, schedule);
  EXPECT_EQ(to_vector<double>(rates.values()), std::vector<double>{0.5});
  EXPECT_GT(capabilities(client).features_size(), 0);
}

}  // namespace
}  // namespace optserve::test
