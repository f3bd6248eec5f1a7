#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "optserve/v1/tensor.pb.h"

namespace optserve {

/// Extent of each dimension, outermost first.
using Shape = std::vector<std::int64_t>;

/// The contract's element type of float, double, int32_t or int64_t.
template <class T>
inline constexpr v1::DataType data_type_of = std::is_same_v<T, float>          ? v1::DATA_TYPE_FLOAT32
                                             : std::is_same_v<T, double>       ? v1::DATA_TYPE_FLOAT64
                                             : std::is_same_v<T, std::int32_t> ? v1::DATA_TYPE_INT32
                                             : std::is_same_v<T, std::int64_t> ? v1::DATA_TYPE_INT64
                                                                               : v1::DATA_TYPE_UNSPECIFIED;

/// A read-only view of a flat array as a row-major tensor. The array is not copied.
class TensorView {
  template <class Container>
  using Element = std::remove_pointer_t<decltype(std::data(std::declval<Container&>()))>;

 public:
  /// No tensor.
  TensorView() = default;
  /// A view of a vector, array or span.
  ///
  /// @param values the elements
  /// @param shape one dimension if it is left out; as a gradient or a parameter of a session, the shape there
  /// @throws Error SHAPE_MISMATCH if the shape has another number of elements
  template <class Container, v1::DataType dtype = data_type_of<std::remove_cv_t<Element<const Container>>>,
            class = std::enable_if_t<dtype != v1::DATA_TYPE_UNSPECIFIED>>
  TensorView(const Container& values, std::optional<Shape> shape = std::nullopt)
      : TensorView(std::data(values), std::size(values), dtype, std::move(shape)) {}
  /// A view of elements of any type.
  TensorView(const void* data, std::size_t size, v1::DataType dtype, std::optional<Shape> shape = std::nullopt);
  /// A view of a tensor in the contract's form.
  TensorView(const v1::Tensor& message);

  const void* data() const { return data_; }
  /// Number of elements.
  std::size_t size() const { return size_; }
  v1::DataType dtype() const { return dtype_; }
  /// The shape, if the view states one.
  const std::optional<Shape>& shape() const { return shape_; }
  /// A copy in the contract's form.
  v1::Tensor message() const;

 private:
  const void* data_ = nullptr;
  std::size_t size_ = 0;
  v1::DataType dtype_ = v1::DATA_TYPE_UNSPECIFIED;
  std::optional<Shape> shape_;
};

/// A view of a flat array that is filled with parameters: of float, double, or a 16-bit type.
class MutableTensorView : public TensorView {
 public:
  /// A view of a vector, array or span that is not const.
  template <class Container,
            class = std::enable_if_t<std::is_convertible_v<decltype(std::data(std::declval<Container&>())), void*>>>
  MutableTensorView(Container&& values) : TensorView(values), mutable_(std::data(values)) {}
  /// A view of elements of any type.
  MutableTensorView(void* data, std::size_t size, v1::DataType dtype) : TensorView(data, size, dtype), mutable_(data) {}

  void* mutable_data() const { return mutable_; }

 private:
  void* mutable_;
};

/// Read-only tensors by name.
using TensorViews = std::map<std::string, TensorView>;
/// Arrays that are filled, by tensor name.
using MutableTensorViews = std::map<std::string, MutableTensorView>;
/// Tensors with their own memory, by name.
using Tensors = std::map<std::string, v1::Tensor>;

/// The elements of a tensor in the contract's form; none if they have another type.
template <class T>
std::vector<T> to_vector(const v1::Tensor& tensor) {
  std::vector<T> values(tensor.dtype() == data_type_of<T> ? tensor.data().size() / sizeof(T) : 0);
  if (!values.empty()) std::memcpy(values.data(), tensor.data().data(), values.size() * sizeof(T));
  return values;
}

}  // namespace optserve
