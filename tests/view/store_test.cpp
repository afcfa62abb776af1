// SPDX-License-Identifier: MIT
#include "kvfit/view/store.hpp"

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/random_matrix.hpp"
#include "support/stored_rows.hpp"

namespace kvfit_test {

using kvfit::dtype;
using kvfit::index_t;
using kvfit::row_view;

namespace {

using kvfit::store_rows;
using kvfit::writable_view;

/// The fp8 next to x, ties to the even one, by trying them all; none is larger than the largest.
float nearest_fp8(dtype type, float x) {
  const bool is_e4m3 = type == dtype::fp8_e4m3;
  const auto value = [&](unsigned bits) {
    return is_e4m3 ? decoded::e4m3(bits) : decoded::e5m2(bits);
  };
  unsigned best = 0;
  for (unsigned bits = 1; bits <= (is_e4m3 ? 0x7EU : 0x7BU); ++bits) {
    const double there = std::abs(static_cast<double>(value(bits)) - std::abs(x));
    const double here = std::abs(static_cast<double>(value(best)) - std::abs(x));
    if (there < here || (there == here && bits % 2 == 0)) best = bits;
  }
  return std::copysign(value(best), x);
}

/// What a number becomes at a scale that is there.
float at_scale(dtype type, float x, float scale) {
  const float number = x / scale;
  return scale * (type == dtype::int8 ? std::round(number) : nearest_fp8(type, number));
}

/// The largest number of a type with scales.
float largest_of(dtype type) {
  if (type == dtype::int8) return 127;
  return type == dtype::fp8_e4m3 ? 448 : 57344;
}

/// What `count` numbers that share a scale become, from the definition of the type.
std::vector<float> quantised(dtype type, const std::vector<float>& x, bool has_half_scale) {
  float extreme = 0;
  for (const float value : x) {
    if (std::abs(value) > std::abs(extreme)) extreme = value;
  }
  const auto half = [](float scale) { return static_cast<float>(static_cast<Eigen::half>(scale)); };
  std::vector<float> y;
  for (const float value : x) {
    if (type == dtype::q8_0) {
      const float scale = std::abs(extreme) / 127;
      y.push_back(half(scale) * std::round(value * (scale == 0 ? 0 : 1 / scale)));
    } else if (type == dtype::q4_0) {
      const float scale = extreme / -8;
      const double steps = static_cast<double>(value * (scale == 0 ? 0 : 1 / scale)) + 8.5;
      y.push_back(half(scale) * static_cast<float>(std::min(15.0, std::floor(steps)) - 8));
    } else {
      const float largest = largest_of(type);
      float exact = std::abs(extreme) / largest;
      if (has_half_scale && exact > 0 && exact < 0x1p-14F) {  // fp16 has no normal number there
        exact = type == dtype::int8 ? std::ceil(exact * 0x1p24F) / 0x1p24F : 0x1p-14F;
      }
      const float scale = has_half_scale ? half(exact) : exact;
      y.push_back(at_scale(type, std::clamp(value, -largest * scale, largest * scale), scale));
    }
  }
  return y;
}

/// `x` as it reads after it is stored; groups of rows × cols numbers share a scale.
kvfit::matrix after_storing(const kvfit::matrix& x, const arrangement& how, index_t rows,
                            index_t cols, float shared_scale) {
  const dtype type = how.type;
  const bool has_half_scale = how.scales != arrangement::scaling::none && how.is_flipped;
  kvfit::matrix y = x;
  if (how.scales == arrangement::scaling::shared) {
    for (float& number : y.reshaped()) number = at_scale(type, number, shared_scale);
    return y;
  }
  if (is_number(type) && how.scales == arrangement::scaling::none) {
    for (float& number : y.reshaped()) number = kvfit::as_stored(number, type);
    return y;
  }
  for (index_t i = 0; i < x.rows(); i += rows) {
    for (index_t j = 0; j < x.cols(); j += cols) {
      const kvfit::matrix group = x.block(i, j, rows, cols);
      const std::vector<float> numbers(group.data(), group.data() + group.size());
      const std::vector<float> stored = quantised(type, numbers, has_half_scale);
      y.block(i, j, rows, cols) = Eigen::Map<const kvfit::matrix>(stored.data(), rows, cols);
    }
  }
  return y;
}

void check_store_error(const kvfit::result<void>& stored, kvfit::errc code, std::int64_t actual,
                       std::int64_t expected) {
  REQUIRE_FALSE(stored);
  INFO(stored.error().message());
  CHECK(stored.error().code == code);
  CHECK(stored.error().actual == actual);
  CHECK(stored.error().expected == expected);
}

}  // namespace

TEST_CASE("Rows are stored in every type and layout, and nothing beside them", "[view][store]") {
  for (const arrangement& how : all_arrangements()) {
    if (how.type == dtype::decoded) continue;
    CAPTURE(how.name());
    stored_rows memory(how, 96, 64, 4);
    const std::vector<std::byte> before = memory.bytes();
    // In the memory's own orientation: a window of whole blocks and groups.
    const row_view whole = how.is_flipped ? memory.view().transposed() : memory.view();
    const kvfit::matrix old =
        how.is_flipped ? kvfit::matrix(memory.exact().transpose()) : memory.exact();
    using scaling = arrangement::scaling;
    const bool is_scaled = how.scales != scaling::none;
    const bool has_groups = how.scales == scaling::groups;
    const bool has_wide_groups = how.scales == scaling::rows || (has_groups && how.by_cols);
    const index_t cols = has_wide_groups ? whole.cols() : 32;
    const index_t first_col = whole.cols() - cols;
    const row_view window = whole.middle_rows(32, 32).middle_cols(first_col, cols);
    const kvfit::matrix source = random_matrix(32, cols, 11);
    const bool has_row_groups = has_groups && how.where == arrangement::place::one_of_three;
    const std::vector<std::byte> scales_before = memory.scale_bytes();
    const bool shares_rows = is_block(how.type) ? how.by_cols : has_row_groups;
    const kvfit::result<void> stored =
        how.is_flipped ? store_rows(source.transpose(), writable_view(window.transposed()))
                       : store_rows(source, writable_view(window));
    if (shares_rows && how.where == arrangement::place::listed) {
      check_store_error(stored, kvfit::errc::invalid_option, kvfit::error::none,
                        kvfit::error::none);
      CHECK(memory.bytes() == before);
      continue;
    }
    REQUIRE(stored);
    kvfit::matrix expected = old;
    const index_t group_cols = is_scaled ? cols : (how.by_cols ? 1 : 32);
    const float shared = how.scales == scaling::shared ? memory.shared_scale() : 0;
    expected.block(32, first_col, 32, cols) =
        after_storing(source, how, shares_rows ? 32 : 1, group_cols, shared);
    index_t wrong = 0;
    for (index_t i = 0; i < old.rows(); ++i) {
      for (index_t j = 0; j < old.cols(); ++j) wrong += whole(i, j) == expected(i, j) ? 0 : 1;
    }
    CHECK(wrong == 0);
    const bool keeps_scales = memory.scale_bytes() == scales_before;
    CHECK(keeps_scales == (!is_scaled || how.scales == scaling::shared));
    std::size_t changed = 0;
    for (std::size_t at = 0; at < before.size(); ++at) {
      changed += memory.bytes()[at] == before[at] ? 0U : 1U;
    }
    const auto numbers = static_cast<std::size_t>(32 * cols);
    CHECK(changed <= numbers / (is_block(how.type) ? 32 : 1) * size_of(how.type));
  }
}

TEST_CASE("What was stored is stored again without a change", "[view][store]") {
  for (const arrangement& how : all_arrangements()) {
    const bool has_given_scale = how.scales == arrangement::scaling::shared;
    if (!has_given_scale && !(is_number(how.type) && how.scales == arrangement::scaling::none)) {
      continue;
    }
    CAPTURE(how.name());
    stored_rows memory(how, 96, 64, 4);
    const std::vector<std::byte> before = memory.bytes();
    REQUIRE(store_rows(kvfit::matrix::Zero(96, 64).eval().middleRows(0, 0),
                       writable_view(memory.view().middle_rows(0, 0))));
    REQUIRE(store_rows(memory.exact(), writable_view(memory.view())));
    CHECK(memory.bytes() == before);
  }
}

TEST_CASE("The reference quantisers of q8_0 and q4_0, by hand", "[core][quantised]") {
  std::array<float, 32> x{};
  CHECK(kvfit::to_q8_0(x) == kvfit::q8_0_block{});
  const kvfit::q4_0_block zeros = kvfit::to_q4_0(x);
  for (std::size_t j = 0; j < 32; ++j) CHECK(element(zeros, j) == 0.0F);
  CHECK(zeros.nibbles[0] == 0x88);
  // A scale of 1: 127 steps to each side, ties away from 0.
  x = {127, -127, 0.5F, -0.5F, 1.5F, 2.49F, -2.51F};
  const kvfit::q8_0_block eights = kvfit::to_q8_0(x);
  CHECK(eights.scale == kvfit::to_fp16(1));
  const std::array<int, 8> steps = {127, -127, 1, -1, 2, 2, -3, 0};
  for (std::size_t j = 0; j < steps.size(); ++j) CHECK(eights.numbers[j] == steps[j]);
  // The number of greatest magnitude becomes −8 steps of the scale, whichever its sign; ties of the
  // others go to the higher nibble.
  x = {16, -16, 15, 1, -1, 0.9F, -15, 0};
  const kvfit::q4_0_block fours = kvfit::to_q4_0(x);
  CHECK(fours.scale == kvfit::to_fp16(-2));
  const std::array<float, 8> values = {16, -14, 14, 0, -2, 0, -14, 0};
  for (std::size_t j = 0; j < values.size(); ++j) {
    CAPTURE(j);
    CHECK(element(fours, j) == values[j]);
  }
  x.fill(0);
  x[20] = -8;  // element 20 is the high nibble of byte 4
  CHECK(kvfit::to_q4_0(x).nibbles[4] == 0x08);
  CHECK(element(kvfit::to_q4_0(x), 20) == -8.0F);
  // So small that no fp16 can be the scale: zeros, and no overflow on the way.
  x.fill(1e-42F);
  for (std::size_t j = 0; j < 32; ++j) {
    CHECK(element(kvfit::to_q8_0(x), j) == 0.0F);
    CHECK(element(kvfit::to_q4_0(x), j) == 0.0F);
  }
}

TEST_CASE("§9.22 a number that does not fit is an error before anything is written",
          "[view][store]") {
  using scaling = arrangement::scaling;
  // A magnitude below which everything fits, and one from which on nothing does.
  const auto limits = [](const arrangement& how, float shared) -> std::array<double, 2> {
    const double scale = how.scales == scaling::none ? 1 : static_cast<double>(shared);
    if (how.scales == scaling::groups || how.scales == scaling::rows) {
      const double most = 65520.0 * static_cast<double>(largest_of(how.type));
      return {most, most};
    }
    switch (how.type) {
      case dtype::fp16:
        return {65520, 65520};
      case dtype::bf16:
        return {3.3961775e38, 3.3961775e38};
      case dtype::fp8_e4m3:
        return {464.0001 * scale, 464.0001 * scale};
      case dtype::fp8_e5m2:
        return {61440 * scale, 61440 * scale};
      case dtype::q8_0:
        return {65520.0 * 127, 65520.0 * 127};
      case dtype::q4_0:
        return {65520.0 * 8, 65520.0 * 8};
      default:
        return {127.5 * scale, 128.5 * scale};
    }
  };
  for (const arrangement& how : all_arrangements()) {
    if (how.type == dtype::decoded || how.where == arrangement::place::listed) continue;
    const bool makes_scales = how.scales == scaling::groups || how.scales == scaling::rows;
    if (how.type == dtype::fp32 || (makes_scales && !how.is_flipped)) continue;
    CAPTURE(how.name());
    stored_rows memory(how, 96, 64, 4);
    const std::vector<std::byte> before = memory.bytes();
    kvfit::matrix source = random_matrix(96, 64, 2);
    const auto [fits, too_much] =
        limits(how, how.scales == scaling::shared ? memory.shared_scale() : 0);
    source(70, 45) = static_cast<float>(-too_much * 1.000001);
    check_store_error(store_rows(source, writable_view(memory.view())),
                      kvfit::errc::storage_overflow, 70, 45);
    CHECK(memory.bytes() == before);
    source(70, 45) = std::numeric_limits<float>::quiet_NaN();
    check_store_error(store_rows(source, writable_view(memory.view())), kvfit::errc::non_finite, 70,
                      45);
    CHECK(memory.bytes() == before);
    source(70, 45) = static_cast<float>(fits * 0.9999);
    CHECK(store_rows(source, writable_view(memory.view())));
  }
}

TEST_CASE("BF16 holds what fp16 does not", "[view][store]") {
  kvfit::matrix source = kvfit::matrix::Constant(2, 3, 70000);
  std::vector<Eigen::bfloat16> brains(6);
  REQUIRE(store_rows(source, writable_view(brains.data(), 2, 3, 3)));
  CHECK(static_cast<float>(brains[5]) == 70144.0F);
  std::vector<Eigen::half> halves(6);
  check_store_error(store_rows(source, writable_view(halves.data(), 2, 3, 3)),
                    kvfit::errc::storage_overflow, 0, 0);
}

TEST_CASE("Targets that are cut through a block, or can't be written, are refused",
          "[view][store]") {
  using place = arrangement::place;
  const kvfit::matrix x = random_matrix(96, 64, 2);
  const auto store_part = [&](const row_view& part) {
    return store_rows(x.topLeftCorner(part.rows(), part.cols()), writable_view(part));
  };
  stored_rows by_row({dtype::q8_0, place::strided, false, false}, 96, 64, 1);
  const auto before = by_row.bytes();
  check_store_error(store_part(by_row.view().middle_cols(16, 32)), kvfit::errc::shape_mismatch, 16,
                    32);
  check_store_error(store_part(by_row.view().middle_cols(0, 40)), kvfit::errc::shape_mismatch, 40,
                    32);
  check_store_error(store_part(by_row.view().transposed().every_row(0, 2).transposed()),
                    kvfit::errc::shape_mismatch, 2, 1);
  CHECK(by_row.bytes() == before);
  CHECK(store_part(by_row.view().middle_rows(3, 5)));
  CHECK(store_part(by_row.view().every_row(1, 4)));
  stored_rows by_col({dtype::q4_0, place::paged_32, true, false}, 96, 64, 1);
  check_store_error(store_part(by_col.view().middle_rows(0, 31)), kvfit::errc::shape_mismatch, 31,
                    32);
  check_store_error(store_part(by_col.view().middle_rows(1, 32)), kvfit::errc::shape_mismatch, 1,
                    32);
  CHECK(store_part(by_col.view().middle_cols(7, 3)));
  stored_rows decoded({dtype::decoded, place::strided, false, false}, 96, 64, 1);
  CHECK(store_part(decoded.view()).error().code == kvfit::errc::invalid_option);
  check_store_error(store_rows(x, writable_view(by_row.view().middle_rows(0, 95))),
                    kvfit::errc::shape_mismatch, 96, 95);
  check_store_error(store_rows(x, writable_view(by_row.view().middle_cols(0, 32))),
                    kvfit::errc::shape_mismatch, 64, 32);
  CHECK(store_rows(x, writable_view(static_cast<float*>(nullptr), 96, 64, 64)).error().code ==
        kvfit::errc::null_data);
}

}  // namespace kvfit_test
