#include "numbers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>

#include "failures.h"

namespace optserve {
namespace {

template <class To, class From>
To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

double power_of_two(int exponent) { return bits_as<double>(static_cast<std::uint64_t>(1023 + exponent) << 52); }

/// A floating number of 16 bits, with an exponent of 15 - kMantissa bits.
template <int kMantissa>
struct Half {
  static constexpr int kBias = (1 << (14 - kMantissa)) - 1;
  static constexpr std::uint16_t kInfinity = 0x7fff >> kMantissa << kMantissa;

  Half() = default;
  /// Rounds to nearest, ties to even.
  explicit Half(double value) {
    const auto magnitude = std::abs(value);
    const int exponent = std::max(static_cast<int>(bits_as<std::uint64_t>(magnitude) >> 52) - 1023, 1 - kBias);
    if (exponent > kBias) {
      bits = std::isnan(value) ? kInfinity | 1 << (kMantissa - 1) : kInfinity;
    } else {
      // In units of the last bit, which the addition rounds away; a carry goes to the exponent.
      const double units = magnitude * power_of_two(kMantissa - exponent);
      bits =
          static_cast<std::uint16_t>(((exponent + kBias - 1) << kMantissa) + static_cast<int>(units + 0x1p52 - 0x1p52));
    }
    if (std::signbit(value)) bits |= 0x8000;
  }
  explicit operator double() const {
    const std::uint64_t magnitude = static_cast<std::uint64_t>(bits & 0x7fff) << (52 - kMantissa);
    const double value = (bits & 0x7fff) >= kInfinity ? bits_as<double>(magnitude | 0x7ffULL << 52)
                                                      : bits_as<double>(magnitude) * power_of_two(1023 - kBias);
    return std::copysign(value, (bits & 0x8000) != 0 ? -1.0 : 1.0);
  }

  std::uint16_t bits = 0;
};

/// Calls with an element of a floating type.
template <class Call>
void dispatch(v1::DataType dtype, const Call& call) {
  if (dtype == v1::DATA_TYPE_FLOAT16) call(Half<10>());
  if (dtype == v1::DATA_TYPE_BFLOAT16) call(Half<7>());
  if (dtype == v1::DATA_TYPE_FLOAT32) call(float());
  if (dtype == v1::DATA_TYPE_FLOAT64) call(double());
}

bool is_floating(v1::DataType dtype) { return dtype >= v1::DATA_TYPE_FLOAT16 && dtype <= v1::DATA_TYPE_FLOAT64; }

std::string text(const Shape& shape) {
  std::string found;
  for (const std::int64_t extent : shape) found += (found.empty() ? "" : ", ") + std::to_string(extent);
  return "[" + found + "]";
}

}  // namespace

TensorView::TensorView(const void* data, std::size_t size, v1::DataType dtype, std::optional<Shape> shape)
    : data_(data), size_(size), dtype_(dtype), shape_(std::move(shape)) {
  if (shape_) internal::check_shape("shape", TensorView(data, size, dtype), *shape_);
}

TensorView::TensorView(const v1::Tensor& message)
    : TensorView(message.data().data(),
                 message.data().size() / std::max<std::size_t>(internal::width(message.dtype()), 1), message.dtype(),
                 Shape(message.shape().begin(), message.shape().end())) {}

v1::Tensor TensorView::message() const {
  v1::Tensor message;
  message.set_dtype(dtype_);
  for (const std::int64_t extent : shape_.value_or(Shape{static_cast<std::int64_t>(size_)})) message.add_shape(extent);
  message.set_data(data_, size_ * internal::width(dtype_));
  return message;
}

namespace internal {

std::size_t width(v1::DataType dtype) {
  if (dtype == v1::DATA_TYPE_FLOAT16 || dtype == v1::DATA_TYPE_BFLOAT16) return 2;
  if (dtype == v1::DATA_TYPE_FLOAT32 || dtype == v1::DATA_TYPE_INT32) return 4;
  return dtype == v1::DATA_TYPE_FLOAT64 || dtype == v1::DATA_TYPE_INT64 ? 8 : 0;
}

std::size_t count(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>());
}

void check_shape(const std::string& name, const TensorView& tensor, const Shape& shape) {
  if (tensor.size() == count(shape) && (!tensor.shape() || *tensor.shape() == shape)) return;
  const Shape own = tensor.shape().value_or(Shape{static_cast<std::int64_t>(tensor.size())});
  throw rejection(v1::ERROR_REASON_SHAPE_MISMATCH, name, "the shape is " + text(own) + ", but must be " + text(shape));
}

void check_convertible(const std::string& name, v1::DataType from, v1::DataType to) {
  if ((from == to && width(from) > 0) || (is_floating(from) && is_floating(to))) return;
  throw rejection(v1::ERROR_REASON_DTYPE_MISMATCH, name,
                  v1::DataType_Name(from) + " cannot be converted to " + v1::DataType_Name(to));
}

void convert(const void* from, v1::DataType from_type, void* to, v1::DataType to_type, std::size_t count) {
  if (from_type == to_type) {
    std::memcpy(to, from, count * width(to_type));
    return;
  }
  dispatch(from_type, [&](auto source) {
    dispatch(to_type, [&](auto target) {
      const auto* read = static_cast<const decltype(source)*>(from);
      auto* write = static_cast<decltype(target)*>(to);
      for (std::size_t i = 0; i < count; ++i) {
        write[i] = static_cast<decltype(target)>(static_cast<double>(read[i]));
      }
    });
  });
}

}  // namespace internal
}  // namespace optserve
