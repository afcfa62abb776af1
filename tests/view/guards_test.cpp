// SPDX-License-Identifier: MIT
// One test for each guard of view/ that no other test needs.
#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "kvfit/view/check.hpp"
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
using kvfit::kv_part;
using kvfit::page_order;
using kvfit::row_memory;
using kvfit::scale_scope;
using kvfit::store_rows;
using kvfit::writable_view;

/// What is wrong, by code, argument and numbers.
template <class Result>
void check_error(const Result& found, errc code, std::string_view argument,
                 std::int64_t actual = kvfit::error::none,
                 std::int64_t expected = kvfit::error::none) {
  REQUIRE_FALSE(found);
  INFO(found.error().message());
  CHECK(found.error().code == code);
  CHECK(found.error().argument == argument);
  CHECK(found.error().actual == actual);
  CHECK(found.error().expected == expected);
}

constexpr index_t largest_index = std::numeric_limits<index_t>::max();

/// Memory for every cache here.
struct some_memory {
  std::vector<float> numbers = std::vector<float>(4096, 1.0F);
  std::vector<float> scales = std::vector<float>(4096, 0.5F);
};

kvfit::llama_cpp_cache llama_cpp(const some_memory& of) {
  return {.data = of.numbers.data(), .type = dtype::fp32, .cells = 8, .heads = 2, .dim = 4};
}
kvfit::batch_cache batch(const some_memory& of) {
  return {.data = of.numbers.data(), .type = dtype::fp32, .heads = 2, .allocated = 8, .dim = 4};
}
kvfit::paged_cache paged(const some_memory& of) {
  return {.data = of.numbers.data(),
          .type = dtype::fp32,
          .pages = 4,
          .page_size = 4,
          .heads = 2,
          .dim = 4};
}

const std::vector<index_t> two_pages = {3, 1};

kvfit::result<row_view> keys_of(const kvfit::paged_cache& cache, index_t head = 0,
                                index_t tokens = 5) {
  return kvfit::paged_head(cache, kv_part::keys, head, two_pages, tokens);
}

}  // namespace

TEST_CASE("O: sizes below 1 and parts that are not there are refused by every layout",
          "[view][layouts][guards]") {
  const some_memory of;
  for (const index_t size : {index_t{0}, index_t{-1}}) {
    const auto refused = [size](const auto& view, const char* what) {
      check_error(view, errc::shape_mismatch, what, size, 1);
    };
    using llama = kvfit::llama_cpp_cache;
    for (const auto& [member, what] : {std::pair{&llama::cells, "cells"},
                                       {&llama::heads, "heads"},
                                       {&llama::dim, "dim"},
                                       {&llama::streams, "streams"}}) {
      llama cache = llama_cpp(of);
      cache.*member = size;
      refused(kvfit::llama_cpp_head(cache, 0, 3), what);
      refused(kvfit::llama_cpp_head(cache, 0, std::vector<index_t>{0}), what);
    }
    using batch_t = kvfit::batch_cache;
    for (const auto& [member, what] : {std::pair{&batch_t::sequences, "sequences"},
                                       {&batch_t::heads, "heads"},
                                       {&batch_t::allocated, "allocated"},
                                       {&batch_t::dim, "dim"}}) {
      batch_t cache = batch(of);
      cache.*member = size;
      refused(kvfit::batch_head(cache, 0, 0, 3), what);
    }
    using paged_t = kvfit::paged_cache;
    for (const auto& [member, what] : {std::pair{&paged_t::pages, "pages"},
                                       {&paged_t::page_size, "page_size"},
                                       {&paged_t::heads, "heads"},
                                       {&paged_t::dim, "dim"}}) {
      paged_t cache = paged(of);
      cache.*member = size;
      refused(keys_of(cache), what);
    }
  }
  kvfit::paged_cache packed = paged(of);
  packed.order = page_order::vllm_packed;
  packed.value_dim = -1;
  check_error(keys_of(packed), errc::shape_mismatch, "value_dim", -1, 1);
  for (const index_t head : {index_t{-1}, index_t{2}}) {
    check_error(kvfit::llama_cpp_head(llama_cpp(of), head, 3), errc::invalid_option, "head", head,
                2);
    check_error(kvfit::batch_head(batch(of), 0, head, 3), errc::invalid_option, "head", head, 2);
    check_error(keys_of(paged(of), head), errc::invalid_option, "head", head, 2);
  }
  for (const index_t place : {index_t{-1}, index_t{1}}) {
    kvfit::llama_cpp_cache cache = llama_cpp(of);
    cache.stream = place;
    check_error(kvfit::llama_cpp_head(cache, 0, 3), errc::invalid_option, "stream", place, 1);
    check_error(kvfit::batch_head(batch(of), place, 0, 3), errc::invalid_option, "sequence", place,
                1);
  }
}

TEST_CASE("O: tokens are between none and what there is room for", "[view][layouts][guards]") {
  const some_memory of;
  for (const index_t tokens : {index_t{0}, index_t{8}}) {
    CHECK(kvfit::llama_cpp_head(llama_cpp(of), 0, tokens)->rows() == tokens);
    CHECK(kvfit::batch_head(batch(of), 0, 0, tokens)->rows() == tokens);
    CHECK(keys_of(paged(of), 0, tokens)->rows() == tokens);
  }
  for (const index_t tokens : {index_t{-1}, index_t{9}}) {
    check_error(kvfit::llama_cpp_head(llama_cpp(of), 0, tokens), errc::shape_mismatch, "tokens",
                tokens, 8);
    check_error(kvfit::batch_head(batch(of), 0, 0, tokens), errc::shape_mismatch, "tokens", tokens,
                8);
  }
  check_error(keys_of(paged(of), 0, 9), errc::shape_mismatch, "table", 2, 3);
}

TEST_CASE("O: types and orders that a layout does not have are refused",
          "[view][layouts][guards]") {
  const some_memory of;
  kvfit::llama_cpp_cache cache = llama_cpp(of);
  cache.type = dtype::int8;
  check_error(kvfit::llama_cpp_head(cache, 0, 3), errc::invalid_option, "type");
  kvfit::paged_cache pool = paged(of);
  pool.order = static_cast<page_order>(7);
  check_error(keys_of(pool), errc::invalid_option, "order", 7, 6);
}

TEST_CASE("O: no memory is no memory, whatever the head", "[view][layouts][guards]") {
  const some_memory of;
  kvfit::llama_cpp_cache cells = llama_cpp(of);
  cells.data = nullptr;
  kvfit::batch_cache rows = batch(of);
  rows.data = nullptr;
  kvfit::paged_cache pages = paged(of);
  pages.data = nullptr;
  for (const index_t head : {index_t{0}, index_t{1}}) {
    CHECK(kvfit::llama_cpp_head(cells, head, 3).error().code == errc::null_data);
    CHECK(kvfit::batch_head(rows, 0, head, 3).error().code == errc::null_data);
    CHECK(keys_of(pages, head).error().code == errc::null_data);
  }
}

TEST_CASE("O: memory of blocks is counted in blocks", "[view][layouts][guards]") {
  const some_memory of;
  kvfit::batch_cache cache = batch(of);
  cache.type = dtype::q8_0;
  cache.dim = 32;
  cache.bytes = 2 * 8 * 34;
  CHECK(kvfit::batch_head(cache, 0, 1, 8));
  cache.bytes -= 1;
  check_error(kvfit::batch_head(cache, 0, 1, 8), errc::shape_mismatch, "memory", 2 * 8 * 34 - 1,
              2 * 8 * 34);
}

TEST_CASE("O: groups of scales that do not divide a row, and tails that hold no whole scales",
          "[view][layouts][guards]") {
  const some_memory of;
  kvfit::batch_cache cache = batch(of);
  cache.type = dtype::int8;
  cache.dim = 8;
  cache.scales = {.data = of.scales.data()};
  for (const index_t group : {index_t{0}, index_t{-4}, index_t{3}, index_t{16}}) {
    cache.scales.group = group;
    check_error(kvfit::batch_head(cache, 0, 1, 8), errc::shape_mismatch, "scales.group", group, 8);
  }
  for (const index_t group : {index_t{1}, index_t{8}}) {
    cache.scales.group = group;
    CHECK(kvfit::batch_head(cache, 0, 1, 8));
  }
  cache.scales = {.per = scale_scope::row_tail};
  for (const index_t tail :
       {index_t{0}, index_t{2}, index_t{6}, index_t{4100}, largest_index - 3}) {
    cache.scales.tail = tail;
    check_error(kvfit::batch_head(cache, 0, 0, 1), errc::shape_mismatch, "scales.tail", tail, 4);
  }
  for (const index_t tail : {index_t{4}, index_t{4096}}) {
    cache.scales.tail = tail;
    CHECK(kvfit::batch_head(cache, 0, 0, 1));
  }
  cache.dim = 6;
  check_error(kvfit::batch_head(cache, 0, 0, 1), errc::shape_mismatch, "dim", 6, 4);
  cache.dim = 8;
  cache.scales.type = dtype::decoded;  // of no size
  check_error(kvfit::batch_head(cache, 0, 0, 1), errc::shape_mismatch, "scales.tail", 4096, 0);
}

TEST_CASE("O: scales of rows that are described by hand are checked as those of layouts",
          "[view][make_view][guards]") {
  const some_memory of;
  const row_memory memory{.data = of.numbers.data(),
                          .type = dtype::int8,
                          .rows = 4,
                          .cols = 8,
                          .row_stride = 8,
                          .scales = {.data = of.scales.data(), .group = 4, .row_stride = 2}};
  REQUIRE(kvfit::make_view(memory));
  for (const index_t group : {index_t{0}, index_t{-1}}) {
    row_memory bad = memory;
    bad.scales.group = group;
    check_error(kvfit::make_view(bad), errc::invalid_option, "scales.group", group, 1);
    bad = memory;
    bad.scales.row_group = group;
    check_error(kvfit::make_view(bad), errc::invalid_option, "scales.row_group", group, 1);
  }
  for (index_t kvfit::group_scales::*const stride :
       {&kvfit::group_scales::row_stride, &kvfit::group_scales::group_stride}) {
    row_memory bad = memory;
    bad.scales.*stride = index_t{1} << 61U;
    check_error(kvfit::make_view(bad), errc::shape_mismatch, "scales");
  }
}

TEST_CASE("O: rows of blocks are whole blocks, pages too", "[view][make_view][guards]") {
  const some_memory of;
  row_memory memory{
      .data = of.numbers.data(), .type = dtype::q8_0, .rows = 2, .cols = 40, .row_stride = 64};
  check_error(kvfit::make_view(memory), errc::shape_mismatch, "cols", 40, 32);
  memory.cols = 32;
  memory.rows = 0;
  const std::vector<index_t> table = {0, 1};
  check_error(kvfit::make_paged_view(memory, table, {2, 2, 144}, 4), errc::shape_mismatch,
              "page_stride", 144, 32);
  CHECK(kvfit::make_paged_view(memory, table, {2, 2, 160}, 4));
  CHECK(kvfit::make_paged_view(memory, std::vector<index_t>{0}, {1, 2, 144}, 2));  // no next page
}

TEST_CASE("O: sizes below 0 are refused, and no rows or columns need no memory",
          "[view][make_view][guards]") {
  const some_memory of;
  const float* const data = of.numbers.data();
  check_error(kvfit::make_view({.data = data, .rows = -1, .cols = 4}), errc::shape_mismatch, "rows",
              -1, 0);
  check_error(kvfit::make_view({.data = data, .rows = 4, .cols = -1}), errc::shape_mismatch, "cols",
              -1, 0);
  CHECK(kvfit::make_view({.rows = 0, .cols = 4})->rows() == 0);
  CHECK(kvfit::make_view({.rows = 4, .cols = 0})->cols() == 0);
  CHECK(kvfit::make_view({.rows = 4, .cols = 4}).error().code == errc::null_data);
  const std::vector<index_t> table = {0};
  const row_memory memory{.data = data, .cols = 4, .row_stride = 4};
  for (const index_t size : {index_t{0}, index_t{-1}}) {
    check_error(kvfit::make_paged_view(memory, table, {1, size, 16}, 1), errc::invalid_option,
                "page_size", size, 1);
  }
  check_error(kvfit::make_paged_view(memory, table, {-1, 4, 16}, 0), errc::invalid_option, "pages",
              -1, 0);
  CHECK(kvfit::make_paged_view(memory, std::vector<index_t>{}, {0, 4, 16}, 0)->rows() == 0);
  const kvfit::decode_row zeros = [](const void*, index_t, float* out) noexcept { *out = 0; };
  CHECK(kvfit::make_view({.type = dtype::decoded, .rows = 1, .cols = 4096, .decode = zeros}));
}

TEST_CASE("O: gaps between pages have to be gaps, where pages are neighbours",
          "[view][layouts][guards]") {
  const some_memory of;
  kvfit::paged_cache pool = paged(of);
  pool.order = page_order::separate_hnd;
  constexpr index_t page = 2 * 4 * 4;
  pool.page_stride = page;
  CHECK(keys_of(pool));
  pool.page_stride = page - 1;
  check_error(keys_of(pool), errc::shape_mismatch, "page_stride", page - 1, page);
  pool.page_stride = index_t{1} << 62U;
  check_error(keys_of(pool), errc::shape_mismatch, "memory");
  for (const page_order order : {page_order::vllm_nhd, page_order::vllm_hnd}) {
    pool.order = order;
    pool.page_stride = 2 * page;
    check_error(keys_of(pool), errc::invalid_option, "page_stride", 2 * page, page);
  }
}

TEST_CASE("O: dims beyond 61 bits are refused before a tail is added to them",
          "[view][layouts][guards]") {
  const some_memory of;  // without the guards these are overflows that a sanitizer finds
  const kvfit::cache_scales tail{.per = scale_scope::row_tail, .tail = 4096};
  kvfit::batch_cache cache = batch(of);
  cache.type = dtype::fp8_e4m3;
  cache.dim = largest_index - 3;
  cache.scales = tail;
  check_error(kvfit::batch_head(cache, 0, 0, 3), errc::shape_mismatch, "memory");
  kvfit::paged_cache pool = paged(of);
  pool.type = dtype::fp8_e4m3;
  pool.order = page_order::vllm_packed;
  pool.scales = tail;
  for (index_t kvfit::paged_cache::*const size :
       {&kvfit::paged_cache::dim, &kvfit::paged_cache::value_dim}) {
    kvfit::paged_cache wide = pool;
    wide.value_dim = 4;
    wide.*size = largest_index - 3;
    check_error(keys_of(wide), errc::shape_mismatch, "memory");
  }
}

TEST_CASE("O: rows and columns that leave 64 bits only together, or only in bytes, are refused",
          "[view][layouts][guards]") {
  const some_memory of;  // nothing is read
  constexpr index_t half = largest_index / 2 + 1;
  const row_memory together{.data = of.numbers.data(),
                            .type = dtype::fp8_e4m3,
                            .rows = 2,
                            .cols = 2,
                            .row_stride = half,
                            .col_stride = half};
  check_error(kvfit::make_view(together), errc::shape_mismatch, "memory");
  row_memory apart = together;
  apart.col_stride = 1;
  CHECK(kvfit::make_view(apart));
  apart.type = dtype::fp16;
  check_error(kvfit::make_view(apart), errc::shape_mismatch, "memory");
}

TEST_CASE("O: rows by a list that is not there have no memory", "[view][check][guards]") {
  const some_memory of;
  const row_view view(row_memory{.data = of.numbers.data(),
                                 .rows = 2,
                                 .cols = 4,
                                 .row_stride = 4,
                                 .map = kvfit::row_map::listed(nullptr)});
  CHECK_FALSE(view.is_backed());
  check_error(kvfit::check_view(view, "keys"), errc::null_data, "keys");
}

TEST_CASE("O: listed rows that descend in memory are copied, not read in place",
          "[view][load][guards]") {
  std::vector<float> memory(12);
  for (std::size_t k = 0; k < memory.size(); ++k) memory[k] = static_cast<float>(k);
  const std::vector<index_t> rows = {0, 1, 2};
  const auto view = kvfit::make_listed_view(
      {.data = memory.data() + 8, .rows = 3, .cols = 4, .row_stride = -4}, rows);
  REQUIRE(view);
  std::vector<float> buffer(12);
  const kvfit::float_tile tile = kvfit::load_rows(*view, 0, 3, buffer.data());
  CHECK(tile.data == buffer.data());
  CHECK(tile.stride == 4);
  CHECK(buffer == std::vector<float>{8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3});
}

TEST_CASE("O: only rows that lie close together, and do not overlap, are fetched ahead",
          "[view][load][guards]") {
  const std::vector<float> memory(400);
  const auto bytes = [&](const row_view& view) { return kvfit::memory_of_rows(view, 0, 2).bytes; };
  CHECK(bytes(row_view(memory.data(), 4, 8, 8)) == 16 * 4);
  CHECK(bytes(row_view(memory.data(), 4, 8, 16)) == 24 * 4);
  CHECK(bytes(row_view(memory.data(), 4, 8, 17)) == 0);
  CHECK(bytes(row_view(memory.data(), 4, 8, 7)) == 0);
  CHECK(bytes(row_view(memory.data(), 4, 8, -8)) == 0);
  CHECK(bytes(row_view(memory.data(), 4, 0, 8)) == 0);
  const std::vector<index_t> rows = {0, 1};
  CHECK(bytes(*kvfit::make_listed_view(
            {.data = memory.data(), .rows = 4, .cols = 8, .row_stride = 8}, rows)) == 0);
}

TEST_CASE("O: targets that cut a group whose scale is to be made are refused",
          "[view][store][guards]") {
  std::vector<std::int8_t> numbers(64 * 8, 1);
  std::vector<float> scales(64 * 8, 1.0F);
  row_memory memory{.data = numbers.data(),
                    .type = dtype::int8,
                    .rows = 64,
                    .cols = 8,
                    .row_stride = 8,
                    .scales = {.data = scales.data(), .group = 4, .row_stride = 2}};
  const auto store = [](const row_view& target) {
    const kvfit::matrix rows = random_matrix(target.rows(), target.cols(), 3);
    return store_rows(rows, writable_view(target));
  };
  const row_view by_cols = *kvfit::make_view(memory);
  check_error(store(by_cols.middle_cols(0, 6)), errc::shape_mismatch, "target", 6, 4);
  check_error(store(by_cols.middle_cols(2, 4)), errc::shape_mismatch, "target", 2, 4);
  CHECK(store(by_cols.middle_cols(4, 4)));
  // One scale a channel and 4 rows.
  memory.scales = {.data = scales.data(), .group = 1, .row_stride = 8, .row_group = 4};
  const row_view by_rows = *kvfit::make_view(memory);
  check_error(store(by_rows.middle_rows(0, 6)), errc::shape_mismatch, "target", 6, 4);
  CHECK(store(by_rows.middle_rows(4, 8)));
  const std::vector<index_t> list = {0, 1, 2, 3};
  check_error(store(*kvfit::make_listed_view(memory, list)), errc::invalid_option, "target");
  row_memory in_pages = memory;
  in_pages.rows = 0;
  in_pages.scales.page_stride = 64;
  const std::vector<index_t> table = {2, 0};
  check_error(store(*kvfit::make_paged_view(in_pages, table, {4, 6, 64}, 12)), errc::shape_mismatch,
              "target", 6, 4);
  CHECK(store(*kvfit::make_paged_view(in_pages, table, {4, 8, 64}, 16)));
  CHECK(numbers[16 * 8] != 1);
}

TEST_CASE("O: a scale that all groups of a row share is made where there is one group alone",
          "[view][store][guards]") {
  std::vector<std::int8_t> numbers(2 * 8);
  std::vector<float> scales(2, 0.25F);
  row_memory memory{
      .data = numbers.data(),
      .type = dtype::int8,
      .rows = 2,
      .cols = 8,
      .row_stride = 8,
      .scales = {.data = scales.data(), .group = 8, .row_stride = 1, .group_stride = 0}};
  const kvfit::matrix large = kvfit::matrix::Constant(2, 8, 254);
  REQUIRE(store_rows(large, writable_view(*kvfit::make_view(memory))));
  CHECK(scales == std::vector<float>{2, 2});
  memory.scales.group = 4;  // two groups, one scale: it is taken as it is
  const kvfit::matrix too_large = 2 * large;
  check_error(store_rows(too_large, writable_view(*kvfit::make_view(memory)), "rows"),
              errc::storage_overflow, "rows", 0, 0);
  CHECK(scales == std::vector<float>{2, 2});
}

TEST_CASE("O: int8 at a given scale ends where a byte does", "[view][store][guards]") {
  std::vector<std::int8_t> numbers(4);
  float scale = 0.5F;
  const auto target = kvfit::make_view({.data = numbers.data(),
                                        .type = dtype::int8,
                                        .rows = 1,
                                        .cols = 4,
                                        .row_stride = 4,
                                        .scales = {.data = &scale, .group = 4}});
  REQUIRE(target);
  const auto store = [&](float x) {
    kvfit::matrix rows = kvfit::matrix::Zero(1, 4);
    rows(0, 2) = x;
    return store_rows(rows, writable_view(*target));
  };
  CHECK(store(0.5F * 127.25F));
  CHECK(numbers[2] == 127);
  CHECK(store(0.5F * -128.25F));
  CHECK(numbers[2] == -128);
  for (const float beyond : {127.5F, -128.5F}) {
    check_error(store(0.5F * beyond), errc::storage_overflow, "rows", 0, 2);
  }
  CHECK(numbers[2] == -128);
}

TEST_CASE("O: the first number that does not fit is the one that is named",
          "[view][store][guards]") {
  kvfit::matrix rows = kvfit::matrix::Zero(1, 32);
  rows(0, 5) = 1e9F;
  rows(0, 9) = -1e9F;
  std::vector<kvfit::q8_0_block> blocks(1);
  check_error(store_rows(rows, writable_view(row_view(blocks.data(), dtype::q8_0, 1, 32, 32))),
              errc::storage_overflow, "rows", 0, 5);
  std::vector<std::int8_t> numbers(32);
  std::vector<float> scales(8, 1.0F);
  const auto target = kvfit::make_view({.data = numbers.data(),
                                        .type = dtype::int8,
                                        .rows = 1,
                                        .cols = 32,
                                        .row_stride = 32,
                                        .scales = {.data = scales.data(), .group = 4}});
  REQUIRE(target);  // one row of scales for all: they are taken as they are
  check_error(store_rows(rows, writable_view(*target)), errc::storage_overflow, "rows", 0, 5);
}

TEST_CASE("O: rows from nowhere are refused, and rows that overlap are named in order",
          "[view][store][guards]") {
  std::vector<float> memory(8);
  check_error(store_rows(row_view(static_cast<const float*>(nullptr), 2, 4),
                         writable_view(memory.data(), 2, 4, 4)),
              errc::null_data, "rows");
  const std::vector<index_t> list = {1, 0};  // a row later in memory comes first
  const auto overlapping =
      kvfit::make_listed_view({.data = memory.data(), .rows = 2, .cols = 2, .row_stride = 1}, list);
  REQUIRE(overlapping);
  const kvfit::matrix ones = kvfit::matrix::Ones(2, 2);
  const auto stored = store_rows(ones, writable_view(*overlapping));
  check_error(stored, errc::shape_mismatch, "target", 1, 2);
  CHECK(stored.error().detail == "rows 0 and 1 share memory: the row stride");
}

}  // namespace kvfit_test
