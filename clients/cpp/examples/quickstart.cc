/// @file
/// Trains a classifier of iris flowers on a server: one dense layer, with five optimizers. This program only multiplies
/// matrices; the server computes softmax, loss and their gradients, and takes the steps.
///
///     optserve_quickstart iris.csv [HOST:PORT] [EPOCHS]

#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "optserve/optserve.h"
#include "optserve/v1/function_service.grpc.pb.h"

namespace {

namespace v1 = optserve::v1;

constexpr std::size_t kFeatures = 4, kClasses = 3, kTestCount = 30, kBatchSize = 32;
constexpr double kLearningRate = 0.1;
constexpr int kEpochs = 500;

/// The shuffle of the Python demo, numpy.random.default_rng(0).permutation(150), so that the numbers are the same.
constexpr std::array<std::size_t, 150> kOrder{
    71,  108, 54,  118, 130, 52,  64, 110, 119, 42,  87,  72,  116, 85,  5,   91,  53, 16,  39,  123, 106, 98,
    99,  97,  102, 13,  129, 140, 74, 134, 136, 148, 147, 1,   84,  2,   132, 11,  37, 122, 93,  131, 23,  139,
    48,  38,  36,  68,  20,  145, 34, 10,  27,  50,  124, 25,  43,  144, 8,   117, 44, 9,   111, 92,  22,  19,
    125, 90,  142, 126, 88,  4,   55, 75,  17,  80,  3,   83,  109, 15,  100, 30,  66, 35,  107, 81,  137, 28,
    82,  18,  6,   67,  65,  94,  24, 133, 57,  21,  105, 114, 103, 47,  0,   60,  70, 62,  45,  86,  63,  26,
    51,  101, 112, 49,  128, 146, 41, 40,  96,  135, 61,  12,  79,  141, 32,  56,  89, 46,  58,  14,  73,  138,
    143, 115, 31,  104, 77,  76,  7,  149, 69,  113, 127, 121, 78,  120, 59,  29,  33, 95};

/// A flower.
struct Example {
  std::array<float, kFeatures> features;
  std::size_t label;
};

using Examples = std::vector<Example>;

/// Reads the flowers in their order.
Examples load(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);  // the header
  Examples rows;
  while (std::getline(file, line)) {
    std::istringstream fields(line);
    Example& row = rows.emplace_back();
    std::string field;
    for (float& feature : row.features) {
      std::getline(fields, field, ',');
      feature = std::stof(field);
    }
    std::getline(fields, field);
    row.label = field == "setosa" ? 0 : field == "versicolor" ? 1 : 2;
  }
  if (rows.size() != kOrder.size()) throw std::runtime_error(path + " is not the table of iris flowers");
  Examples found;
  for (const std::size_t index : kOrder) found.push_back(rows[index]);
  return found;
}

/// A dense layer whose parameters are trained in a session. It rounds once in each product and sum, as the matrix
/// products of the Python demo do.
class Model {
 public:
  Model(optserve::Client& client, const v1::OptimizerSpec& optimizer)
      : client_(client), session_(create(client, optimizer)) {
    step_.into = {{"weights", weights_}, {"bias", bias_}};
    session_.pull({}, step_.into);
  }

  /// Takes a step with each batch, and returns the mean loss.
  double train(const Examples& examples) {
    double sum = 0;
    int batches = 0;
    for (std::size_t start = 0; start < examples.size(); start += kBatchSize) {
      const std::size_t stop = std::min(start + kBatchSize, examples.size());
      sum += train_batch({examples.begin() + static_cast<std::ptrdiff_t>(start),
                          examples.begin() + static_cast<std::ptrdiff_t>(stop)});
      ++batches;
    }
    steps_ += batches;
    return sum / batches;
  }

  /// The share of flowers whose largest output is that of their class.
  double accuracy(const Examples& examples) const {
    const std::vector<float> outputs = forward(examples);
    int correct = 0;
    for (std::size_t i = 0; i < examples.size(); ++i) {
      const auto* row = &outputs[i * kClasses];
      correct += std::max_element(row, row + kClasses) - row == static_cast<std::ptrdiff_t>(examples[i].label);
    }
    return static_cast<double>(correct) / static_cast<double>(examples.size());
  }

  int steps() const { return steps_; }
  void delete_session() { session_.delete_session(); }

 private:
  static optserve::Session create(optserve::Client& client, const v1::OptimizerSpec& optimizer) {
    v1::SessionSpec spec;
    *spec.mutable_optimizer() = optimizer;
    v1::InitializerSpec small;
    small.mutable_truncated_normal()->set_stddev(0.1);
    return client.create_session(spec, {optserve::parameter("weights", small, {kFeatures, kClasses}),
                                        optserve::parameter("bias", small, {kClasses})});
  }

  std::vector<float> forward(const Examples& batch) const {
    std::vector<float> outputs(batch.size() * kClasses);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const std::size_t column = i % kClasses;
      for (std::size_t f = 0; f < kFeatures; ++f) {
        outputs[i] = std::fma(batch[i / kClasses].features[f], weights_[f * kClasses + column], outputs[i]);
      }
      outputs[i] += bias_[column];
    }
    return outputs;
  }

  /// Goes backwards through loss, softmax and dense layer, and takes a step.
  double train_batch(const Examples& batch) {
    const std::vector<float> outputs = forward(batch);
    const optserve::Shape shape{static_cast<std::int64_t>(batch.size()), kClasses};
    std::vector<float> target(outputs.size());
    for (std::size_t i = 0; i < batch.size(); ++i) target[i * kClasses + batch[i].label] = 1;

    v1::ComputeActivationRequest softmax;
    softmax.mutable_activation()->mutable_softmax();
    *softmax.mutable_input() = optserve::TensorView(outputs, shape).message();
    v1::ComputeLossRequest loss;
    loss.mutable_loss()->mutable_mean_squared_error();
    *loss.mutable_prediction() = client_.call(&v1::FunctionService::Stub::ComputeActivation, softmax).output();
    *loss.mutable_target() = optserve::TensorView(target, shape).message();
    loss.set_gradient(true);
    const v1::ComputeLossResponse computed = client_.call(&v1::FunctionService::Stub::ComputeLoss, loss);
    v1::ComputeActivationGradientRequest backward;
    *backward.mutable_activation() = softmax.activation();
    *backward.mutable_input() = softmax.input();
    *backward.mutable_output_gradient() = computed.gradient();
    const auto gradient = optserve::to_vector<float>(
        client_.call(&v1::FunctionService::Stub::ComputeActivationGradient, backward).input_gradient());

    std::array<float, kFeatures * kClasses> weights{};
    std::array<float, kClasses> bias{};
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      const std::size_t column = i % kClasses;
      bias[column] += gradient[i];
      for (std::size_t f = 0; f < kFeatures; ++f) {
        float& weight = weights[f * kClasses + column];
        weight = std::fma(batch[i / kClasses].features[f], gradient[i], weight);
      }
    }
    session_.step({{"weights", weights}, {"bias", bias}}, step_);
    return computed.value();
  }

  optserve::Client& client_;
  optserve::Session session_;
  std::array<float, kFeatures * kClasses> weights_{};  // filled by every step
  std::array<float, kClasses> bias_{};
  optserve::StepOptions step_;
  int steps_ = 0;
};

std::vector<std::pair<const char*, v1::OptimizerSpec>> optimizers() {
  std::vector<std::pair<const char*, v1::OptimizerSpec>> found{
      {"SGD", {}}, {"momentum", {}}, {"AdaGrad", {}}, {"RMSProp", {}}, {"Adam", {}}};
  found[0].second.mutable_sgd()->set_learning_rate(kLearningRate);
  found[1].second.mutable_momentum()->set_learning_rate(kLearningRate);
  found[2].second.mutable_adagrad()->set_learning_rate(kLearningRate);
  found[3].second.mutable_rmsprop()->set_learning_rate(kLearningRate);
  found[4].second.mutable_adam()->set_learning_rate(kLearningRate);
  for (auto& [name, optimizer] : found) optimizer.set_convention(v1::CONVENTION_LECTURE);
  return found;
}

/// Trains with each optimizer and prints the table.
void run(const std::string& path, const std::string& server, int epochs) {
  optserve::Client client(server);
  const Examples all = load(path), training(all.begin(), all.end() - kTestCount),
                 test(all.end() - kTestCount, all.end());
  std::ostringstream table;
  const auto print_line = [&table](const char* format, auto... values) {
    std::array<char, 128> line{};
    std::snprintf(line.data(), line.size(), format, values...);
    table << line.data();
  };
  print_line("%-12s%12s%16s%10s\n", "optimizer", "final loss", "test accuracy", "steps/s");
  for (const auto& [name, optimizer] : optimizers()) {
    Model model(client, optimizer);
    const auto begun = std::chrono::steady_clock::now();
    double loss = 0;
    for (int epoch = 1; epoch <= epochs; ++epoch) {
      loss = model.train(training);
      std::fprintf(stderr, "\r%-10s epoch %d of %d, loss %.4f ", name, epoch, epochs, loss);
    }
    std::fputc('\n', stderr);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begun;
    print_line("%-12s%12.8f%15.1f%%%10.0f\n", name, loss, 100 * model.accuracy(test), model.steps() / elapsed.count());
    model.delete_session();
  }
  std::cout << table.str();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr
        << "usage: optserve_quickstart iris.csv [HOST:PORT] [EPOCHS]; without a server, OPTSERVE_SERVER is used\n";
    return 2;
  }
  try {
    run(argv[1], argc > 2 ? argv[2] : "", argc > 3 ? std::stoi(argv[3]) : kEpochs);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  return 0;
}
