#pragma once

#include <cstddef>
#include <iterator>
#include <type_traits>
#include <utility>

namespace optserve {

/// A view of contiguous elements, as std::span of C++20. std::vector, std::array, arrays and std::span convert to it.
template <class T>
class span {
 public:
  using element_type = T;
  using value_type = std::remove_cv_t<T>;

  constexpr span() noexcept = default;
  constexpr span(T* data, std::size_t size) noexcept : data_(data), size_(size) {}
  /// A view of a container, which must live as long as the view is used.
  template <class Container, class Pointer = decltype(std::data(std::declval<Container&>())),
            class = std::enable_if_t<!std::is_same_v<std::decay_t<Container>, span> &&
                                     std::is_convertible_v<std::remove_pointer_t<Pointer> (*)[], T (*)[]>>>
  constexpr span(Container&& container) : data_(std::data(container)), size_(std::size(container)) {}

  constexpr T* data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  constexpr T* begin() const noexcept { return data_; }
  constexpr T* end() const noexcept { return data_ + size_; }
  constexpr T& operator[](std::size_t index) const { return data_[index]; }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace optserve
