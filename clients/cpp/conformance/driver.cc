/// @file
/// The C++ client's driver of the conformance corpus; see proto/optserve/conformance/v1/driver.proto.
///
///     optserve_conformance HOST:PORT

#include <grpcpp/grpcpp.h>
#include <sys/resource.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "optserve/conformance/v1/driver.pb.h"
#include "optserve/conformance/v1/echo_service.grpc.pb.h"
#include "optserve/optserve.h"
#include "optserve/v1/function_service.grpc.pb.h"
#include "optserve/v1/session_service.grpc.pb.h"

namespace {

namespace v1 = optserve::v1;
namespace driver = optserve::conformance::v1;
using driver::DriverRequest;
using driver::DriverResponse;
using optserve::Client;
using optserve::Session;

constexpr std::size_t kPrefixBytes = 4;

void fill(driver::Tensors& message, const optserve::Tensors& tensors) {
  for (const auto& [name, tensor] : tensors) {
    v1::NamedTensor* named = message.add_tensors();
    named->set_name(name);
    *named->mutable_tensor() = tensor;
  }
}

optserve::TensorViews views(const driver::Tensors& message) {
  optserve::TensorViews found;
  for (const v1::NamedTensor& named : message.tensors()) found.emplace(named.name(), named.tensor());
  return found;
}

optserve::Tensors pull(Session& session, v1::ParameterPoint point) {
  v1::PullParametersRequest request;
  request.mutable_pull()->set_point(point);
  return session.pull(request).tensors;
}

/// Deletes a session at the end of a scope.
class Deletion {
 public:
  explicit Deletion(Session& session) : session_(session) {}
  Deletion(const Deletion&) = delete;
  Deletion& operator=(const Deletion&) = delete;
  ~Deletion() {
    try {
      session_.delete_session();
    } catch (const optserve::Error& error) {
      std::cerr << error.what() << '\n';
    }
  }

 private:
  Session& session_;
};

std::vector<v1::ParameterInit> list(const google::protobuf::RepeatedPtrField<v1::ParameterInit>& parameters) {
  return {parameters.begin(), parameters.end()};
}

optserve::StepOptions options_of(const driver::TrainCall& call, int step) {
  optserve::StepOptions options;
  options.plan.mutable_pull();
  if (call.overrides_size() > 0) {
    *options.start.mutable_overrides() = call.overrides(step).overrides();
  }
  if (call.sparse_gradients_size() > 0) {
    for (const v1::SparseRows& rows : call.sparse_gradients(step).tensors()) {
      options.sparse[rows.name()] = {rows.indices(), rows.values()};
    }
  }
  return options;
}

void train(Client& client, const driver::TrainCall& call, driver::TrainAnswer& answer) {
  optserve::SessionOptions options;
  options.seed = call.seed();
  Session session = client.create_session(call.spec(), list(call.parameters()), options);
  const Deletion deletion(session);
  fill(*answer.mutable_initial(), pull(session, v1::PARAMETER_POINT_PARAMETERS));
  optserve::StepStream stream = session.stream();
  if (call.stream() && call.before() == 0 && call.after() == 0) {
    std::vector<std::future<optserve::StepResult>> results;
    for (int i = 0; i < call.gradients_size(); ++i) {
      results.push_back(stream.submit(views(call.gradients(i)), options_of(call, i)));
    }
    for (auto& result : results) fill(*answer.add_parameters(), result.get().parameters);
    return;
  }
  for (int i = 0; i < call.gradients_size(); ++i) {
    if (call.before() != 0) fill(*answer.add_before(), pull(session, call.before()));
    const optserve::TensorViews gradients = views(call.gradients(i));
    const auto result =
        call.stream() ? stream.step(gradients, options_of(call, i)) : session.step(gradients, options_of(call, i));
    fill(*answer.add_parameters(), result.parameters);
    if (call.after() != 0) fill(*answer.add_after(), pull(session, call.after()));
  }
}

void schedule(Client& client, const driver::ScheduleCall& call, driver::ScheduleAnswer& answer) {
  v1::EvaluateScheduleRequest request;
  *request.mutable_schedule() = call.schedule();
  *request.mutable_steps()->mutable_steps() = call.steps();
  *answer.mutable_values() = client.call(&v1::FunctionService::Stub::EvaluateSchedule, request).values();
}

void loss(Client& client, const driver::LossCall& call, driver::LossAnswer& answer) {
  v1::ComputeLossRequest request;
  *request.mutable_loss() = call.loss();
  *request.mutable_prediction() = call.prediction();
  *request.mutable_target() = call.target();
  if (call.has_sample_weight()) *request.mutable_sample_weight() = call.sample_weight();
  request.set_per_example(true);
  request.set_gradient(true);
  v1::ComputeLossResponse found = client.call(&v1::FunctionService::Stub::ComputeLoss, request);
  if (found.has_value()) answer.set_value(found.value());
  *answer.mutable_per_example() = found.per_example();
  *answer.mutable_gradient() = found.gradient();
}

void activation(Client& client, const driver::ActivationCall& call, driver::ActivationAnswer& answer) {
  v1::ComputeActivationRequest forward;
  v1::ComputeActivationGradientRequest backward;
  *forward.mutable_activation() = *backward.mutable_activation() = call.activation();
  *forward.mutable_input() = *backward.mutable_input() = call.input();
  if (call.has_slope()) *forward.mutable_slope() = *backward.mutable_slope() = call.slope();
  *backward.mutable_output_gradient() = call.output_gradient();
  *answer.mutable_output() = client.call(&v1::FunctionService::Stub::ComputeActivation, forward).output();
  const v1::ComputeActivationGradientResponse found =
      client.call(&v1::FunctionService::Stub::ComputeActivationGradient, backward);
  *answer.mutable_input_gradient() = found.input_gradient();
  if (found.has_slope_gradient()) *answer.mutable_slope_gradient() = found.slope_gradient();
}

void complexity(Client& client, const driver::ComplexityCall& call, driver::ComplexityAnswer& answer) {
  v1::EstimateComplexityRequest request;
  *request.mutable_network() = call.network();
  *answer.mutable_layers() = client.call(&v1::FunctionService::Stub::EstimateComplexity, request).layers();
}

void metrics(Client& client, const driver::MetricsCall& call, driver::MetricsAnswer& answer) {
  Session session =
      client.create_session(call.spec(), {optserve::parameter(call.parameter().name(), call.parameter().tensor())});
  const Deletion deletion(session);
  const optserve::TensorViews gradients{{call.gradient().name(), call.gradient().tensor()}};
  for (const double value : call.values()) {
    driver::MetricsReport& row = *answer.add_reports();
    if (!call.report_first()) row.set_learning_rate(session.step(gradients)->learning_rate());
    v1::ReportMetricsRequest request;
    request.set_name(session.name());
    v1::Metric& metric = *request.add_metrics();
    metric.set_name(call.metric());
    metric.set_value(value);
    const v1::ReportMetricsResponse report = client.call(&v1::SessionService::Stub::ReportMetrics, request);
    if (call.report_first() && !report.stopped()) row.set_learning_rate(session.step(gradients)->learning_rate());
    if (report.has_reduce_on_plateau()) *row.mutable_reduce_on_plateau() = report.reduce_on_plateau();
    if (report.has_early_stopping()) *row.mutable_early_stopping() = report.early_stopping();
    row.set_stopped(report.stopped());
    if (report.stopped()) break;
  }
  const auto [name, tensor] = *pull(session, v1::PARAMETER_POINT_PARAMETERS).begin();
  answer.mutable_parameter()->set_name(name);
  *answer.mutable_parameter()->mutable_tensor() = tensor;
}

void refuse(driver::Refusal& refusal, const optserve::Error& error) {
  refusal.set_reason(error.reason());
  refusal.set_field(error.field());
  refusal.set_code(error.code());
  refusal.set_not_applied(error.applied() == optserve::Applied::no);
}

/// What the calls of a transcript share.
class Transcript {
 public:
  void connect(const driver::ConnectCall& call) {
    session_.reset();
    optserve::ClientOptions options;
    options.token = call.token();
    client_.emplace(call.target(), options);
  }

  void open(const driver::OpenCall& call, driver::OpenAnswer& answer) {
    session_.reset();
    if (call.session().empty()) {
      optserve::SessionOptions options;
      options.worker = call.worker();
      session_.emplace(client_.value().create_session(call.spec(), list(call.parameters()), options));
    } else {
      session_.emplace(client_.value().open_session(call.session(), call.worker()));
    }
    answer.set_session(session_->name());
    answer.set_step(session_->info().step());
  }

  void join(const driver::JoinCall& call, driver::JoinAnswer& answer) {
    std::optional<std::chrono::duration<double>> lease;
    if (call.has_lease_seconds()) lease.emplace(call.lease_seconds());
    const v1::JoinSessionResponse joined = session_.value().join(lease);
    answer.set_epoch(joined.epoch());
    answer.set_rank(joined.rank());
  }

  void take_steps(const driver::StepsCall& call, driver::StepsAnswer& answer) {
    std::deque<std::future<optserve::StepResult>> in_flight;
    optserve::StepStream stream = session_.value().stream(std::max(call.window(), 1));
    const auto settle = [&] {
      const optserve::StepResult result = in_flight.front().get();
      in_flight.pop_front();
      add(answer, result);
    };
    try {
      for (int i = 0; i < call.gradients_size(); ++i) {
        optserve::StepOptions options;
        options.plan.mutable_pull();  // a member's next gradient is computed of them
        if (call.has_expected_step()) options.start.set_expected_step(call.expected_step() + i);
        optserve::Deadline deadline;
        if (call.has_timeout_seconds()) deadline = std::chrono::duration<double>(call.timeout_seconds());
        const optserve::TensorViews gradients = views(call.gradients(i));
        if (call.window() == 0) {
          add(answer, session_.value().step(gradients, options, deadline));
          continue;
        }
        try {
          in_flight.push_back(stream.submit(gradients, options, deadline));
        } catch (const optserve::Error&) {
          while (!in_flight.empty()) settle();  // an earlier step may have failed
          throw;
        }
      }
      while (!in_flight.empty()) settle();
    } catch (const optserve::Error& error) {
      refuse(*answer.mutable_refusal(), error);
      for (auto& result : in_flight) {
        if (result.valid()) result.wait();  // the gradients are used until then
      }
    }
  }

  void read(const driver::ReadCall& call, driver::ReadAnswer& answer) {
    v1::PullParametersRequest request;
    if (call.has_newer_than()) request.set_newer_than_step(call.newer_than());
    const optserve::Parameters found = session_.value().pull(request);
    fill(*answer.mutable_parameters(), found.tensors);
    answer.set_step(found.step);
  }

  void leave() { session_.value().leave(); }

 private:
  static void add(driver::StepsAnswer& answer, const optserve::StepResult& result) {
    driver::StepOutcome& outcome = *answer.add_outcomes();
    outcome.set_step(result->step());
    outcome.set_sequence(result->sequence());
    outcome.set_replayed(result->replayed());
  }

  std::optional<Client> client_;
  std::optional<Session> session_;
};

/// Exchanges bytes without the client.
class Echo {
 public:
  Echo(const std::string& target, std::int64_t byte_count, std::int64_t chunk_bytes)
      : bytes_(static_cast<std::size_t>(byte_count)), chunk_(static_cast<std::size_t>(chunk_bytes)) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    channel_ = grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
    stub_ = driver::EchoService::NewStub(channel_);
    stream_ = stub_->Exchange(&context_);
    driver::ExchangeRequest first;
    first.set_byte_count(byte_count);
    stream_->Write(first);
  }

  void run() {
    for (std::size_t sent = 0; sent < bytes_.size(); sent += chunk_) {
      request_.set_data(bytes_.data() + sent, std::min(chunk_, bytes_.size() - sent));
      stream_->Write(request_);
    }
    for (std::size_t received = 0; received < bytes_.size(); received += response_.data().size()) {
      if (!stream_->Read(&response_)) throw std::runtime_error("the exchange failed");
    }
  }

 private:
  std::vector<char> bytes_;
  std::size_t chunk_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<driver::EchoService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<driver::ExchangeRequest, driver::ExchangeResponse>> stream_;
  driver::ExchangeRequest request_;
  driver::ExchangeResponse response_;
};

/// Steps of a session of their own.
class Steps {
 public:
  Steps(const std::string& target, std::int64_t elements, driver::Way way)
      : gradient_(static_cast<std::size_t>(elements), 0.5F), parameters_(gradient_.size()), way_(way) {
    optserve::ClientOptions options;
    options.data_connections = way != driver::WAY_STREAM;
    Client client(target, options);
    v1::SessionSpec spec;
    spec.mutable_optimizer()->mutable_adam()->set_learning_rate(1e-3);
    v1::InitializerSpec zeros;
    zeros.mutable_zeros();
    session_.emplace(client.create_session(spec, {optserve::parameter("w", zeros, {elements})}));
    stream_.emplace(session_->stream(1));
    options_.into.emplace("w", parameters_);
    run();  // opens the stream
  }

  void run() {
    if (way_ == driver::WAY_HANDLE) {
      session_->step({{"w", gradient_}}, options_);
    } else {
      stream_->step({{"w", gradient_}}, options_);
    }
  }

 private:
  std::vector<float> gradient_, parameters_;
  driver::Way way_;
  optserve::StepOptions options_;
  std::optional<Session> session_;
  std::optional<optserve::StepStream> stream_;
};

/// What is timed, kept for later calls.
class Stopwatch {
 public:
  void time(const driver::TimeCall& call, driver::TimeAnswer& answer) {
    const Key key(call.target(), call.elements(), call.way(), call.chunk_bytes());
    if (call.way() == driver::WAY_ECHO) {
      constexpr std::int64_t kFloatBytes = sizeof(float);
      auto& echo = echoes_[key];
      if (!echo) echo = std::make_unique<Echo>(call.target(), call.elements() * kFloatBytes, call.chunk_bytes());
      measure(*echo, call.repeats(), answer);
    } else {
      auto& steps = steps_[key];
      if (!steps) steps = std::make_unique<Steps>(call.target(), call.elements(), call.way());
      measure(*steps, call.repeats(), answer);
    }
  }

 private:
  using Key = std::tuple<std::string, std::int64_t, driver::Way, std::int64_t>;

  template <class Work>
  static void measure(Work& work, int repeats, driver::TimeAnswer& answer) {
    const auto begun = std::chrono::steady_clock::now();
    for (int i = 0; i < repeats; ++i) work.run();
    answer.set_seconds(std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count());
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    answer.set_peak_bytes(std::int64_t{1024} * usage.ru_maxrss);
  }

  std::map<Key, std::unique_ptr<Echo>> echoes_;
  std::map<Key, std::unique_ptr<Steps>> steps_;
};

/// The driver.
class Driver {
 public:
  explicit Driver(const std::string& address) : client_(address) {}

  DriverResponse answer(const DriverRequest& request) {
    DriverResponse response;
    try {
      execute(request, response);
    } catch (const optserve::Error& error) {
      const bool is_transcript =
          request.call_case() >= DriverRequest::kConnect && request.call_case() <= DriverRequest::kLeave;
      if (error.reason() != v1::ERROR_REASON_UNSPECIFIED || is_transcript) {
        refuse(*response.mutable_refusal(), error);
      } else {
        response.set_failure(error.what());
      }
    } catch (const std::exception& error) {
      response.set_failure(error.what());
    }
    return response;
  }

 private:
  void execute(const DriverRequest& request, DriverResponse& response) {
    switch (request.call_case()) {
      case DriverRequest::kTrain:
        return train(client_, request.train(), *response.mutable_train());
      case DriverRequest::kSchedule:
        return schedule(client_, request.schedule(), *response.mutable_schedule());
      case DriverRequest::kLoss:
        return loss(client_, request.loss(), *response.mutable_loss());
      case DriverRequest::kActivation:
        return activation(client_, request.activation(), *response.mutable_activation());
      case DriverRequest::kComplexity:
        return complexity(client_, request.complexity(), *response.mutable_complexity());
      case DriverRequest::kMetrics:
        return metrics(client_, request.metrics(), *response.mutable_metrics());
      case DriverRequest::kConnect:
        response.mutable_connect();
        return transcript_.connect(request.connect());
      case DriverRequest::kOpen:
        return transcript_.open(request.open(), *response.mutable_open());
      case DriverRequest::kJoin:
        return transcript_.join(request.join(), *response.mutable_join());
      case DriverRequest::kSteps:
        return transcript_.take_steps(request.steps(), *response.mutable_steps());
      case DriverRequest::kRead:
        return transcript_.read(request.read(), *response.mutable_read());
      case DriverRequest::kLeave:
        response.mutable_leave();
        return transcript_.leave();
      case DriverRequest::kTime:
        return stopwatch_.time(request.time(), *response.mutable_time());
      default:
        response.set_unsupported("a call that is newer than this driver");
    }
  }

  Client client_;
  Transcript transcript_;
  Stopwatch stopwatch_;
};

}  // namespace

int main(int argc, char** argv) {
  Driver driver(argv[argc - 1]);
  std::array<char, kPrefixBytes> prefix{};
  while (std::cin.read(prefix.data(), kPrefixBytes)) {
    std::uint32_t length = 0;
    for (const char byte : prefix) length = length << 8 | static_cast<unsigned char>(byte);
    std::string body(length, '\0');
    DriverRequest request;
    if (!std::cin.read(body.data(), length) || !request.ParseFromString(body)) return 1;
    driver.answer(request).SerializeToString(&body);
    for (std::size_t i = 0; i < kPrefixBytes; ++i) prefix[i] = static_cast<char>(body.size() >> (8 * (3 - i)));
    std::cout.write(prefix.data(), kPrefixBytes).write(body.data(), static_cast<std::streamsize>(body.size())).flush();
  }
  return 0;
}
