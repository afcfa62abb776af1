// SPDX-License-Identifier: MIT
// Targets whose rows share memory are refused before anything is written, whatever makes them.
#include <algorithm>
#include <cstdint>
#include <map>
#include <numeric>
#include <string_view>
#include <vector>

#include "kvfit/core/random.hpp"
#include "kvfit/view/layouts.hpp"
#include "kvfit/view/store.hpp"
#include "support/catch.hpp"
#include "support/random_matrix.hpp"

namespace kvfit_test {

using kvfit::dtype;
using kvfit::index_t;
using kvfit::row_view;

namespace {

using kvfit::errc;
using kvfit::row_memory;
using kvfit::store_rows;
using kvfit::writable_view;

void check_refused(const kvfit::result<void>& stored, errc code, std::int64_t actual,
                   std::int64_t expected) {
  REQUIRE_FALSE(stored);
  INFO(stored.error().message());
  CHECK(stored.error().code == code);
  CHECK(stored.error().argument == "target");
  CHECK(stored.error().actual == actual);
  CHECK(stored.error().expected == expected);
}

kvfit::result<void> store_some(const row_view& target) {
  const kvfit::matrix rows = random_matrix(target.rows(), target.cols(), 5);
  return store_rows(rows, writable_view(target));
}

/// Whether two elements of a view of fp32 lie in one place, by looking at them all.
bool shares_places(const row_view& view, const row_memory& memory) {
  std::map<index_t, int> places;
  for (index_t r = 0; r < view.rows(); ++r) {
    for (index_t c = 0; c < view.cols(); ++c) {
      const index_t row = view.where().first_row + r * view.where().row_step;
      const index_t col = view.where().first_col + c * view.where().col_step;
      if (++places[memory.offset(row, col)] > 1) return true;
    }
  }
  return false;
}

}  // namespace

TEST_CASE("A list that names a cell twice is refused with the cell and the row",
          "[view][store][shared]") {
  std::vector<float> memory(10 * 4, 7);
  const auto before = memory;
  const row_memory cells{.data = memory.data(), .rows = 10, .cols = 4, .row_stride = 4};
  const std::vector<index_t> list = {3, 9, 5, 0, 9, 5};
  const auto view = kvfit::make_listed_view(cells, list);
  REQUIRE(view);
  check_refused(store_some(*view), errc::invalid_position, 9, 4);
  CHECK(store_some(*view).error().detail == "rows 1 and 4 lie in the same cell, named twice");
  CHECK(memory == before);
  check_refused(store_some(view->transposed()), errc::invalid_position, 9, 4);
  check_refused(store_some(view->middle_cols(1, 2)), errc::invalid_position, 9, 4);
  check_refused(store_some(view->every_row(2, 3)), errc::invalid_position, 5, 1);
  CHECK(memory == before);
  CHECK(store_some(view->middle_rows(0, 4)));
  CHECK(store_some(view->every_row(0, 2)));  // cells 3, 5, 9
  // So are those of llama.cpp, transposed or not, in every type.
  const std::vector<index_t> twice = {1, 4, 1};
  for (const dtype type : {dtype::fp32, dtype::fp16, dtype::fp8_e4m3}) {
    for (const bool is_transposed : {false, true}) {
      const auto head = kvfit::llama_cpp_head({.data = memory.data(),
                                               .type = type,
                                               .cells = 10,
                                               .heads = 1,
                                               .dim = 4,
                                               .is_transposed = is_transposed},
                                              0, twice);
      REQUIRE(head);
      check_refused(store_some(*head), errc::invalid_position, 1, 2);
    }
  }
  std::vector<kvfit::q8_0_block> blocks(10);
  const auto quantised = kvfit::llama_cpp_head(
      {.data = blocks.data(), .type = dtype::q8_0, .cells = 10, .heads = 1, .dim = 32}, 0, twice);
  REQUIRE(quantised);
  check_refused(store_some(*quantised), errc::invalid_position, 1, 2);
  CHECK(blocks == std::vector<kvfit::q8_0_block>(10));
}

TEST_CASE("A table that names a page twice within the rows written is refused",
          "[view][store][shared]") {
  std::vector<float> memory(4 * 8 * 2 * 4, 7);
  const auto before = memory;
  const std::vector<std::int32_t> table = {2, 0, 2};
  const auto view = kvfit::paged_head({.data = memory.data(),
                                       .type = dtype::fp32,
                                       .order = kvfit::page_order::separate_nhd,
                                       .pages = 4,
                                       .page_size = 8,
                                       .heads = 2,
                                       .dim = 4},
                                      kvfit::kv_part::keys, 1, table, 20);
  REQUIRE(view);
  check_refused(store_some(*view), errc::invalid_position, 2, 16);
  CHECK(memory == before);
  check_refused(store_some(view->middle_rows(2, 17)), errc::invalid_position, 2, 16);
  CHECK(memory == before);
  CHECK(store_some(view->middle_rows(0, 16)));
  CHECK(store_some(view->middle_rows(4, 16)));  // slots 4 … 7 and 0 … 3 of page 2
}

TEST_CASE("Strides by which rows or columns overlap are refused", "[view][store][shared]") {
  std::vector<float> memory(400, 7);
  const auto before = memory;
  const auto view = [&](index_t rows, index_t cols, index_t row_stride, index_t col_stride) {
    return row_view(memory.data() + 200, dtype::fp32, rows, cols, row_stride, col_stride);
  };
  check_refused(store_some(view(4, 8, 0, 1)), errc::shape_mismatch, 0, 8);
  check_refused(store_some(view(4, 8, 7, 1)), errc::shape_mismatch, 7, 8);
  check_refused(store_some(view(4, 8, -7, 1)), errc::shape_mismatch, -7, 8);
  check_refused(store_some(view(4, 8, 8, 0)), errc::shape_mismatch, 0, 1);
  check_refused(store_some(view(8, 4, 1, 7)), errc::shape_mismatch, 7, 8);  // transposed
  check_refused(store_some(view(8, 4, 1, 1)), errc::shape_mismatch, 1, 4);
  check_refused(store_some(view(8, 4, 2, -3)), errc::shape_mismatch, -3, 15);
  check_refused(store_some(view(4, 8, 7, 1).transposed()), errc::shape_mismatch, 7, 8);
  const kvfit::matrix rows = random_matrix(4, 8, 1);
  check_refused(store_rows(rows, writable_view(memory.data(), 4, 8, 4)), errc::shape_mismatch, 4,
                8);
  CHECK(memory == before);
  CHECK(store_some(view(1, 8, 0, 1)));
  CHECK(store_some(view(4, 1, 1, 0)));
  CHECK(store_some(view(4, 8, 8, 1)));
  CHECK(store_some(view(4, 8, -8, 1)));
  CHECK(store_some(view(8, 4, 1, 8)));
  CHECK(store_some(view(4, 8, 1, 4)));
  CHECK(store_some(view(5, 2, 2, 5)));  // interleaved: 0 2 4 6 8 and 5 7 9 11 13
  check_refused(store_some(view(5, 2, 2, 4)), errc::shape_mismatch, 4, 9);
}

TEST_CASE("Pages that overlap by their stride are refused", "[view][store][shared]") {
  std::vector<float> memory(400, 7);
  const auto before = memory;
  const std::vector<index_t> table = {2, 0, 1};
  const row_memory pool{.data = memory.data(), .cols = 4, .row_stride = 4};
  const auto view = [&](index_t page_stride) {
    return *kvfit::make_paged_view(pool, table, {3, 8, page_stride}, 24);
  };
  check_refused(store_some(view(31)), errc::shape_mismatch, 31, kvfit::error::none);
  check_refused(store_some(view(0)), errc::shape_mismatch, 0, kvfit::error::none);
  CHECK(memory == before);
  CHECK(store_some(view(31).middle_rows(0, 8)));
  CHECK(store_some(view(32)));
  CHECK(store_some(view(33)));
  const row_memory narrow{.data = memory.data(), .cols = 4, .row_stride = 3};
  const auto rows = kvfit::make_paged_view(narrow, table, {3, 8, 40}, 24);
  check_refused(store_some(*rows), errc::shape_mismatch, 3, 4);
}

TEST_CASE("Scales that would be written twice are refused", "[view][store][shared]") {
  for (const dtype type : {dtype::int8, dtype::fp8_e4m3, dtype::fp8_e5m2}) {
    CAPTURE(kvfit::name(type));
    std::vector<std::uint8_t> numbers(8 * 64, 1);
    std::vector<float> scales(64, 0.5F);
    const auto numbers_before = numbers;
    const auto scales_before = scales;
    row_memory memory{.data = numbers.data(),
                      .type = type,
                      .rows = 8,
                      .cols = 64,
                      .row_stride = 64,
                      .scales = {.data = scales.data(), .group = 32, .row_stride = 1}};
    check_refused(store_some(*kvfit::make_view(memory)), errc::shape_mismatch, 1, 2);
    memory.scales.group_stride = 4;
    check_refused(store_some(*kvfit::make_view(memory)), errc::shape_mismatch, 1, 5);
    const std::vector<index_t> table = {1, 0};
    memory.rows = 0;
    memory.scales = {.data = scales.data(), .group = 64, .row_stride = 1, .page_stride = 3};
    check_refused(store_some(*kvfit::make_paged_view(memory, table, {2, 4, 256}, 8)),
                  errc::shape_mismatch, 1, 1);
    CHECK(numbers == numbers_before);
    CHECK(scales == scales_before);
    memory.scales.page_stride = 4;
    CHECK(store_some(*kvfit::make_paged_view(memory, table, {2, 4, 256}, 8)));
    memory.rows = 8;
    memory.scales = {.data = scales.data(), .group = 32, .row_stride = 1, .group_stride = 8};
    CHECK(store_some(*kvfit::make_view(memory)));
  }
}

TEST_CASE("Shared memory is found exactly where there is some", "[view][store][shared]") {
  kvfit::random_source random(11);
  const auto below = [&](std::uint64_t n) { return static_cast<index_t>(random.below(n)); };
  std::vector<float> storage(4000);
  int refused = 0;
  constexpr int tries = 4000;
  for (int k = 0; k < tries; ++k) {
    row_memory memory{.data = storage.data() + 2000,
                      .rows = 1 + below(7),
                      .cols = 1 + below(6),
                      .row_stride = below(20) - 8,
                      .col_stride = below(3) == 0 ? below(20) - 8 : 1};
    std::vector<index_t> list(1 + static_cast<std::size_t>(below(6)));
    row_view view;
    switch (below(3)) {
      case 0:
        view = *kvfit::make_view(memory);
        break;
      case 1: {
        memory.rows = 12;
        for (index_t& row : list) row = below(12);
        view = *kvfit::make_listed_view(memory, list);
        memory.map = kvfit::row_map::listed(list.data());
        break;
      }
      default: {
        const index_t size = 1 + below(3);
        for (index_t& page : list) page = below(9);
        memory.rows = 0;
        const index_t stride = below(60) - 10;
        const index_t rows = static_cast<index_t>(list.size()) * size - below(size);
        view = *kvfit::make_paged_view(memory, list, {9, size, stride}, rows);
        memory.map = kvfit::row_map::paged(list.data(), size, stride);
      }
    }
    if (!view.is_plain()) view = view.every_row(0, 1 + below(2));
    CAPTURE(k, memory.row_stride, memory.col_stride, view.rows(), view.cols());
    const bool is_shared = shares_places(view, memory);
    refused += is_shared ? 1 : 0;
    const auto stored = store_some(view);
    CHECK(static_cast<bool>(stored) == !is_shared);
  }
  CHECK(refused > tries / 10);
  CHECK(refused < tries * 9 / 10);
}

}  // namespace kvfit_test
