#pragma once

#include <cstddef>
#include <string>

#include "optserve/tensor.h"

namespace optserve::internal {

/// Bytes of an element; 0 if the type is not known.
std::size_t width(v1::DataType dtype);

/// Number of elements of a shape.
std::size_t count(const Shape& shape);

/// Checks that a tensor has a shape, or is flat and has its elements.
void check_shape(const std::string& name, const TensorView& tensor, const Shape& shape);

/// Checks that elements of one type can be sent or received as another: the same, or both floating.
void check_convertible(const std::string& name, v1::DataType from, v1::DataType to);

/// Converts elements; both types are convertible. Rounds to nearest, ties to even.
void convert(const void* from, v1::DataType from_type, void* to, v1::DataType to_type, std::size_t count);

}  // namespace optserve::internal
