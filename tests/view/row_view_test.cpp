// SPDX-License-Identifier: MIT
#include "kvfit/view/row_view.hpp"

#include <array>
#include <limits>
#include <numeric>

#include "kvfit/view/make_view.hpp"
#include "support/catch.hpp"

namespace kvfit_test {
namespace {

using kvfit::dtype;
using kvfit::index_t;
using kvfit::row_view;
using column_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor>;

/// Element (i, j) = 10 i + j + 0.5: tells where it comes from, and is exact in fp16 and bf16.
template <class M>
M numbered(index_t rows, index_t cols) {
  M m(rows, cols);
  for (index_t i = 0; i < rows; ++i) {
    for (index_t j = 0; j < cols; ++j) {
      m(i, j) = static_cast<typename M::Scalar>(static_cast<float>(10 * i + j) + 0.5F);
    }
  }
  return m;
}

/// The view holds what the Eigen object holds.
template <class M>
void check_same(const row_view& view, const M& expected) {
  REQUIRE(view.rows() == expected.rows());
  REQUIRE(view.cols() == expected.cols());
  for (index_t i = 0; i < view.rows(); ++i) {
    for (index_t j = 0; j < view.cols(); ++j) {
      CAPTURE(i, j);
      CHECK(view(i, j) == static_cast<float>(expected(i, j)));
    }
  }
}

// What lives on may be viewed, in place; what dies at the end of the statement may not. See also
// tests/compile_fail.
static_assert(std::is_nothrow_constructible_v<row_view, kvfit::matrix&>);
static_assert(std::is_convertible_v<const kvfit::matrix&, row_view>);
static_assert(std::is_convertible_v<Eigen::Map<kvfit::matrix>, row_view>);
static_assert(!std::is_constructible_v<row_view, kvfit::matrix>);
static_assert(!std::is_constructible_v<row_view, const kvfit::matrix>);
static_assert(!std::is_constructible_v<row_view, Eigen::VectorXf>);
static_assert(!std::is_constructible_v<row_view, Eigen::MatrixXd&>);
static_assert(!std::is_constructible_v<row_view, Eigen::MatrixXi&>);

}  // namespace

TEST_CASE("A default view is empty", "[view][row_view]") {
  const row_view view;
  CHECK(view.rows() == 0);
  CHECK(view.cols() == 0);
  CHECK(view.empty());
  CHECK(view.data() == nullptr);
}

TEST_CASE("Eigen matrices of both storage orders become views of their own memory",
          "[view][row_view]") {
  const auto rows = numbered<kvfit::matrix>(5, 3);
  const row_view by_rows = rows;
  check_same(by_rows, rows);
  CHECK(by_rows.data() == rows.data());
  CHECK(by_rows.row_stride() == 3);
  CHECK(by_rows.col_stride() == 1);
  CHECK(by_rows.type() == dtype::fp32);
  CHECK_FALSE(by_rows.empty());

  const auto columns = numbered<column_major>(5, 3);
  const row_view by_columns = columns;
  check_same(by_columns, columns);
  CHECK(by_columns.data() == columns.data());
  CHECK(by_columns.row_stride() == 1);
  CHECK(by_columns.col_stride() == 5);
}

TEST_CASE("A view sees later changes of its memory", "[view][row_view]") {
  auto m = numbered<kvfit::matrix>(2, 2);
  const row_view view = m;
  m(1, 0) = -3;
  CHECK(view(1, 0) == -3.0F);
}

TEST_CASE("Eigen vectors, arrays and fixed sizes become views", "[view][row_view]") {
  const Eigen::VectorXf column = numbered<column_major>(4, 1);
  check_same(row_view(column), column);
  const Eigen::RowVectorXf row = numbered<kvfit::matrix>(1, 4);
  check_same(row_view(row), row);
  const Eigen::ArrayXXf array = numbered<column_major>(4, 3).array();
  check_same(row_view(array), array);
  const Eigen::Matrix3f fixed = numbered<column_major>(3, 3);
  check_same(row_view(fixed), fixed);
  const Eigen::Matrix<float, 2, 5, Eigen::RowMajor> wide = numbered<kvfit::matrix>(2, 5);
  check_same(row_view(wide), wide);
}

TEST_CASE("Maps, blocks and transposes become views, as temporaries too", "[view][row_view]") {
  auto rows = numbered<kvfit::matrix>(6, 8);
  auto columns = numbered<column_major>(6, 8);
  check_same(rows.transpose(), rows.transpose().eval());
  check_same(columns.transpose(), columns.transpose().eval());
  check_same(rows.block(1, 2, 3, 4), rows.block(1, 2, 3, 4));
  check_same(columns.block(1, 2, 3, 4), columns.block(1, 2, 3, 4));
  check_same(rows.block(1, 2, 3, 4).transpose(), rows.block(1, 2, 3, 4).transpose().eval());
  check_same(columns.block(1, 2, 3, 4).transpose(), columns.block(1, 2, 3, 4).transpose().eval());
  check_same(rows.row(2), rows.row(2));
  check_same(rows.col(2), rows.col(2));
  check_same(columns.row(2), columns.row(2));
  check_same(columns.col(2), columns.col(2));
  check_same(rows.middleRows(2, 3), rows.middleRows(2, 3));
  check_same(columns.rightCols(2), columns.rightCols(2));

  const Eigen::Map<const kvfit::matrix> map(rows.data(), 4, 12);
  check_same(map, map);
  using strides = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
  const Eigen::Map<kvfit::matrix, 0, strides> strided(rows.data(), 3, 4, strides(16, 2));
  check_same(strided, strided);
  CHECK(row_view(strided).row_stride() == 16);
  CHECK(row_view(strided).col_stride() == 2);
  const Eigen::Map<const column_major, 0, strides> other(columns.data(), 3, 4, strides(12, 2));
  check_same(other, other);
  const Eigen::Ref<const kvfit::matrix> ref(rows);
  check_same(ref, rows);
  CHECK(row_view(ref).data() == rows.data());
}

TEST_CASE("Eigen's half types become fp16 and bf16 views", "[view][row_view]") {
  using half_matrix = Eigen::Matrix<Eigen::half, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using bfloat_matrix = Eigen::Matrix<Eigen::bfloat16, Eigen::Dynamic, Eigen::Dynamic>;
  const auto halves = numbered<half_matrix>(5, 3);
  const row_view fp16_view = halves;
  CHECK(fp16_view.type() == dtype::fp16);
  check_same(fp16_view, halves);
  check_same(halves.transpose(), halves.transpose().eval());
  const auto bfloats = numbered<bfloat_matrix>(5, 3);
  const row_view bf16_view = bfloats;
  CHECK(bf16_view.type() == dtype::bf16);
  check_same(bf16_view, bfloats);
  check_same(bfloats.block(1, 1, 3, 2), bfloats.block(1, 1, 3, 2));
}

TEST_CASE("Raw memory with strides: padded, interleaved, zero and negative", "[view][row_view]") {
  std::vector<float> memory(100);
  std::iota(memory.begin(), memory.end(), 0.0F);
  const float* p = memory.data();

  const row_view dense(p, 4, 5);
  CHECK(dense(3, 4) == 19.0F);
  CHECK(dense.row_stride() == 5);
  const row_view padded(p, 4, 5, 8);
  CHECK(padded(0, 4) == 4.0F);
  CHECK(padded(3, 2) == 26.0F);
  const row_view interleaved(p, 4, 5, 20, 3);  // [token][dim][head]
  CHECK(interleaved(2, 4) == 52.0F);
  const row_view repeated(p + 7, 4, 5, 0);
  CHECK(repeated(0, 3) == 10.0F);
  CHECK(repeated(3, 3) == 10.0F);
  const row_view constant(p + 7, 4, 5, 0, 0);
  CHECK(constant(2, 4) == 7.0F);
  const row_view backwards(p + 15, 4, 5, -5);
  CHECK(backwards(0, 0) == 15.0F);
  CHECK(backwards(3, 4) == 4.0F);
  const row_view mirrored(p + 4, 4, 5, 5, -1);
  CHECK(mirrored(0, 0) == 4.0F);
  CHECK(mirrored(3, 4) == 15.0F);
}

TEST_CASE("Raw memory of each type, known when compiling or when running", "[view][row_view]") {
  const std::array<kvfit::fp16, 2> own_half = {kvfit::to_fp16(1.5F), kvfit::to_fp16(-2)};
  const std::array<kvfit::bf16, 2> own_bfloat = {kvfit::to_bf16(3), kvfit::to_bf16(-4)};
  const std::array<Eigen::half, 2> half = {Eigen::half(5), Eigen::half(-6)};
  const std::array<Eigen::bfloat16, 2> bfloat = {Eigen::bfloat16(7), Eigen::bfloat16(-8)};
  const std::array<float, 2> single = {9, -10};
  CHECK(row_view(own_half.data(), 1, 2).type() == dtype::fp16);
  CHECK(row_view(own_half.data(), 1, 2)(0, 0) == 1.5F);
  CHECK(row_view(own_half.data(), 1, 2)(0, 1) == -2.0F);
  CHECK(row_view(own_bfloat.data(), 1, 2).type() == dtype::bf16);
  CHECK(row_view(own_bfloat.data(), 1, 2)(0, 1) == -4.0F);
  CHECK(row_view(half.data(), 2, 1)(1, 0) == -6.0F);
  CHECK(row_view(bfloat.data(), 2, 1)(1, 0) == -8.0F);
  CHECK(row_view(static_cast<const void*>(half.data()), dtype::fp16, 1, 2, 2)(0, 1) == -6.0F);
  CHECK(row_view(static_cast<const void*>(bfloat.data()), dtype::bf16, 2, 1, 1)(1, 0) == -8.0F);
  CHECK(row_view(static_cast<const void*>(single.data()), dtype::fp32, 1, 2, 2)(0, 1) == -10.0F);
}

TEST_CASE("Transposing exchanges rows and columns, twice gives the view back", "[view][row_view]") {
  const auto m = numbered<kvfit::matrix>(5, 3);
  const row_view view = m;
  check_same(view.transposed(), m.transpose().eval());
  const row_view twice = view.transposed().transposed();
  check_same(twice, m);
  CHECK(twice.row_stride() == view.row_stride());
  CHECK(twice.col_stride() == view.col_stride());
}

TEST_CASE("Middle rows and columns are those of the matrix", "[view][row_view]") {
  const auto m = numbered<kvfit::matrix>(7, 6);
  for (const row_view& view : {row_view(m), row_view(m).transposed()}) {
    kvfit::matrix expected = m;
    if (view.rows() == 6) expected = m.transpose().eval();
    for (index_t first = 0; first <= view.rows(); ++first) {
      for (index_t count = 0; first + count <= view.rows(); ++count) {
        check_same(view.middle_rows(first, count), expected.middleRows(first, count));
      }
    }
    for (index_t first = 0; first <= view.cols(); ++first) {
      for (index_t count = 0; first + count <= view.cols(); ++count) {
        check_same(view.middle_cols(first, count), expected.middleCols(first, count));
      }
    }
  }
  const row_view backwards(&m(6, 0), 7, 6, -6);
  CHECK(backwards.middle_rows(2, 3)(0, 1) == m(4, 1));
  CHECK(backwards.middle_cols(4, 2)(6, 1) == m(0, 5));
}

TEST_CASE("Middle rows of a view without columns, and the other way round", "[view][row_view]") {
  const std::array<float, 4> memory{};
  const row_view no_columns(memory.data(), 5, 0);
  CHECK(no_columns.middle_rows(1, 3).rows() == 3);
  CHECK(no_columns.middle_rows(1, 3).empty());
  const row_view no_rows(memory.data(), 0, 4);
  CHECK(no_rows.middle_cols(1, 3).cols() == 3);
  CHECK(no_rows.middle_cols(1, 3).empty());
  CHECK(row_view().middle_rows(0, 0).empty());
}

TEST_CASE("Steps and strides that mean nothing are not multiplied", "[view][row_view]") {
  constexpr index_t huge = std::numeric_limits<index_t>::max() / 2 + 3;
  const std::array<float, 2> numbers = {1, 2};
  const row_view one(numbers.data(), 1, 2, huge);
  const row_view still = one.every_row(0, 3).every_row(0, huge);
  REQUIRE(still.rows() == 1);
  CHECK(still(0, 1) == 2);
  CHECK(one.every_row(huge, 2).rows() == 0);

  const std::array<index_t, 3> rows = {1, 0, 1};
  const auto listed = kvfit::make_listed_view(
      {.data = numbers.data(), .rows = 2, .cols = 1, .row_stride = 1}, rows);
  REQUIRE(listed);
  const row_view last = listed->every_row(2, huge).every_row(0, huge);
  REQUIRE(last.rows() == 1);
  CHECK(last(0, 0) == 2);
  CHECK(listed->every_row(1, 2).every_row(huge, huge).rows() == 0);
}

TEST_CASE("§9.21 addresses are 64-bit", "[view][row_view]") {
  // Nothing is read: only where element (i, j) would lie. volatile, as the compiler would object.
  const std::array<float, 1> memory{};
  const float* volatile start = memory.data();
  const index_t rows = index_t{1} << 33U;
  const row_view view(start, dtype::fp16, rows, 256, 256);
  const auto distance = [&](index_t i, index_t j) {
    return reinterpret_cast<std::uintptr_t>(view.address(i, j)) -
           reinterpret_cast<std::uintptr_t>(memory.data());
  };
  CHECK(distance(3, 5) == 2 * (3 * 256 + 5));
  CHECK(distance(rows - 1, 255) == 2 * (static_cast<std::uintptr_t>(rows) * 256 - 1));
}

}  // namespace kvfit_test
