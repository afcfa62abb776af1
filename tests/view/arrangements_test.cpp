// SPDX-License-Identifier: MIT
// Every type in every layout: what is loaded is what stands there, however it is asked for.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "kvfit/view/check.hpp"
#include "kvfit/view/load.hpp"
#include "support/catch.hpp"
#include "support/stored_rows.hpp"

namespace kvfit_test {

using kvfit::dtype;
using kvfit::index_t;
using kvfit::row_view;

namespace {

/// Elements of `view` that are not, bit for bit, those of `expected`, by each way to read them.
index_t differences(const row_view& view, const kvfit::matrix& expected) {
  index_t wrong = view.rows() == expected.rows() && view.cols() == expected.cols() ? 0 : 1;
  const auto compare = [&](index_t i, index_t j, float x) {
    wrong +=
        std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(expected(i, j)) ? 0 : 1;
  };
  constexpr float untouched = 12345;
  std::vector<float> row(static_cast<std::size_t>(view.cols()) + 1, untouched);
  for (index_t i = 0; i < view.rows(); ++i) {
    kvfit::load_row(view, i, row.data());
    for (index_t j = 0; j < view.cols(); ++j) {
      compare(i, j, row[static_cast<std::size_t>(j)]);
      compare(i, j, view(i, j));
    }
  }
  wrong += row.back() == untouched ? 0 : 1;
  for (const index_t step : {index_t{1}, index_t{7}, view.rows()}) {
    for (index_t first = 0; first < view.rows(); first += step) {
      const index_t count = std::min(step, view.rows() - first);
      std::vector<float> buffer(static_cast<std::size_t>(count * view.cols()) + 1, untouched);
      const kvfit::float_tile tile = kvfit::load_rows(view, first, count, buffer.data());
      for (index_t i = 0; i < count; ++i) {
        for (index_t j = 0; j < view.cols(); ++j) {
          compare(first + i, j, tile.data[i * tile.stride + j]);
        }
      }
      wrong += buffer.back() == untouched && tile.stride >= 0 ? 0 : 1;
    }
  }
  return wrong;
}

/// Every s-th row of a matrix.
kvfit::matrix thinned(const kvfit::matrix& m, index_t first, index_t step) {
  kvfit::matrix rows((m.rows() - first + step - 1) / step, m.cols());
  for (index_t i = 0; i < rows.rows(); ++i) rows.row(i) = m.row(first + i * step);
  return rows;
}

}  // namespace

TEST_CASE("§9.23 every type in every layout reads as the numbers that stand there",
          "[view][layout]") {
  for (const arrangement& how : all_arrangements()) {
    CAPTURE(how.name());
    const stored_rows stored(how, 96, 64, 17);
    const row_view& view = stored.view();
    const kvfit::matrix& exact = stored.exact();
    CHECK(view.type() == how.type);
    CHECK(differences(view, exact) == 0);
    CHECK(kvfit::check_view(view, "keys"));
    CHECK(differences(view.transposed(), exact.transpose()) == 0);
    CHECK(differences(view.middle_rows(5, 70), exact.middleRows(5, 70)) == 0);
    CHECK(differences(view.middle_cols(3, 45), exact.middleCols(3, 45)) == 0);
    CHECK(differences(view.every_row(2, 5), thinned(exact, 2, 5)) == 0);
    CHECK(differences(view.transposed().every_row(1, 3).transposed(),
                      thinned(exact.transpose(), 1, 3).transpose()) == 0);
    CHECK(differences(
              view.middle_rows(9, 80).every_row(1, 3).middle_rows(2, 20).middle_cols(33, 30),
              thinned(exact.middleRows(9, 80), 1, 3).middleRows(2, 20).middleCols(33, 30)) == 0);
    const std::vector<index_t> some = {90, 0, 41, 41};
    const kvfit::matrix gathered = kvfit::gather_rows(view, some);
    for (std::size_t i = 0; i < some.size(); ++i) {
      CHECK(gathered.row(static_cast<index_t>(i)) == exact.row(some[i]));
    }
  }
}

TEST_CASE("Rows past the last are none, however wide the step", "[view][row_view]") {
  const kvfit::matrix m = kvfit::matrix::Ones(5, 3);
  const row_view view = m;
  CHECK(view.every_row(0, 1).rows() == 5);
  CHECK(view.every_row(4, 2).rows() == 1);
  CHECK(view.every_row(5, 2).rows() == 0);
  CHECK(view.every_row(0, 100).rows() == 1);
}

TEST_CASE("fp32 rows of one page are read in place", "[view][load]") {
  const arrangement how{dtype::fp32, arrangement::place::paged_32, false, false};
  const stored_rows stored(how, 96, 64, 3);
  std::vector<float> buffer(96 * 64);
  const kvfit::float_tile one_page = kvfit::load_rows(stored.view(), 32, 32, buffer.data());
  CHECK(one_page.data != buffer.data());
  const kvfit::float_tile two_pages = kvfit::load_rows(stored.view(), 31, 2, buffer.data());
  CHECK(two_pages.data == buffer.data());
}

TEST_CASE("fp8 reads as its definition says, for all 256 numbers", "[core][fp8]") {
  const auto same = [](float a, float b) {
    if (std::isnan(a) && std::isnan(b)) return std::signbit(a) == std::signbit(b);
    return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
  };
  for (unsigned bits = 0; bits < 256; ++bits) {
    CAPTURE(bits);
    const auto byte = static_cast<std::uint8_t>(bits);
    const float e4m3 = kvfit::to_float(kvfit::fp8_e4m3{byte});
    const float e5m2 = kvfit::to_float(kvfit::fp8_e5m2{byte});
    const float sign = bits < 128 ? 1.0F : -1.0F;
    CHECK(same(e4m3, std::copysign(decoded::e4m3(bits), sign)));
    CHECK(same(e5m2, std::copysign(decoded::e5m2(bits), sign)));
    CHECK(same(e5m2, kvfit::to_float(kvfit::fp16{static_cast<std::uint16_t>(bits << 8U)})));
    // And back: the number is its own nearest.
    if (!std::isnan(e4m3)) CHECK(kvfit::to_fp8_e4m3(e4m3).bits == byte);
    if (!std::isnan(e5m2)) CHECK(kvfit::to_fp8_e5m2(e5m2).bits == byte);
    if (std::isnan(e4m3)) CHECK(std::isnan(kvfit::to_float(kvfit::to_fp8_e4m3(e4m3))));
    if (std::isnan(e5m2)) CHECK(std::isnan(kvfit::to_float(kvfit::to_fp8_e5m2(e5m2))));
  }
}

TEST_CASE("fp32 rounds to the nearest fp8, ties to even", "[core][fp8]") {
  // Every neighbouring pair, halfway and a little to each side.
  const auto check_between = [](auto to_small, auto value, unsigned last) {
    for (unsigned bits = 0; bits < last; ++bits) {
      CAPTURE(bits);
      const float low = value(bits);
      const float high = value(bits + 1);
      const float middle = 0.5F * (low + high);
      const unsigned even = bits % 2 == 0 ? bits : bits + 1;
      for (const float sign : {1.0F, -1.0F}) {
        const unsigned s = sign < 0 ? 0x80U : 0U;
        CHECK(to_small(sign * middle).bits == (s | even));
        CHECK(to_small(sign * std::nextafter(middle, 0.0F)).bits == (s | bits));
        CHECK(to_small(sign * std::nextafter(middle, high)).bits == (s | (bits + 1)));
      }
    }
  };
  check_between([](float x) { return kvfit::to_fp8_e4m3(x); }, decoded::e4m3, 0x7EU);
  check_between([](float x) { return kvfit::to_fp8_e5m2(x); }, decoded::e5m2, 0x7BU);
  const float infinite = std::numeric_limits<float>::infinity();
  CHECK(kvfit::to_fp8_e4m3(464).bits == 0x7E);
  for (const float x : {std::nextafter(464.0F, infinite), 480.0F, 512.0F, 1e30F, infinite}) {
    CHECK(kvfit::to_fp8_e4m3(x).bits == 0x7F);
    CHECK(kvfit::to_fp8_e4m3(-x).bits == 0xFF);
  }
  CHECK(kvfit::to_fp8_e5m2(std::nextafter(61440.0F, 0.0F)).bits == 0x7B);
  for (const float x : {61440.0F, 65536.0F, 1e30F, infinite}) {
    CHECK(kvfit::to_fp8_e5m2(x).bits == 0x7C);
    CHECK(kvfit::to_fp8_e5m2(-x).bits == 0xFC);
  }
}

}  // namespace kvfit_test
