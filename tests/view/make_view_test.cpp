// SPDX-License-Identifier: MIT
#include <array>
#include <span>
#include <vector>

#include "kvfit/view/row_view.hpp"
#include "support/catch.hpp"

namespace kvfit_test {

using kvfit::dtype;
using kvfit::errc;
using kvfit::index_t;
using kvfit::make_view;

TEST_CASE("Contiguous ranges become row-major views of their memory", "[view][make_view]") {
  std::vector<float> vector = {1, 2, 3, 4, 5, 6};
  const std::array<kvfit::fp16, 2> array = {kvfit::to_fp16(1), kvfit::to_fp16(-7)};
  const std::vector<Eigen::bfloat16> bfloats(4, Eigen::bfloat16(2.5F));
  const auto wide = make_view(vector, 2, 3);
  REQUIRE(wide);
  CHECK(wide->data() == vector.data());
  CHECK(wide->rows() == 2);
  CHECK(wide->cols() == 3);
  CHECK((*wide)(1, 0) == 4.0F);
  CHECK((*wide)(0, 2) == 3.0F);
  const auto tall = make_view(std::as_const(vector), 3, 2);
  REQUIRE(tall);
  CHECK((*tall)(1, 0) == 3.0F);
  const auto half = make_view(array, 1, 2);
  REQUIRE(half);
  CHECK(half->type() == dtype::fp16);
  CHECK((*half)(0, 1) == -7.0F);
  const auto bfloat = make_view(bfloats, 2, 2);
  REQUIRE(bfloat);
  CHECK(bfloat->type() == dtype::bf16);
  CHECK((*bfloat)(1, 1) == 2.5F);

  SECTION("also a span that is itself a temporary") {
    const auto view = make_view(std::span<const float>(vector).subspan(2), 2, 2);
    REQUIRE(view);
    CHECK((*view)(0, 0) == 3.0F);
    CHECK(view->data() == &vector[2]);
  }
}

TEST_CASE("A length of nothing fits sizes of nothing", "[view][make_view]") {
  const std::vector<float> nothing;
  for (const auto& [rows, cols] : {std::pair<index_t, index_t>{0, 0}, {0, 4}, {4, 0}}) {
    CAPTURE(rows, cols);
    const auto view = make_view(nothing, rows, cols);
    REQUIRE(view);
    CHECK(view->empty());
    CHECK(view->rows() == rows);
    CHECK(view->cols() == cols);
  }
}

TEST_CASE("A range of another length is refused with both sizes", "[view][make_view]") {
  const std::vector<float> ten(10);
  for (const auto& [rows, cols] : {std::pair<index_t, index_t>{3, 3},
                                   {3, 4},
                                   {1, 9},
                                   {1, 11},
                                   {11, 1},
                                   {5, 3},
                                   {0, 10},
                                   {10, 0},
                                   {1000, 1000}}) {
    CAPTURE(rows, cols);
    const auto view = make_view(ten, rows, cols);
    REQUIRE_FALSE(view);
    CHECK(view.error().code == errc::shape_mismatch);
    CHECK(view.error().argument == "elements");
    CHECK(view.error().actual == 10);
    CHECK(view.error().expected == rows * cols);
  }
}

TEST_CASE("Negative sizes are refused", "[view][make_view]") {
  const std::vector<float> ten(10);
  for (const auto& [rows, cols] :
       {std::pair<index_t, index_t>{-2, -5}, {-1, 10}, {10, -1}, {0, -1}}) {
    CAPTURE(rows, cols);
    const auto view = make_view(ten, rows, cols);
    REQUIRE_FALSE(view);
    CHECK(view.error().code == errc::shape_mismatch);
    CHECK(view.error().actual == 10);
  }
}

TEST_CASE("§9.21 a product of sizes that wraps is refused", "[view][make_view]") {
  const std::vector<float> sixteen(16);
  const std::vector<float> nothing;
  const index_t large = index_t{1} << 62U;
  for (const auto& [rows, cols] : {std::pair<index_t, index_t>{large, 4},  // 2^64: wraps to 0
                                   {(index_t{1} << 60U) + 1, 16},          // wraps to 16
                                   {std::numeric_limits<index_t>::max(), 2}}) {
    CAPTURE(rows, cols);
    for (const auto& range : {sixteen, nothing}) {
      const auto view = make_view(range, rows, cols);
      REQUIRE_FALSE(view);
      CHECK(view.error().code == errc::shape_mismatch);
      CHECK(view.error().actual == static_cast<index_t>(range.size()));
      CHECK(view.error().expected == kvfit::error::none);
    }
  }
}

}  // namespace kvfit_test
