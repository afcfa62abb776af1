// SPDX-License-Identifier: MIT
// Scales of int8 and fp8: per tensor, per head, per token and head; read, written, or refused.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string_view>
#include <vector>

#include "kvfit/view/check.hpp"
#include "kvfit/view/layouts.hpp"
#include "kvfit/view/load.hpp"
#include "kvfit/view/store.hpp"
#include "support/catch.hpp"
#include "support/random_matrix.hpp"
#include "support/stored_rows.hpp"

namespace kvfit_test {

using kvfit::dtype;
using kvfit::index_t;
using kvfit::row_view;

namespace {

using kvfit::cache_scales;
using kvfit::errc;
using kvfit::kv_part;
using kvfit::page_order;
using kvfit::row_memory;
using kvfit::scale_scope;
using kvfit::store_rows;
using kvfit::writable_view;

constexpr std::array<dtype, 3> scaled_types = {dtype::int8, dtype::fp8_e4m3, dtype::fp8_e5m2};
constexpr std::array<page_order, 7> orders = {
    page_order::vllm_nhd,       page_order::vllm_hnd,       page_order::vllm_packed,
    page_order::flashinfer_nhd, page_order::flashinfer_hnd, page_order::separate_nhd,
    page_order::separate_hnd};

/// The byte of 2.
std::uint8_t two(dtype type) {
  if (type == dtype::int8) return 2;
  return type == dtype::fp8_e4m3 ? kvfit::to_fp8_e4m3(2).bits : kvfit::to_fp8_e5m2(2).bits;
}

/// Elements that are not `expected(r, c)`, bit for bit, by every way to read them.
template <class Expected>
index_t wrong_elements(const row_view& view, Expected expected) {
  index_t wrong = 0;
  const auto compare = [&](float x, index_t r, index_t c) {
    wrong +=
        std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(expected(r, c)) ? 0 : 1;
  };
  std::vector<float> buffer(static_cast<std::size_t>(view.rows() * view.cols()));
  const auto tile = kvfit::load_rows(view, 0, view.rows(), buffer.data());
  std::vector<float> row(static_cast<std::size_t>(std::max(view.rows(), view.cols())));
  const row_view turned = view.transposed();
  for (index_t r = 0; r < view.rows(); ++r) {
    kvfit::load_row(view, r, row.data());
    for (index_t c = 0; c < view.cols(); ++c) {
      compare(view(r, c), r, c);
      compare(tile.data[r * tile.stride + c], r, c);
      compare(row[static_cast<std::size_t>(c)], r, c);
      compare(turned(c, r), r, c);
    }
  }
  for (index_t c = 0; c < view.cols(); ++c) {
    kvfit::load_row(turned, c, row.data());
    for (index_t r = 0; r < view.rows(); ++r) compare(row[static_cast<std::size_t>(r)], r, c);
  }
  return wrong;
}

template <class Result>
void check_refused(const Result& found, errc code, std::string_view argument) {
  REQUIRE_FALSE(found);
  INFO(found.error().message());
  CHECK(found.error().code == code);
  CHECK(found.error().argument == argument);
}

}  // namespace

TEST_CASE("fp8 rows with scales read as numbers times scales", "[view][scales]") {
  // 16 × 32 numbers of 2, one scale of 0.5 a row.
  for (const dtype type : scaled_types) {
    CAPTURE(kvfit::name(type));
    const std::vector<std::uint8_t> f(16 * 32, two(type));
    const std::vector<float> sc(16, 0.5F);
    const auto view = kvfit::make_view(
        {.data = f.data(),
         .type = type,
         .rows = 16,
         .cols = 32,
         .row_stride = 32,
         .scales = {.data = sc.data(), .type = dtype::fp32, .group = 32, .row_stride = 1}});
    REQUIRE(view);
    CHECK((*view)(3, 3) == 1.0F);
    CHECK_FALSE(view->is_plain());
    CHECK(wrong_elements(*view, [](index_t, index_t) { return 1.0F; }) == 0);
    CHECK(wrong_elements(view->every_row(1, 3), [](index_t, index_t) { return 1.0F; }) == 0);
  }
}

TEST_CASE("paged_head and batch_head pass the scales of fp8 on", "[view][scales]") {
  for (const dtype type : scaled_types) {
    CAPTURE(kvfit::name(type));
    const std::vector<std::uint8_t> f(16 * 32, two(type));
    const std::vector<float> sc(16, 0.5F);
    const cache_scales scales{.data = sc.data(), .group = 32};
    const std::vector<index_t> table = {1, 0};
    const auto paged = kvfit::paged_head({.data = f.data(),
                                          .type = type,
                                          .order = page_order::separate_nhd,
                                          .pages = 2,
                                          .page_size = 8,
                                          .heads = 1,
                                          .dim = 32,
                                          .scales = scales},
                                         kv_part::keys, 0, table, 16);
    REQUIRE(paged);
    CHECK((*paged)(3, 3) == 1.0F);
    CHECK(wrong_elements(*paged, [](index_t, index_t) { return 1.0F; }) == 0);
    const auto batch = kvfit::batch_head(
        {.data = f.data(), .type = type, .heads = 1, .allocated = 16, .dim = 32, .scales = scales},
        0, 0, 16);
    REQUIRE(batch);
    CHECK((*batch)(3, 3) == 1.0F);
    CHECK(wrong_elements(*batch, [](index_t, index_t) { return 1.0F; }) == 0);
  }
}

TEST_CASE("Scales of fp8 by number, transposed and in steps are those of the numbers",
          "[view][scales]") {
  std::vector<std::uint8_t> bytes(12 * 8);
  for (std::size_t k = 0; k < bytes.size(); ++k) bytes[k] = static_cast<std::uint8_t>(k % 0x60);
  const std::vector<float> scales = {1, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37};
  const row_memory memory{.data = bytes.data(),
                          .type = dtype::fp8_e4m3,
                          .rows = 12,
                          .cols = 8,
                          .row_stride = 8,
                          .scales = {.data = scales.data(), .group = 8, .row_stride = 1}};
  const std::vector<index_t> rows = {11, 0, 5, 5};
  const auto listed = kvfit::make_listed_view(memory, rows);
  REQUIRE(listed);
  const auto value = [&](index_t r, index_t c) {
    return decoded::e4m3(bytes[static_cast<std::size_t>(r * 8 + c)]) *
           scales[static_cast<std::size_t>(r)];
  };
  CHECK(wrong_elements(*listed, [&](index_t r, index_t c) {
          return value(rows[static_cast<std::size_t>(r)], c);
        }) == 0);
  const auto view = kvfit::make_view(memory);
  REQUIRE(view);
  CHECK(wrong_elements(view->every_row(1, 4).middle_cols(3, 4),
                       [&](index_t r, index_t c) { return value(1 + 4 * r, 3 + c); }) == 0);
  row_memory turned = memory;  // the same memory as columns
  turned.rows = 8;
  turned.cols = 12;
  turned.row_stride = 1;
  turned.col_stride = 8;
  turned.scales = {.data = scales.data(), .group = 1};
  const auto columns = kvfit::make_view(turned);
  REQUIRE(columns);
  CHECK(wrong_elements(*columns, [&](index_t r, index_t c) { return value(c, r); }) == 0);
}

TEST_CASE("Scales per tensor, per head and per token are found in every pool of pages",
          "[view][scales]") {
  constexpr index_t pages = 3;
  constexpr index_t size = 4;
  constexpr index_t heads = 3;
  constexpr index_t dim = 8;
  constexpr index_t value_dim = 12;
  const std::vector<std::int32_t> table = {2, 0};
  for (const dtype type : scaled_types) {
    const std::vector<std::uint8_t> bytes(pages * size * heads * (dim + value_dim) * 2, two(type));
    std::vector<float> of_keys(pages * size * heads);
    for (std::size_t k = 0; k < of_keys.size(); ++k) of_keys[k] = static_cast<float>(k + 1);
    std::vector<float> of_values = of_keys;
    for (float& scale : of_values) scale += 1000;
    for (const page_order order : orders) {
      CAPTURE(kvfit::name(type), static_cast<int>(order));
      const bool has_both = order < page_order::separate_nhd;
      kvfit::paged_cache cache{.data = bytes.data(),
                               .type = type,
                               .order = order,
                               .pages = pages,
                               .page_size = size,
                               .heads = heads,
                               .dim = dim,
                               .value_dim = order == page_order::vllm_packed ? value_dim : 0,
                               .bytes = bytes.size()};
      const bool by_heads = order == page_order::vllm_hnd || order == page_order::flashinfer_hnd ||
                            order == page_order::separate_hnd || order == page_order::vllm_packed;
      for (const scale_scope per : {scale_scope::tensor, scale_scope::head, scale_scope::row}) {
        CAPTURE(static_cast<int>(per));
        cache.scales = {.data = of_keys.data(), .per = per};
        if (has_both) cache.scales.value_data = of_values.data();
        for (index_t head = 0; head < heads; ++head) {
          for (const kv_part part : {kv_part::keys, kv_part::values}) {
            const auto view = kvfit::paged_head(cache, part, head, table, 7);
            REQUIRE(view);
            const float more = has_both && part == kv_part::values ? 1000 : 0;
            CHECK(wrong_elements(*view, [&](index_t t, index_t) {
                    const index_t page = table[static_cast<std::size_t>(t / size)];
                    index_t number = 0;
                    if (per == scale_scope::head) number = head;
                    if (per == scale_scope::row) {
                      number = by_heads ? (page * heads + head) * size + t % size
                                        : (page * size + t % size) * heads + head;
                    }
                    return 2 * (static_cast<float>(number + 1) + more);
                  }) == 0);
          }
        }
      }
    }
  }
}

TEST_CASE("A scale behind each row of a pool is its row's", "[view][scales]") {
  constexpr index_t pages = 3;
  constexpr index_t size = 4;
  constexpr index_t heads = 2;
  constexpr index_t dim = 8;
  const std::vector<index_t> table = {2, 0};
  for (const index_t tail : {index_t{4}, index_t{16}}) {
    const index_t row = dim + tail;
    const index_t all = pages * size * heads * row * 2;
    for (const page_order order : orders) {
      CAPTURE(tail, static_cast<int>(order));
      std::vector<float> storage(static_cast<std::size_t>(all) / 4);  // aligned
      auto* const bytes = reinterpret_cast<std::uint8_t*>(storage.data());
      // Rows of any layout are cut from the start on: each is numbers of 2 and its own number.
      for (index_t r = 0; r < all / row; ++r) {
        std::fill_n(bytes + r * row, dim, two(dtype::fp8_e4m3));
        const auto number = static_cast<float>(r + 1);
        std::memcpy(bytes + r * row + dim, &number, 4);
      }
      const kvfit::paged_cache cache{.data = bytes,
                                     .type = dtype::fp8_e4m3,
                                     .order = order,
                                     .pages = pages,
                                     .page_size = size,
                                     .heads = heads,
                                     .dim = dim,
                                     .scales = {.per = scale_scope::row_tail, .tail = tail}};
      for (const kv_part part : {kv_part::keys, kv_part::values}) {
        const index_t half = part == kv_part::values ? 1 : 0;
        for (index_t head = 0; head < heads; ++head) {
          const auto view = kvfit::paged_head(cache, part, head, table, 7);
          REQUIRE(view);
          const auto number = [&](index_t p, index_t s) -> index_t {
            switch (order) {
              case page_order::vllm_nhd:
                return ((half * pages + p) * size + s) * heads + head;
              case page_order::vllm_hnd:
                return ((half * pages + p) * heads + head) * size + s;
              case page_order::vllm_packed:
                return ((p * heads + head) * size + s) * 2 + half;
              case page_order::flashinfer_nhd:
                return ((p * 2 + half) * size + s) * heads + head;
              case page_order::flashinfer_hnd:
                return ((p * 2 + half) * heads + head) * size + s;
              case page_order::separate_nhd:
                return (p * size + s) * heads + head;
              default:
                return (p * heads + head) * size + s;
            }
          };
          CHECK(wrong_elements(*view, [&](index_t t, index_t) {
                  const index_t page = table[static_cast<std::size_t>(t / size)];
                  return 2 * static_cast<float>(number(page, t % size) + 1);
                }) == 0);
          // What is written there comes back, with a scale of its own.
          const kvfit::matrix rows = random_matrix(7, dim, 3);
          const std::vector<float> before = storage;
          REQUIRE(store_rows(rows, writable_view(*view)));
          for (index_t r = 0; r < 7; ++r) {
            const float largest = rows.row(r).cwiseAbs().maxCoeff();
            for (index_t c = 0; c < dim; ++c) {
              CHECK(std::abs((*view)(r, c) - rows(r, c)) <= largest / 16);
            }
          }
          storage = before;
        }
      }
      const index_t page = 2 * size * heads * row;
      if (order == page_order::flashinfer_nhd) {  // layers that share a pool, of whole scales
        kvfit::paged_cache shared = cache;
        shared.page_stride = page + 8;
        CHECK(kvfit::paged_head(shared, kv_part::keys, 0, table, 4));
        shared.page_stride = page + 2;
        check_refused(kvfit::paged_head(shared, kv_part::keys, 0, table, 4), errc::shape_mismatch,
                      "page_stride");
      }
    }
  }
}

TEST_CASE("Scales per tensor, per head and per token are found in a batch", "[view][scales]") {
  constexpr index_t sequences = 2;
  constexpr index_t heads = 3;
  constexpr index_t allocated = 5;
  constexpr index_t dim = 8;
  std::vector<float> numbers(sequences * heads * allocated);
  for (std::size_t k = 0; k < numbers.size(); ++k) numbers[k] = static_cast<float>(k + 1);
  for (const dtype type : scaled_types) {
    const std::vector<std::uint8_t> bytes(sequences * heads * allocated * dim, two(type));
    for (const scale_scope per : {scale_scope::tensor, scale_scope::head, scale_scope::row}) {
      CAPTURE(kvfit::name(type), static_cast<int>(per));
      const kvfit::batch_cache cache{.data = bytes.data(),
                                     .type = type,
                                     .sequences = sequences,
                                     .heads = heads,
                                     .allocated = allocated,
                                     .dim = dim,
                                     .scales = {.data = numbers.data(), .per = per},
                                     .bytes = bytes.size()};
      for (index_t sequence = 0; sequence < sequences; ++sequence) {
        for (index_t head = 0; head < heads; ++head) {
          const auto view = kvfit::batch_head(cache, sequence, head, 4);
          REQUIRE(view);
          CHECK(wrong_elements(*view, [&](index_t t, index_t) {
                  index_t number = 0;
                  if (per == scale_scope::head) number = head;
                  if (per == scale_scope::row) number = (sequence * heads + head) * allocated + t;
                  return 2 * static_cast<float>(number + 1);
                }) == 0);
        }
      }
    }
  }
}

TEST_CASE("Scales of a type that takes none are refused, with the type's name", "[view][scales]") {
  const std::vector<float> memory(1024, 2);
  const std::vector<float> scales(64, 0.5F);
  const std::vector<index_t> list = {1, 0};
  const auto decode = [](const void*, index_t, float* out) noexcept { *out = 0; };
  for (const dtype type :
       {dtype::fp32, dtype::fp16, dtype::bf16, dtype::q8_0, dtype::q4_0, dtype::decoded}) {
    CAPTURE(kvfit::name(type));
    row_memory given{.data = memory.data(),
                     .type = type,
                     .rows = 16,
                     .cols = 32,
                     .row_stride = type == dtype::decoded ? 0 : 32,
                     .scales = {.data = scales.data(), .group = 32, .row_stride = 1}};
    if (type == dtype::decoded) given.decode = decode;
    const auto check = [&](const auto& found) {
      check_refused(found, errc::invalid_option, "scales");
      CHECK(found.error().detail == std::string(kvfit::name(type)) + " takes no scales");
    };
    check(kvfit::make_view(given));
    check(kvfit::make_listed_view(given, list));
    row_memory pool = given;
    pool.rows = 0;
    const kvfit::paging pages{2, 8, type == dtype::decoded ? 0 : 256};
    check(kvfit::make_paged_view(pool, list, pages, 16));
    given.scales = {.row_stride = 1};  // without data, too
    check(kvfit::make_view(given));
    if (type == dtype::decoded) continue;
    for (const scale_scope per : {scale_scope::group, scale_scope::row, scale_scope::head,
                                  scale_scope::tensor, scale_scope::row_tail}) {
      cache_scales of_cache{.data = scales.data(), .per = per};
      if (per == scale_scope::row_tail) of_cache = {.per = per, .tail = 4};
      check(kvfit::batch_head({.data = memory.data(),
                               .type = type,
                               .heads = 1,
                               .allocated = 4,
                               .dim = 32,
                               .scales = of_cache},
                              0, 0, 4));
      for (const page_order order : orders) {
        check(kvfit::paged_head({.data = memory.data(),
                                 .type = type,
                                 .order = order,
                                 .pages = 2,
                                 .page_size = 2,
                                 .heads = 1,
                                 .dim = 32,
                                 .scales = of_cache},
                                kv_part::keys, 0, list, 4));
      }
    }
  }
}

TEST_CASE("What is set and has no use is refused, never ignored", "[view][scales]") {
  const std::vector<float> memory(1024, 2);
  const std::vector<float> scales(64, 0.5F);
  const std::vector<index_t> list = {1, 0};
  const auto decode = [](const void*, index_t, float* out) noexcept { *out = 0; };
  const row_memory plain{
      .data = memory.data(), .type = dtype::fp8_e4m3, .rows = 16, .cols = 32, .row_stride = 32};
  row_memory wrong = plain;
  SECTION("scales of fp8 without data") {
    wrong.scales.group = 16;
    check_refused(kvfit::make_view(wrong), errc::null_data, "scales");
  }
  SECTION("the page stride of scales without pages") {
    wrong.scales = {.data = scales.data(), .page_stride = 8};
    check_refused(kvfit::make_view(wrong), errc::invalid_option, "scales.page_stride");
    check_refused(kvfit::make_listed_view(wrong, list), errc::invalid_option, "scales.page_stride");
    wrong.rows = 0;
    CHECK(kvfit::make_paged_view(wrong, list, {2, 8, 256}, 16));
  }
  SECTION("a decoder of a type that kvfit knows") {
    wrong.decode = decode;
    for (const dtype type : {dtype::fp32, dtype::fp8_e5m2, dtype::q8_0}) {
      wrong.type = type;
      check_refused(kvfit::make_view(wrong), errc::invalid_option, "decode");
    }
  }
  SECTION("strides of decoded rows") {
    wrong = {.type = dtype::decoded, .rows = 16, .cols = 1, .decode = decode};
    CHECK(kvfit::make_view(wrong));
    wrong.row_stride = 1;
    check_refused(kvfit::make_view(wrong), errc::invalid_option, "row_stride");
    wrong.row_stride = 0;
    wrong.col_stride = 2;
    check_refused(kvfit::make_view(wrong), errc::invalid_option, "col_stride");
    wrong.col_stride = 1;
    CHECK(kvfit::make_paged_view(wrong, list, {2, 8, 0}, 16));
    check_refused(kvfit::make_paged_view(wrong, list, {2, 8, 8}, 16), errc::invalid_option,
                  "page_stride");
  }
  SECTION("a map, or other rows, beside a block table") {
    wrong.map = kvfit::row_map::listed(list.data());
    check_refused(kvfit::make_paged_view(wrong, list, {2, 8, 256}, 16), errc::invalid_option,
                  "map");
    check_refused(kvfit::make_listed_view(wrong, list), errc::invalid_option, "map");
    wrong = plain;
    CHECK(kvfit::make_paged_view(wrong, list, {2, 8, 256}, 16));
    check_refused(kvfit::make_paged_view(wrong, list, {2, 8, 256}, 15), errc::shape_mismatch,
                  "memory.rows");
  }
  SECTION("of layouts") {
    const kvfit::paged_cache right{.data = memory.data(),
                                   .type = dtype::fp8_e4m3,
                                   .order = page_order::vllm_nhd,
                                   .pages = 2,
                                   .page_size = 2,
                                   .heads = 1,
                                   .dim = 32};
    const auto check = [&](const kvfit::paged_cache& cache, errc code, std::string_view what) {
      check_refused(kvfit::paged_head(cache, kv_part::values, 0, list, 4), code, what);
    };
    kvfit::paged_cache cache = right;
    cache.value_dim = 16;
    check(cache, errc::invalid_option, "value_dim");
    cache = right;
    cache.scales = {.data = scales.data(), .per = scale_scope::tensor};  // and the values'?
    check(cache, errc::null_data, "scales");
    CHECK(kvfit::paged_head(cache, kv_part::keys, 0, list, 4));
    cache.scales = {.value_data = scales.data()};
    check(cache, errc::null_data, "scales");
    cache.scales = {.data = scales.data(), .value_data = scales.data()};
    check(cache, errc::invalid_option, "scales.value_data");
    cache.order = page_order::separate_nhd;
    cache.scales = {.data = scales.data(), .per = scale_scope::head, .value_data = scales.data()};
    check(cache, errc::invalid_option, "scales.value_data");
    cache.scales = {.data = scales.data(), .group = 16, .per = scale_scope::head};
    check(cache, errc::invalid_option, "scales.group");
    cache.scales = {.data = scales.data(), .per = scale_scope::head, .tail = 4};
    check(cache, errc::invalid_option, "scales.tail");
    cache.scales = {.data = scales.data(), .per = scale_scope::row_tail, .tail = 4};
    check(cache, errc::invalid_option, "scales.data");
    cache.scales = {.per = scale_scope::row_tail, .tail = 6};
    check(cache, errc::shape_mismatch, "scales.tail");
    cache.scales = {.per = scale_scope::row_tail};
    check(cache, errc::shape_mismatch, "scales.tail");
    cache.scales = {.data = scales.data(), .per = static_cast<scale_scope>(9)};
    check(cache, errc::invalid_option, "scales.per");
    cache.scales = {.data = scales.data(), .type = dtype::bf16, .per = scale_scope::head};
    check(cache, errc::invalid_option, "scales.type");
  }
}

TEST_CASE("A head of fp8 in a pool that layers share has scales per tensor and head",
          "[view][scales]") {
  const std::vector<std::uint8_t> bytes(4096, two(dtype::fp8_e5m2));
  const std::vector<float> scales = {3, 5};
  const std::vector<index_t> table = {2, 0};
  kvfit::paged_cache cache{
      .data = bytes.data(),
      .type = dtype::fp8_e5m2,
      .order = page_order::tensorrt_llm,
      .pages = 3,
      .page_size = 4,
      .heads = 2,
      .dim = 8,
      .page_stride = 1024,
      .scales = {.data = scales.data(), .per = scale_scope::head, .value_data = scales.data()}};
  const auto head = kvfit::paged_head(cache, kv_part::values, 1, table, 8);
  REQUIRE(head);
  CHECK(wrong_elements(*head, [](index_t, index_t) { return 10.0F; }) == 0);
  cache.scales = {.data = scales.data(), .group = 8};
  check_refused(kvfit::paged_head(cache, kv_part::values, 1, table, 8), errc::invalid_option,
                "page_stride");
}

TEST_CASE("Rows come back from int8 and fp8 within half a step of their scales",
          "[view][scales][store]") {
  // Half a step: of int8 half the scale; of fp8 half an epsilon of the number, or of the least
  // normal where it is below that.
  struct of_type {
    dtype type;
    double half_epsilon;
    double least_normal;
  };
  for (const of_type& of :
       {of_type{dtype::int8, 0.5, 1}, of_type{dtype::fp8_e4m3, 1.0 / 16, 1.0 / 64},
        of_type{dtype::fp8_e5m2, 1.0 / 8, 1.0 / 16384}}) {
    for (const auto where : {arrangement::place::strided, arrangement::place::one_of_three,
                             arrangement::place::listed, arrangement::place::paged_32}) {
      for (const bool by_cols : {false, true}) {
        for (const auto scaling : {arrangement::scaling::rows, arrangement::scaling::shared}) {
          const arrangement how{of.type, where, by_cols, false, scaling};
          CAPTURE(how.name());
          stored_rows memory(how, 96, 64, 4);
          const kvfit::matrix rows = random_matrix(96, 64, 21);
          REQUIRE(store_rows(rows, writable_view(memory.view())));
          const double most = of.type == dtype::int8       ? 127
                              : of.type == dtype::fp8_e4m3 ? 448
                                                           : 57344;
          index_t beyond = 0;
          for (index_t r = 0; r < 96; ++r) {
            const double scale =
                scaling == arrangement::scaling::shared
                    ? static_cast<double>(memory.shared_scale())
                    : static_cast<double>(rows.row(r).cwiseAbs().maxCoeff()) / most;
            for (index_t c = 0; c < 64; ++c) {
              const auto x = static_cast<double>(rows(r, c));
              const double step =
                  of.type == dtype::int8 ? scale : std::max(std::abs(x), of.least_normal * scale);
              const double wrong = std::abs(static_cast<double>(memory.view()(r, c)) - x);
              // and roundings of fp32: of the scale, the quotient and the product
              beyond += wrong <= of.half_epsilon * step * (1 + 1e-6) + 3e-7 * std::abs(x) ? 0 : 1;
            }
          }
          CHECK(beyond == 0);
        }
      }
    }
  }
}

TEST_CASE("A scale made for a row is max |x| / 448 of E4M3 and / 57344 of E5M2",
          "[view][scales][store]") {
  const kvfit::matrix rows = random_matrix(5, 32, 8);
  for (const dtype type : {dtype::fp8_e4m3, dtype::fp8_e5m2}) {
    CAPTURE(kvfit::name(type));
    std::vector<std::uint8_t> bytes(5 * 32);
    std::vector<float> scales(6, -1);
    const auto view =
        kvfit::make_view({.data = bytes.data(),
                          .type = type,
                          .rows = 5,
                          .cols = 32,
                          .row_stride = 32,
                          .scales = {.data = scales.data(), .group = 32, .row_stride = 1}});
    REQUIRE(view);
    REQUIRE(store_rows(rows, writable_view(*view)));
    for (index_t r = 0; r < 5; ++r) {
      CHECK(scales[static_cast<std::size_t>(r)] ==
            rows.row(r).cwiseAbs().maxCoeff() / (type == dtype::fp8_e4m3 ? 448.0F : 57344.0F));
    }
    CHECK(scales[5] == -1);
    // Zeros have a scale of 0.
    const kvfit::matrix zeros = kvfit::matrix::Zero(5, 32);
    REQUIRE(store_rows(zeros, writable_view(*view)));
    CHECK(scales[2] == 0);
    CHECK(wrong_elements(*view, [](index_t, index_t) { return 0.0F; }) == 0);
  }
}

TEST_CASE("A scale whose product with the largest number is infinite is an overflow",
          "[view][scales][store]") {
  for (const dtype type : scaled_types) {
    CAPTURE(kvfit::name(type));
    std::vector<std::uint8_t> bytes(32);
    std::vector<float> scales(1);
    const auto view =
        kvfit::make_view({.data = bytes.data(),
                          .type = type,
                          .rows = 1,
                          .cols = 32,
                          .row_stride = 32,
                          .scales = {.data = scales.data(), .group = 32, .row_stride = 1}});
    REQUIRE(view);
    // Down from the end of fp32: stored finite, or refused; both happen for some type.
    float x = std::numeric_limits<float>::max();
    for (int step = 0; step < 200; ++step) {
      kvfit::matrix rows = kvfit::matrix::Zero(1, 32);
      rows(0, 9) = x;
      const auto stored = store_rows(rows, writable_view(*view));
      if (stored) {
        CHECK(std::isfinite((*view)(0, 9)));
      } else {
        CHECK(stored.error().code == errc::storage_overflow);
        CHECK(stored.error().expected == 9);
      }
      x = std::nextafter(x, 0.0F);
    }
  }
}

TEST_CASE("A scale that several rows, groups or pages share is taken as it is and never written",
          "[view][scales][store]") {
  const kvfit::matrix rows = random_matrix(4, 8, 1);
  for (const dtype type : scaled_types) {
    CAPTURE(kvfit::name(type));
    std::vector<std::uint8_t> bytes(32, two(type));
    std::vector<float> scales = {0.5F, 0.25F};
    const std::vector<float> before = scales;
    row_memory memory{.data = bytes.data(),
                      .type = type,
                      .rows = 4,
                      .cols = 8,
                      .row_stride = 8,
                      .scales = {.data = scales.data(), .group = 8, .row_stride = 0}};
    const auto check_stored = [&](const row_view& view) {
      const kvfit::matrix source = rows.topLeftCorner(view.rows(), view.cols());
      REQUIRE(store_rows(source, writable_view(view)));
      CHECK(scales == before);
      for (index_t r = 0; r < view.rows(); ++r) {
        for (index_t c = 0; c < view.cols(); ++c) {
          CHECK(std::abs(view(r, c) - source(r, c)) <= std::max(0.25F, std::abs(source(r, c)) / 8));
        }
      }
    };
    const auto all = kvfit::make_view(memory);
    REQUIRE(all);
    check_stored(*all);
    // One of the rows alone: the others keep what they were.
    const float other = (*all)(0, 0);
    check_stored(all->middle_rows(1, 1));
    CHECK((*all)(0, 0) == other);
    check_stored(all->middle_cols(3, 2));  // groups that are given may be cut
    row_memory one = memory;               // a memory of one row does not own the scale, either
    one.rows = 1;
    check_stored(*kvfit::make_view(one));
    memory.scales = {.data = scales.data(), .group = 4, .row_stride = 1, .group_stride = 0};
    memory.rows = 2;
    check_stored(*kvfit::make_view(memory));
    memory.scales = {.data = scales.data(), .group = 8, .row_stride = 1, .page_stride = 0};
    memory.rows = 0;
    const std::vector<index_t> table = {0, 1};
    const auto paged =
        kvfit::make_paged_view(memory, table, {.pages = 2, .page_size = 2, .page_stride = 16}, 4);
    REQUIRE(paged);
    check_stored(*paged);
    check_stored(paged->middle_rows(2, 2));
  }
}

TEST_CASE("What does not fit a given scale is refused before anything is written",
          "[view][scales][store]") {
  for (const dtype type : scaled_types) {
    CAPTURE(kvfit::name(type));
    std::vector<std::uint8_t> bytes(4 * 8, two(type));
    float scale = 0.5F;
    const auto view = kvfit::make_view({.data = bytes.data(),
                                        .type = type,
                                        .rows = 4,
                                        .cols = 8,
                                        .row_stride = 8,
                                        .scales = {.data = &scale, .group = 8, .row_stride = 0}});
    REQUIRE(view);
    const auto before = bytes;
    kvfit::matrix rows = kvfit::matrix::Ones(4, 8);
    rows(2, 5) = type == dtype::int8 ? 64 : type == dtype::fp8_e4m3 ? 233 : 31000;
    const auto check_stored = [&](errc code, index_t row, index_t col) {
      const auto stored = store_rows(rows, writable_view(*view));
      check_refused(stored, code, "rows");
      CHECK(stored.error().actual == row);
      CHECK(stored.error().expected == col);
      CHECK(bytes == before);
    };
    check_stored(errc::storage_overflow, 2, 5);
    rows(2, 5) = 1;
    scale = 0;
    check_stored(errc::storage_overflow, 0, 0);
    scale = std::numeric_limits<float>::quiet_NaN();
    check_stored(errc::non_finite, 0, 0);
    scale = std::numeric_limits<float>::infinity();
    check_stored(errc::non_finite, 0, 0);
    scale = 0;
    rows.setZero();
    CHECK(store_rows(rows, writable_view(*view)));  // zeros are zeros at any scale
    scale = -0.5F;
    rows.setConstant(-3);
    REQUIRE(store_rows(rows, writable_view(*view)));
    CHECK((*view)(3, 7) == -3);
  }
}

TEST_CASE("Scales of every other column are those of the columns written",
          "[view][scales][store]") {
  std::vector<std::uint8_t> bytes(4 * 8);
  std::vector<float> scales(4 * 8, 1);
  const auto view =
      kvfit::make_view({.data = bytes.data(),
                        .type = dtype::int8,
                        .rows = 4,
                        .cols = 8,
                        .row_stride = 8,
                        .scales = {.data = scales.data(), .group = 1, .row_stride = 8}});
  REQUIRE(view);
  const row_view odd = view->transposed().every_row(1, 2).transposed();
  const kvfit::matrix rows = random_matrix(4, 4, 6);
  REQUIRE(store_rows(rows, writable_view(odd)));
  for (index_t r = 0; r < 4; ++r) {
    for (index_t c = 0; c < 4; ++c) {
      CHECK(odd(r, c) == Approx(rows(r, c)).epsilon(1e-6));
      CHECK(scales[static_cast<std::size_t>(r * 8 + 2 * c)] == 1);
    }
  }
}

TEST_CASE("A product with a scale that is infinite or no number is found in the view",
          "[view][scales][check]") {
  const std::vector<std::uint8_t> bytes(4 * 8, 0x7E);  // 448
  for (const float scale : {1e37F, std::numeric_limits<float>::quiet_NaN()}) {
    const std::vector<float> scales = {1, 1, scale, 1};
    const auto view =
        kvfit::make_view({.data = bytes.data(),
                          .type = dtype::fp8_e4m3,
                          .rows = 4,
                          .cols = 8,
                          .row_stride = 8,
                          .scales = {.data = scales.data(), .group = 8, .row_stride = 1}});
    REQUIRE(view);
    const auto found = kvfit::check_view(*view, "keys");
    check_refused(found, errc::non_finite, "keys");
    CHECK(found.error().actual == 2);
  }
}

TEST_CASE("Rows of small numbers keep them under scales that are made", "[view][scales][store]") {
  for (const dtype type : scaled_types) {
    for (const dtype scale_type : {dtype::fp32, dtype::fp16}) {
      for (const float factor : {0x1p-12F, 0x1p-16F, 0x1p-20F}) {
        CAPTURE(kvfit::name(type), kvfit::name(scale_type), factor);
        const kvfit::matrix x = factor * random_matrix(6, 32, 77);
        std::vector<std::uint8_t> numbers(6 * 32);
        std::vector<float> scales(6);  // of fp16 the first half
        const auto view = kvfit::make_view(row_memory{
            .data = numbers.data(),
            .type = type,
            .rows = 6,
            .cols = 32,
            .row_stride = 32,
            .scales = {.data = scales.data(), .type = scale_type, .group = 32, .row_stride = 1}});
        REQUIRE(view);
        REQUIRE(store_rows(x, writable_view(*view)));
        for (index_t r = 0; r < 6; ++r) {
          index_t largest = 0;
          x.row(r).cwiseAbs().maxCoeff(&largest);
          const float error = std::abs((*view)(r, largest) - x(r, largest));
          // Half a step of e5m2, and what a scale of few digits leaves of int8.
          CHECK(error <= 0.125F * std::abs(x(r, largest)));
          // fp8 keeps small numbers beside large ones; int8 to half a step.
          const float typical = std::abs(x(r, (largest + 1) % 32));
          if (type == dtype::fp8_e5m2 && typical > 0.1F * std::abs(x(r, largest))) {
            CHECK((*view)(r, (largest + 1) % 32) != 0.0F);
          }
        }
      }
    }
  }
}

}  // namespace kvfit_test
