// SPDX-License-Identifier: MIT
#include "kvfit/view/layouts.hpp"
#include "kvfit/view/load.hpp"

#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string_view>
#include <vector>

#include "support/catch.hpp"

namespace kvfit_test {

using kvfit::dtype;
using kvfit::index_t;
using kvfit::row_view;

namespace {

using kvfit::errc;
using kvfit::kv_part;
using kvfit::page_order;

constexpr index_t huge = index_t{1} << 40U;

/// Memory in which every fp32 number is its own place, so that a view shows where it looks.
std::vector<float> numbered_memory(index_t numbers) {
  std::vector<float> memory(static_cast<std::size_t>(numbers));
  std::iota(memory.begin(), memory.end(), 0.0F);
  return memory;
}

/// Element (t, c) of the view is number place(t, c).
template <class Place>
void check_places(const kvfit::result<row_view>& view, index_t rows, index_t cols, Place place) {
  REQUIRE(view);
  REQUIRE(view->rows() == rows);
  REQUIRE(view->cols() == cols);
  index_t wrong = 0;
  for (index_t t = 0; t < rows; ++t) {
    for (index_t c = 0; c < cols; ++c) {
      wrong += (*view)(t, c) == static_cast<float>(place(t, c)) ? 0 : 1;
    }
  }
  CHECK(wrong == 0);
}

void check_refused(const kvfit::result<row_view>& view, errc code, std::string_view argument,
                   std::int64_t actual, std::int64_t expected) {
  REQUIRE_FALSE(view);
  INFO(view.error().message());
  CHECK(view.error().code == code);
  CHECK(view.error().argument == argument);
  CHECK(view.error().actual == actual);
  CHECK(view.error().expected == expected);
}

}  // namespace

TEST_CASE("llama.cpp: K, and V as it is with flash attention", "[view][layouts]") {
  const auto memory = numbered_memory(2L * 10 * 3 * 4);
  const kvfit::llama_cpp_cache cache{.data = memory.data(),
                                     .type = dtype::fp32,
                                     .cells = 10,
                                     .heads = 3,
                                     .dim = 4,
                                     .stream = 1,
                                     .streams = 2,
                                     .bytes = memory.size() * 4};
  const auto number = [](index_t cell, index_t head, index_t c) {
    return ((1 * 10 + cell) * 3 + head) * 4 + c;
  };
  for (index_t head = 0; head < 3; ++head) {
    check_places(kvfit::llama_cpp_head(cache, head, 7), 7, 4,
                 [&](index_t t, index_t c) { return number(t, head, c); });
    const std::vector<index_t> cells = {9, 0, 4};
    check_places(kvfit::llama_cpp_head(cache, head, cells), 3, 4, [&](index_t t, index_t c) {
      return number(cells[static_cast<std::size_t>(t)], head, c);
    });
  }
}

TEST_CASE("llama.cpp: V transposed, without flash attention", "[view][layouts]") {
  const auto memory = numbered_memory(2L * 10 * 3 * 4);
  const kvfit::llama_cpp_cache cache{.data = memory.data(),
                                     .type = dtype::fp32,
                                     .cells = 10,
                                     .heads = 3,
                                     .dim = 4,
                                     .is_transposed = true,
                                     .stream = 1,
                                     .streams = 2};
  const auto number = [](index_t cell, index_t head, index_t c) {
    return (1 * 12 + head * 4 + c) * 10 + cell;
  };
  for (index_t head = 0; head < 3; ++head) {
    check_places(kvfit::llama_cpp_head(cache, head, 7), 7, 4,
                 [&](index_t t, index_t c) { return number(t, head, c); });
    const std::vector<index_t> cells = {9, 0, 4};
    check_places(kvfit::llama_cpp_head(cache, head, cells), 3, 4, [&](index_t t, index_t c) {
      return number(cells[static_cast<std::size_t>(t)], head, c);
    });
  }
}

TEST_CASE("Pages of vLLM, FlashInfer and TensorRT-LLM", "[view][layouts]") {
  constexpr index_t pages = 5;
  constexpr index_t size = 4;
  constexpr index_t heads = 3;
  constexpr index_t dim = 2;
  constexpr index_t dim_v = 3;
  const auto memory = numbered_memory(pages * size * heads * (dim + dim_v) * 2);
  const std::vector<index_t> table = {4, 1, 3};
  const std::vector<std::int32_t> table_32 = {4, 1, 3};
  struct expectation {
    page_order order;
    index_t (*number)(index_t half, index_t page, index_t slot, index_t head, index_t c);
  };
  // Each order spelt out as its shape.
  const expectation orders[] = {
      {page_order::vllm_nhd,
       [](index_t k, index_t p, index_t s, index_t h, index_t c) {
         return (((k * pages + p) * size + s) * heads + h) * dim + c;
       }},
      {page_order::vllm_hnd,
       [](index_t k, index_t p, index_t s, index_t h, index_t c) {
         return (((k * pages + p) * heads + h) * size + s) * dim + c;
       }},
      {page_order::flashinfer_nhd,
       [](index_t k, index_t p, index_t s, index_t h, index_t c) {
         return (((p * 2 + k) * size + s) * heads + h) * dim + c;
       }},
      {page_order::flashinfer_hnd,
       [](index_t k, index_t p, index_t s, index_t h, index_t c) {
         return (((p * 2 + k) * heads + h) * size + s) * dim + c;
       }},
      {page_order::tensorrt_llm,
       [](index_t k, index_t p, index_t s, index_t h, index_t c) {
         return (((p * 2 + k) * heads + h) * size + s) * dim + c;
       }},
      {page_order::separate_nhd, [](index_t, index_t p, index_t s, index_t h,
                                    index_t c) { return ((p * size + s) * heads + h) * dim + c; }},
      {page_order::separate_hnd, [](index_t, index_t p, index_t s, index_t h,
                                    index_t c) { return ((p * heads + h) * size + s) * dim + c; }},
      {page_order::vllm_packed, [](index_t k, index_t p, index_t s, index_t h, index_t c) {
         return ((p * heads + h) * size + s) * (dim + dim_v) + k * dim + c;
       }}};
  for (const expectation& expected : orders) {
    kvfit::paged_cache cache{.data = memory.data(),
                             .type = dtype::fp32,
                             .order = expected.order,
                             .pages = pages,
                             .page_size = size,
                             .heads = heads,
                             .dim = dim};
    const bool is_packed = expected.order == page_order::vllm_packed;
    if (is_packed) cache.value_dim = dim_v;
    CAPTURE(static_cast<int>(expected.order));
    for (const kv_part part : {kv_part::keys, kv_part::values}) {
      const index_t half = part == kv_part::values ? 1 : 0;
      const index_t cols = is_packed && half == 1 ? dim_v : dim;
      for (index_t head = 0; head < heads; ++head) {
        const auto place = [&](index_t t, index_t c) {
          return expected.number(half, table[static_cast<std::size_t>(t / size)], t % size, head,
                                 c);
        };
        check_places(kvfit::paged_head(cache, part, head, table, 11), 11, cols, place);
        check_places(kvfit::paged_head(cache, part, head, table_32, 12), 12, cols, place);
      }
    }
  }
}

TEST_CASE("Pages of several layers in one pool lie a stride apart", "[view][layouts]") {
  const auto memory = numbered_memory(3L * 4 * 2 * 4 * 2);  // [3 pages][4 layers][2][4][2]
  const std::vector<index_t> table = {2, 0};
  const kvfit::paged_cache layer_1{.data = memory.data() + 16,
                                   .type = dtype::fp32,
                                   .order = page_order::tensorrt_llm,
                                   .pages = 3,
                                   .page_size = 4,
                                   .heads = 1,
                                   .dim = 2,
                                   .page_stride = 64};
  check_places(
      kvfit::paged_head(layer_1, kv_part::values, 0, table, 8), 8, 2, [&](index_t t, index_t c) {
        return ((table[static_cast<std::size_t>(t / 4)] * 4 + 1) * 2 + 1) * 8 + t % 4 * 2 + c;
      });
  kvfit::paged_cache told = layer_1;  // the last layer's last page ends before the stride does
  told.bytes = (memory.size() - 16) * 4;
  CHECK(kvfit::paged_head(told, kv_part::values, 0, table, 8));
  told.bytes = (2 * 64 + 16) * 4 - 1;
  check_refused(kvfit::paged_head(told, kv_part::values, 0, table, 8), errc::shape_mismatch,
                "memory", (2 * 64 + 16) * 4 - 1, (2 * 64 + 16) * 4);
  kvfit::paged_cache wrong = layer_1;
  wrong.page_stride = 15;
  check_refused(kvfit::paged_head(wrong, kv_part::keys, 0, table, 8), errc::shape_mismatch,
                "page_stride", 15, 16);
  wrong.page_stride = 64;
  wrong.order = page_order::vllm_nhd;
  check_refused(kvfit::paged_head(wrong, kv_part::keys, 0, table, 8), errc::invalid_option,
                "page_stride", 64, 8);
}

TEST_CASE("Hugging Face and MLX: more allocated than in use", "[view][layouts]") {
  const auto memory = numbered_memory(2L * 3 * 10 * 4);
  const kvfit::batch_cache cache{.data = memory.data(),
                                 .type = dtype::fp32,
                                 .sequences = 2,
                                 .heads = 3,
                                 .allocated = 10,
                                 .dim = 4,
                                 .bytes = memory.size() * 4};
  for (index_t head = 0; head < 3; ++head) {
    check_places(kvfit::batch_head(cache, 1, head, 7), 7, 4,
                 [&](index_t t, index_t c) { return ((1 * 3 + head) * 10 + t) * 4 + c; });
  }
  check_refused(kvfit::batch_head(cache, 2, 0, 7), errc::invalid_option, "sequence", 2, 2);
  check_refused(kvfit::batch_head(cache, 0, 3, 7), errc::invalid_option, "head", 3, 3);
  check_refused(kvfit::batch_head(cache, 0, -1, 7), errc::invalid_option, "head", -1, 3);
  check_refused(kvfit::batch_head(cache, 0, 0, 11), errc::shape_mismatch, "tokens", 11, 10);
  kvfit::batch_cache wrong = cache;
  wrong.bytes -= 1;
  check_refused(kvfit::batch_head(wrong, 0, 0, 1), errc::shape_mismatch, "memory", 959, 960);
  wrong = cache;
  wrong.dim = 0;
  check_refused(kvfit::batch_head(wrong, 0, 0, 1), errc::shape_mismatch, "dim", 0, 1);
  wrong = cache;
  wrong.data = nullptr;
  check_refused(kvfit::batch_head(wrong, 0, 0, 1), errc::null_data, "memory", kvfit::error::none,
                kvfit::error::none);
}

TEST_CASE("int8 scales lie in the order of the cache, a group in place of a dim",
          "[view][layouts]") {
  const std::vector<std::int8_t> ones(4L * 2 * 8 * 3 * 6, 1);
  const auto scales = numbered_memory(4L * 2 * 8 * 3 * 3);
  const std::vector<index_t> table = {2, 0};
  const kvfit::paged_cache cache{.data = ones.data(),
                                 .type = dtype::int8,
                                 .order = page_order::flashinfer_nhd,
                                 .pages = 4,
                                 .page_size = 8,
                                 .heads = 3,
                                 .dim = 6,
                                 .scales = {.data = scales.data(), .group = 2}};
  check_places(kvfit::paged_head(cache, kv_part::values, 1, table, 16), 16, 6,
               [&](index_t t, index_t c) {
                 const index_t page = table[static_cast<std::size_t>(t / 8)];
                 return (((page * 2 + 1) * 8 + t % 8) * 3 + 1) * 3 + c / 2;
               });
  const kvfit::batch_cache batch{.data = ones.data(),
                                 .type = dtype::int8,
                                 .sequences = 2,
                                 .heads = 3,
                                 .allocated = 8,
                                 .dim = 6,
                                 .scales = {.data = scales.data(), .group = 6}};
  check_places(kvfit::batch_head(batch, 1, 2, 8), 8, 6,
               [](index_t t, index_t) { return (1 * 3 + 2) * 8 + t; });
  kvfit::paged_cache wrong = cache;
  wrong.scales.group = 4;
  check_refused(kvfit::paged_head(wrong, kv_part::keys, 0, table, 16), errc::shape_mismatch,
                "scales.group", 4, 6);
  wrong.scales = {};
  wrong.scales.group = 2;
  check_refused(kvfit::paged_head(wrong, kv_part::keys, 0, table, 16), errc::null_data, "memory",
                kvfit::error::none, kvfit::error::none);
  wrong.scales = {.data = scales.data(), .type = dtype::bf16, .group = 2};
  REQUIRE(kvfit::paged_head(wrong, kv_part::keys, 0, table, 16).error().argument == "scales.type");
}

TEST_CASE("§9.22 block types whose dims are no multiples of 32 are refused", "[view][layouts]") {
  const std::vector<std::byte> memory(1 << 16);
  for (const dtype type : {dtype::q8_0, dtype::q4_0}) {
    CAPTURE(kvfit::name(type));
    kvfit::llama_cpp_cache cache{
        .data = memory.data(), .type = type, .cells = 64, .heads = 2, .dim = 48};
    check_refused(kvfit::llama_cpp_head(cache, 0, 9), errc::shape_mismatch, "dim", 48, 32);
    cache.is_transposed = true;
    CHECK(kvfit::llama_cpp_head(cache, 1, 9));  // blocks run along 64 cells
    cache.cells = 40;
    check_refused(kvfit::llama_cpp_head(cache, 0, 9), errc::shape_mismatch, "cells", 40, 32);
    kvfit::paged_cache paged{
        .data = memory.data(), .type = type, .pages = 2, .page_size = 4, .heads = 2, .dim = 80};
    const std::vector<index_t> table = {1};
    check_refused(kvfit::paged_head(paged, kv_part::keys, 0, table, 4), errc::shape_mismatch, "dim",
                  80, 32);
    paged.order = page_order::vllm_packed;
    paged.dim = 32;
    paged.value_dim = 16;
    check_refused(kvfit::paged_head(paged, kv_part::keys, 0, table, 4), errc::shape_mismatch, "dim",
                  16, 32);
    const kvfit::batch_cache batch{
        .data = memory.data(), .type = type, .heads = 2, .allocated = 4, .dim = 33};
    check_refused(kvfit::batch_head(batch, 0, 0, 4), errc::shape_mismatch, "dim", 33, 32);
    // Blocks by hand.
    check_refused(
        kvfit::make_view(
            {.data = memory.data(), .type = type, .rows = 4, .cols = 32, .row_stride = 48}),
        errc::shape_mismatch, "row_stride", 48, 32);
    check_refused(kvfit::make_view({.data = memory.data(),
                                    .type = type,
                                    .rows = 4,
                                    .cols = 32,
                                    .row_stride = 64,
                                    .col_stride = 2}),
                  errc::shape_mismatch, "col_stride", 2, 1);
  }
}

TEST_CASE("§9.21 size products beyond 64 bits are refused", "[view][layouts]") {
  const float number = 0;
  const std::vector<index_t> table = {0};
  const index_t none = kvfit::error::none;
  check_refused(
      kvfit::llama_cpp_head(
          {.data = &number, .type = dtype::fp32, .cells = huge, .heads = huge, .dim = huge}, 0, 1),
      errc::shape_mismatch, "memory", none, none);
  check_refused(kvfit::llama_cpp_head({.data = &number,
                                       .type = dtype::fp32,
                                       .cells = huge,
                                       .heads = huge,
                                       .dim = huge,
                                       .is_transposed = true},
                                      huge - 1, 1),
                errc::shape_mismatch, "memory", none, none);
  check_refused(kvfit::batch_head({.data = &number, .heads = huge, .allocated = huge, .dim = 1}, 0,
                                  huge - 1, 1),
                errc::shape_mismatch, "memory", none, none);
  for (int order = 0; order <= static_cast<int>(page_order::separate_hnd); ++order) {
    CAPTURE(order);
    check_refused(kvfit::paged_head({.data = &number,
                                     .order = static_cast<page_order>(order),
                                     .pages = huge,
                                     .page_size = 1,
                                     .heads = huge,
                                     .dim = huge},
                                    kv_part::values, huge - 1, table, 1),
                  errc::shape_mismatch, "memory", none, none);
    check_refused(kvfit::paged_head({.data = &number,
                                     .order = static_cast<page_order>(order),
                                     .pages = 1,
                                     .page_size = 1,
                                     .heads = 2,
                                     .dim = std::numeric_limits<index_t>::max()},
                                    kv_part::values, 1, table, 1),
                  errc::shape_mismatch, "memory", none, none);
  }
  const index_t most = std::numeric_limits<index_t>::max();
  check_refused(kvfit::make_view({.data = &number, .rows = most, .cols = most, .row_stride = most}),
                errc::shape_mismatch, "memory", none, none);
  check_refused(kvfit::make_view({.data = &number,
                                  .rows = 2,
                                  .cols = 2,
                                  .row_stride = std::numeric_limits<index_t>::min()}),
                errc::shape_mismatch, "memory", none, none);
}

TEST_CASE("§9.21 pools and groups near 64 bits are refused, or read without overflow",
          "[view][layouts]") {
  constexpr index_t most = std::numeric_limits<index_t>::max();
  const std::vector<float> memory(64);
  const std::vector<std::int32_t> table = {0};
  const auto decode = [](const void*, index_t, float* out) noexcept { *out = 0; };
  for (const index_t page_size : {index_t{2}, most}) {
    const auto view = kvfit::make_paged_view(
        kvfit::row_memory{
            .data = memory.data(), .type = dtype::decoded, .cols = 1, .decode = decode},
        std::span<const std::int32_t>(table), {.pages = most, .page_size = page_size}, 1);
    check_refused(view, errc::shape_mismatch, "pages", most, kvfit::error::none);
  }
  const kvfit::paged_cache pool{.data = memory.data(),
                                .type = dtype::fp32,
                                .order = page_order::tensorrt_llm,
                                .pages = 2,
                                .page_size = 1,
                                .heads = 1,
                                .dim = 2,
                                .page_stride = index_t{1} << 61};
  CHECK_FALSE(kvfit::paged_head(pool, kv_part::keys, 0, std::vector<index_t>{0}, 1));

  std::vector<std::int8_t> numbers(32);
  for (std::size_t k = 0; k < 32; ++k) numbers[k] = static_cast<std::int8_t>(k);
  const std::vector<float> scales = {2, 3, 5, 7};
  const auto rows =
      kvfit::make_view({.data = numbers.data(),
                        .type = dtype::int8,
                        .rows = 4,
                        .cols = 8,
                        .row_stride = 8,
                        .scales = {.data = scales.data(), .group = most, .row_stride = 1}});
  REQUIRE(rows);
  const row_view thinned = rows->transposed().every_row(1, 2).transposed();
  std::array<float, 16> buffer{};
  const auto tile = kvfit::load_rows(thinned, 0, 4, buffer.data());
  for (index_t r = 0; r < 4; ++r) {
    for (index_t c = 0; c < 4; ++c) {
      CHECK(tile.data[r * tile.stride + c] ==
            static_cast<float>(r * 8 + 2 * c + 1) * scales[static_cast<std::size_t>(r)]);
    }
  }
}

TEST_CASE("Lists and tables that lead out of the memory are refused", "[view][layouts]") {
  const auto memory = numbered_memory(1000);
  const kvfit::llama_cpp_cache cache{
      .data = memory.data(), .type = dtype::fp32, .cells = 10, .heads = 1, .dim = 4};
  for (const index_t bad : {index_t{10}, index_t{-1}, huge}) {
    const std::vector<index_t> cells = {0, 9, bad};
    check_refused(kvfit::llama_cpp_head(cache, 0, cells), errc::invalid_position, "rows", bad, 10);
  }
  check_refused(kvfit::llama_cpp_head(cache, 0, 11), errc::shape_mismatch, "tokens", 11, 10);
  const kvfit::paged_cache paged{
      .data = memory.data(), .type = dtype::fp32, .pages = 5, .page_size = 4, .heads = 1, .dim = 4};
  for (const std::int32_t bad : {5, -1}) {
    const std::vector<std::int32_t> table = {0, 4, bad};
    check_refused(kvfit::paged_head(paged, kv_part::keys, 0, table, 9), errc::invalid_position,
                  "table", bad, 5);
    CHECK(kvfit::paged_head(paged, kv_part::keys, 0, table, 8));  // the entry is not used
    check_refused(kvfit::paged_head(paged, kv_part::keys, 0, table, 13), errc::shape_mismatch,
                  "table", 3, 4);
    check_refused(kvfit::paged_head(paged, kv_part::keys, 0, table, -1), errc::shape_mismatch,
                  "rows", -1, 0);
  }
  kvfit::row_memory mapped{.data = memory.data(), .rows = 2, .cols = 2, .row_stride = 2};
  const std::vector<index_t> rows = {0, 1};
  mapped.map = kvfit::row_map::listed(rows.data());
  CHECK(kvfit::make_view(mapped).error().argument == "map");
}

TEST_CASE("Types and decoders that can't be read are refused", "[view][layouts]") {
  const auto memory = numbered_memory(100);
  CHECK(kvfit::make_view(
            {.data = memory.data(), .type = static_cast<dtype>(77), .rows = 1, .cols = 1})
            .error()
            .code == errc::invalid_option);
  CHECK(kvfit::make_view({.type = dtype::decoded, .rows = 1, .cols = 1}).error().code ==
        errc::null_data);
  const kvfit::decode_row zeros = [](const void*, index_t, float* out) noexcept { *out = 0; };
  CHECK(kvfit::make_view({.type = dtype::decoded, .rows = 1, .cols = 1, .decode = zeros}));
  check_refused(
      kvfit::make_view({.type = dtype::decoded, .rows = 1, .cols = 4097, .decode = zeros}),
      errc::invalid_option, "cols", 4097, 4096);
  CHECK(kvfit::llama_cpp_head(
            {.data = memory.data(), .type = dtype::decoded, .cells = 1, .heads = 1, .dim = 1}, 0, 1)
            .error()
            .argument == "type");
}

}  // namespace kvfit_test
