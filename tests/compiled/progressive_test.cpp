// SPDX-License-Identifier: MIT
#include "kvfit/compact/progressive.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kvfit/presets.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/random_matrix.hpp"

using namespace kvfit_test;

TEST_CASE("a progressive call through the library keeps to its cap where results are most of it",
          "[compiled][progressive][memory]") {
  if (!can_count) return;
  const kvfit::matrix keys = random_matrix(420, 48, 1);
  const kvfit::matrix values = random_matrix(420, 48, 2);
  const kvfit::matrix queries = random_matrix(40, 48, 3);
  const kvfit::kv_block cache{.keys = keys, .values = values};
  std::vector<kvfit::index_t> budgets;
  for (kvfit::index_t rows = 8; rows <= 400; rows += 4) budgets.push_back(rows);
  kvfit::compact_options options = kvfit::presets::topk(0);
  const auto measure = [&](std::ptrdiff_t& peak) {
    kvfit::result<std::vector<kvfit::compacted>> all = kvfit::error{};
    peak = count_allocations([&] {
             all = kvfit::compact_progressive(cache, queries, options, budgets);
           }).peak_bytes;
    return all;
  };
  std::ptrdiff_t free_peak = 0;
  const auto whole = measure(free_peak);
  REQUIRE(whole);
  int kept = 0;
  for (kvfit::index_t cap = 2 * free_peak;; cap -= cap / 16) {
    options.memory.cap = cap;
    std::ptrdiff_t peak = 0;
    const auto all = measure(peak);
    CAPTURE(cap, peak);
    if (!all) {
      CHECK(all.error().code == kvfit::errc::memory_cap_exceeded);
      break;
    }
    CHECK(peak <= cap);
    REQUIRE(all->size() == budgets.size());
    ++kept;
  }
  CHECK(kept > 0);
}
