// SPDX-License-Identifier: MIT
#include "kvfit/queries/subsample.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

#include "kvfit/queries/mixture_rows.hpp"
#include "support/catch.hpp"

namespace kvfit_test {

using kvfit::errc;
using kvfit::index_t;
using kvfit::sample_rows;
using kvfit::sampling;

TEST_CASE("a stride spans all rows, first and last, with gaps that differ by one at most",
          "[queries][subsample]") {
  for (index_t rows = 1; rows <= 64; ++rows) {
    for (index_t keep = 1; keep <= rows; ++keep) {
      const auto kept = sample_rows(rows, keep, sampling::stride, 0);
      INFO(rows << " rows, " << keep << " kept");
      REQUIRE(static_cast<index_t>(kept.size()) == keep);
      REQUIRE(kept.back() == rows - 1);
      if (keep == 1) continue;
      REQUIRE(kept.front() == 0);
      index_t least = rows;
      index_t most = 0;
      for (std::size_t i = 1; i < kept.size(); ++i) {
        least = std::min(least, kept[i] - kept[i - 1]);
        most = std::max(most, kept[i] - kept[i - 1]);
      }
      REQUIRE(least >= 1);
      REQUIRE(most - least <= 1);
    }
  }
  // 511 rows, of which a stride rounded down would see the first 256 alone.
  CHECK(sample_rows(511, 256, sampling::stride, 0).back() == 510);
}

TEST_CASE("a reservoir keeps distinct rows, each as likely as any other", "[queries][subsample]") {
  std::vector<int> counts(40, 0);
  for (std::uint64_t seed = 0; seed < 4000; ++seed) {
    const auto kept = sample_rows(40, 10, sampling::reservoir, seed);
    REQUIRE(kept.size() == 10);
    REQUIRE(std::adjacent_find(kept.begin(), kept.end(), std::greater_equal<>()) == kept.end());
    for (const index_t row : kept) ++counts[static_cast<std::size_t>(row)];
  }
  // Binomial, 4000 · 1/4: mean 1000, standard deviation 27.
  CHECK(*std::min_element(counts.begin(), counts.end()) > 1000 - 5 * 27);
  CHECK(*std::max_element(counts.begin(), counts.end()) < 1000 + 5 * 27);
  CHECK(sample_rows(40, 10, sampling::reservoir, 3) == sample_rows(40, 10, sampling::reservoir, 3));
  CHECK(sample_rows(40, 10, sampling::reservoir, 3) != sample_rows(40, 10, sampling::reservoir, 4));
}

TEST_CASE("more rows than there are is all of them, fewer than one is none",
          "[queries][subsample]") {
  for (const auto how : {sampling::stride, sampling::reservoir}) {
    std::vector<index_t> all(7);
    std::iota(all.begin(), all.end(), index_t{0});
    CHECK(sample_rows(7, 9, how, 1) == all);
    CHECK(sample_rows(7, 7, how, 1) == all);
    CHECK(sample_rows(7, 0, how, 1).empty());
    CHECK(sample_rows(0, 3, how, 1).empty());
  }
}

TEST_CASE("sources are cut to the same relative size, in whole numbers", "[queries][mixture]") {
  const std::vector<double> fractions = {0.29, 0.7, 0.01};
  const auto asked = kvfit::rows_asked(100, fractions);
  REQUIRE(asked);
  CHECK(*asked == std::vector<index_t>{29, 70, 1});
  CHECK(kvfit::rows_kept(*asked, std::vector<index_t>{29, 70, 1}) ==
        std::vector<index_t>{29, 70, 1});
  CHECK(kvfit::rows_kept(*asked, std::vector<index_t>{900, 800, 7}) ==
        std::vector<index_t>{29, 70, 1});
  // γ = 1/2 and 1/3; the smallest keeps its one row.
  CHECK(kvfit::rows_kept(*asked, std::vector<index_t>{900, 35, 7}) ==
        std::vector<index_t>{14, 35, 1});
  CHECK(kvfit::rows_kept(std::vector<index_t>{300, 99, 10}, std::vector<index_t>{100, 60, 10}) ==
        std::vector<index_t>{100, 33, 3});
  // Products of sizes beyond 64 bits.
  const index_t huge = index_t{1} << 40;
  CHECK(kvfit::rows_kept(std::vector<index_t>{huge, 3 * huge},
                         std::vector<index_t>{huge / 2, huge}) ==
        std::vector<index_t>{huge / 3, huge});
}

TEST_CASE("fractions that are no parts of a whole are refused", "[queries][mixture]") {
  const auto code = [](const std::vector<double>& fractions) {
    const auto ok = kvfit::check_fractions(fractions);
    return ok ? errc::cancelled : ok.error().code;
  };
  CHECK(code({}) == errc::empty_input);
  CHECK(code({0.5, 0.0}) == errc::invalid_option);
  CHECK(code({0.5, std::nan("")}) == errc::invalid_option);
  CHECK(code({0.5, 0.6}) == errc::invalid_option);
  CHECK(code({1.5}) == errc::invalid_option);
  CHECK(code({0.1, 0.2, 0.3, 0.4}) == errc::cancelled);  // fine
  const auto few = kvfit::rows_asked(9, std::vector<double>{0.9, 0.1});
  REQUIRE_FALSE(few.has_value());
  CHECK(few.error().code == errc::budget_out_of_range);
  CHECK(few.error().expected == 10);
}

}  // namespace kvfit_test
