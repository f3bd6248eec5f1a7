#include "numbers.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>

#include "failures.h"

namespace optserve {
namespace {

enum class float16 : std::uint16_t {};
enum class bfloat16 : std::uint16_t {};

template <class To, class From>
To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

/// The bits of a float next to a double, the last one set unless it is exact (round to odd), so that rounding once more
/// rounds the double correctly.
std::uint32_t odd_bits(double value) {
  const auto near = static_cast<float>(value);
  auto bits = bits_as<std::uint32_t>(near);
  if (near == value || std::isnan(value)) return bits;
  if (std::abs(static_cast<double>(near)) > std::abs(value)) --bits;
  return bits | 1;
}

template <class To, class From>
To convert_one(From value) {
  return static_cast<To>(value);
}

template <>
bfloat16 convert_one(double value) {
  const std::uint32_t bits = odd_bits(value);
  if (std::isnan(value)) return static_cast<bfloat16>(bits >> 16 | 0x40);
  return static_cast<bfloat16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <>
float16 convert_one(double value) {
  const std::uint32_t bits = odd_bits(value), magnitude = bits & 0x7fffffff;
  std::uint32_t found = 0;
  if (magnitude > 0x7f800000) {  // NaN
    found = 0x7e00;
  } else if (magnitude >= 0x477ff000) {  // rounds to 65536 at least
    found = 0x7c00;
  } else if (magnitude >= 0x38800000) {  // normal: the bias of the exponent changes from 127 to 15
    found = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
  } else {  // subnormal: a multiple of 2^-24
    found = static_cast<std::uint32_t>(std::nearbyint(std::abs(value) * 0x1p24));
  }
  return static_cast<float16>((bits >> 16 & 0x8000) | found);
}

template <>
double convert_one(bfloat16 value) {
  return bits_as<float>(static_cast<std::uint32_t>(value) << 16);
}

template <>
double convert_one(float16 value) {
  // The bits at a float's place, and the difference of the exponents' biases.
  const auto bits = static_cast<std::uint32_t>(value);
  float found = bits_as<float>((bits & 0x7fff) << 13) * 0x1p112F;
  if (found >= 65536) found = bits_as<float>(0x7f800000U | (bits & 0x3ff) << 13);
  return std::copysign(found, (bits & 0x8000) != 0 ? -1.0F : 1.0F);
}

/// Calls with an element of a floating type.
template <class Call>
void dispatch(v1::DataType dtype, const Call& call) {
  if (dtype == v1::DATA_TYPE_FLOAT16) call(float16());
  if (dtype == v1::DATA_TYPE_BFLOAT16) call(bfloat16());
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

bool is_convertible(v1::DataType from, v1::DataType to) {
  return (from == to && width(from) > 0) || (is_floating(from) && is_floating(to));
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
        write[i] = convert_one<decltype(target)>(convert_one<double>(read[i]));
      }
    });
  });
}

}  // namespace internal
}  // namespace optserve
