// SPDX-License-Identifier: MIT
#include "kvfit/cache/row_bounds.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"

using kvfit::bounds_of;
using kvfit::errc;
using kvfit::head_limits;
using kvfit::head_rows;

namespace {

kvfit::error cause(const std::vector<head_rows>& heads, const head_limits& limits = {}) {
  const auto bounds = bounds_of(heads, limits);
  REQUIRE_FALSE(bounds.has_value());
  return bounds.error();
}

}  // namespace

TEST_CASE("bounds follow minimum, ratio and length", "[cache][bounds]") {
  const std::vector<head_rows> heads = {{{0, 0}, 100}, {{0, 1}, 5}, {{3, 0}, 10}, {{3, 1}, 0}};
  const auto bounds = bounds_of(heads, {.at_least = 8, .max_ratio = 0.75});
  REQUIRE(bounds);
  const std::vector<kvfit::index_t> least = {8, 5, 8, 0};
  const std::vector<kvfit::index_t> most = {75, 5, 8, 0};
  for (std::size_t h = 0; h < heads.size(); ++h) {
    CHECK((*bounds)[h].least == least[h]);
    CHECK((*bounds)[h].most == most[h]);
  }
}

TEST_CASE("a length beyond 53 bits is its own cap", "[cache][bounds]") {
  const kvfit::index_t long_head = (kvfit::index_t{1} << 60) + 1;
  const std::vector<head_rows> heads = {{{0, 0}, long_head}};
  CHECK(bounds_of(heads)->front().most == long_head);
}

TEST_CASE("heads that no cache has and limits out of range are refused", "[cache][bounds]") {
  CHECK(cause({}).code == errc::empty_input);
  CHECK(cause({{{0, -1}, 4}}).code == errc::invalid_option);
  CHECK(cause({{{-2, 0}, 4}}).code == errc::invalid_option);
  CHECK(cause({{{0, 0}, -4}}).actual == -4);
  const auto twice = cause({{{0, 1}, 4}, {{2, 1}, 4}, {{0, 1}, 5}});
  CHECK(twice.code == errc::invalid_option);
  CHECK(twice.detail == "L0H1 stands twice");
  const kvfit::index_t max = std::numeric_limits<kvfit::index_t>::max();
  CHECK(cause({{{0, 0}, max}, {{0, 1}, 1}}).code == errc::budget_out_of_range);

  const std::vector<head_rows> heads = {{{0, 0}, 4}};
  CHECK(cause(heads, {.at_least = -1}).argument == "at_least");
  for (const double bad : {0.0, -0.5, 1.01, std::nan("")}) {
    CHECK(cause(heads, {.max_ratio = bad}).argument == "max_ratio");
  }
}
