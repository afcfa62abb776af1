// SPDX-License-Identifier: MIT
/// `row_view`: where the rows of a cache lie, without owning them.
#pragma once

#include <Eigen/Core>
#include <cassert>
#include <concepts>
#include <cstddef>
#include <limits>
#include <ranges>
#include <type_traits>

#include "kvfit/core/element.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {

namespace detail {

template <class Derived>
std::true_type is_eigen(const Eigen::DenseBase<Derived>&);
template <class Derived>
std::true_type is_plain(const Eigen::PlainObjectBase<Derived>&);

// clang-format off
/// An Eigen object that lies in memory as it is (matrix, map, block, transpose), not a formula.
template <class M>
concept eigen_in_memory = requires(const std::remove_cvref_t<M>& m) {
  is_eigen(m);
  m.data();
  { m.rowStride() } -> std::convertible_to<Eigen::Index>;
  requires storable<typename std::remove_cvref_t<M>::Scalar>;
};

template <class Plain, int Options, class Stride>
std::true_type is_const_ref(const Eigen::Ref<const Plain, Options, Stride>&);

/// A matrix, or a reference to const, which may hold a copy.
template <class M>
concept owns_memory = requires(const std::remove_cvref_t<M>& m) { is_plain(m); } ||
                      requires(const std::remove_cvref_t<M>& m) { is_const_ref(m); };

/// A matrix that would be gone by the end of the statement.
template <class M>
concept dying_matrix = std::is_rvalue_reference_v<M&&> && owns_memory<M>;
// clang-format on

}  // namespace detail

/// A non-owning, strided view of rows × cols elements of fp32, fp16 or bf16.
///
/// Element (i, j) lies at `data + i · row_stride + j · col_stride`, strides counted in elements and
/// free to be zero or negative. The memory must outlive the view; nothing is ever copied: a
/// temporary matrix, or an expression such as `A + B`, does not convert and so does not compile.
///
///     row_view keys = eigen_matrix;                               // lvalues, maps, blocks
///     row_view values(half_pointer, tokens, head_dim, row_stride);  // raw memory
///     row_view v_t = row_view(v_pointer, head_dim, tokens).transposed();
class row_view {
 public:
  row_view() = default;

  /// rows × cols elements from raw memory; consecutive rows are `row_stride` elements apart.
  template <storable T>
  row_view(const T* data, index rows, index cols, index row_stride, index col_stride = 1) noexcept
      : data_(reinterpret_cast<const std::byte*>(data)),
        type_(dtype_of<T>),
        rows_(rows),
        cols_(cols),
        row_stride_(row_stride),
        col_stride_(col_stride) {}

  /// rows × cols elements, row-major without gaps.
  template <storable T>
  row_view(const T* data, index rows, index cols) noexcept : row_view(data, rows, cols, cols) {}

  /// The same for a type known only at run time.
  row_view(const void* data, dtype type, index rows, index cols, index row_stride,
           index col_stride = 1) noexcept
      : data_(static_cast<const std::byte*>(data)),
        type_(type),
        rows_(rows),
        cols_(cols),
        row_stride_(row_stride),
        col_stride_(col_stride) {}

  // clang-format off
  /// An Eigen matrix, map, block or transpose, of either storage order.
  template <class M>
  requires(detail::eigen_in_memory<M> && !detail::dying_matrix<M>)
  row_view(M&& m) noexcept  // NOLINT(*-explicit-*, *-forwarding-*)
      : row_view(m.data(), m.rows(), m.cols(), m.rowStride(), m.colStride()) {}
  // clang-format on

  [[nodiscard]] index rows() const noexcept { return rows_; }
  [[nodiscard]] index cols() const noexcept { return cols_; }
  [[nodiscard]] index row_stride() const noexcept { return row_stride_; }
  [[nodiscard]] index col_stride() const noexcept { return col_stride_; }
  [[nodiscard]] dtype type() const noexcept { return type_; }
  [[nodiscard]] const void* data() const noexcept { return data_; }
  [[nodiscard]] bool empty() const noexcept { return rows_ <= 0 || cols_ <= 0; }

  /// Element (i, j) as fp32: exact for all three types.
  [[nodiscard]] float operator()(index i, index j) const noexcept {
    const std::byte* at = address(i, j);
    switch (type_) {
      case dtype::fp16:
        return to_float(*reinterpret_cast<const fp16*>(at));
      case dtype::bf16:
        return to_float(*reinterpret_cast<const bf16*>(at));
      case dtype::fp32:
        break;
    }
    return *reinterpret_cast<const float*>(at);
  }

  /// Where element (i, j) lies.
  [[nodiscard]] const std::byte* address(index i, index j) const noexcept {
    assert(i >= 0 && i < rows_ && j >= 0 && j < cols_);
    return data_ + (i * row_stride_ + j * col_stride_) * static_cast<index>(size_of(type_));
  }

  /// Rows and columns exchanged.
  [[nodiscard]] row_view transposed() const noexcept {
    return {data_, type_, cols_, rows_, col_stride_, row_stride_};
  }

  /// Rows first … first + count − 1.
  [[nodiscard]] row_view middle_rows(index first, index count) const noexcept {
    assert(first >= 0 && count >= 0 && first + count <= rows_);
    const std::byte* start = count > 0 && cols_ > 0 ? address(first, 0) : data_;
    return {start, type_, count, cols_, row_stride_, col_stride_};
  }

  /// Columns first … first + count − 1.
  [[nodiscard]] row_view middle_cols(index first, index count) const noexcept {
    return transposed().middle_rows(first, count).transposed();
  }

 private:
  const std::byte* data_ = nullptr;
  dtype type_ = dtype::fp32;
  index rows_ = 0;
  index cols_ = 0;
  index row_stride_ = 0;
  index col_stride_ = 1;
};

// clang-format off
/// A row-major view of a contiguous range (`std::span`, `std::vector`, `std::array`), whose length
/// must be rows × cols; otherwise `shape_mismatch`. A temporary container does not compile.
template <std::ranges::contiguous_range Range>
  requires(storable<std::ranges::range_value_t<Range>> && std::ranges::sized_range<Range> &&
           (std::is_lvalue_reference_v<Range> ||
            std::ranges::enable_borrowed_range<std::remove_cvref_t<Range>>))
result<row_view> make_view(Range&& elements, index rows, index cols) {
  // clang-format on
  const auto length = static_cast<index>(std::ranges::size(elements));
  constexpr index most = std::numeric_limits<index>::max();
  const bool is_product = rows >= 0 && cols >= 0 && (cols == 0 || rows <= most / cols);
  if (!is_product || rows * cols != length) {
    return error{errc::shape_mismatch, "elements", length, is_product ? rows * cols : error::none,
                 "length must be rows x cols"};
  }
  return row_view(std::ranges::data(elements), rows, cols);
}

}  // namespace kvfit
