// SPDX-License-Identifier: MIT
#include "kvfit/parallel/balance.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kvfit/core/random.hpp"
#include "support/catch.hpp"

namespace {

double largest_load(const std::vector<double>& work, const std::vector<int>& part, int parts) {
  std::vector<double> load(static_cast<std::size_t>(parts));
  for (std::size_t i = 0; i < work.size(); ++i) load[static_cast<std::size_t>(part[i])] += work[i];
  return *std::max_element(load.begin(), load.end());
}

/// The least that the largest load can be, by trying every division.
double best_load(const std::vector<double>& work, int parts) {
  std::vector<int> part(work.size());
  double best = largest_load(work, part, parts);
  while (true) {
    std::size_t at = 0;
    while (at < part.size() && ++part[at] == parts) part[at++] = 0;
    if (at == part.size()) return best;
    best = std::min(best, largest_load(work, part, parts));
  }
}

}  // namespace

TEST_CASE("work is dealt out within the bound of the longest first", "[parallel][balance]") {
  kvfit::random_source random(5);
  for (int round = 0; round < 40; ++round) {
    std::vector<double> work(7);
    for (double& one : work) one = std::floor(1 + 20 * random.uniform());
    for (const int parts : {1, 2, 3}) {
      const auto part = kvfit::detail::balance(work, parts);
      const double bound = 4.0 / 3.0 - 1.0 / (3.0 * parts);
      CHECK(largest_load(work, part, parts) <= bound * best_load(work, parts) + 1e-9);
    }
  }
}

TEST_CASE("equal work goes round, the earlier item first", "[parallel][balance]") {
  using parts = std::vector<int>;
  const std::vector<double> equal(5, 2.0);
  CHECK(kvfit::detail::balance(equal, 3) == parts{0, 1, 2, 0, 1});
  const std::vector<double> mixed = {1, 5, 1, 3};
  CHECK(kvfit::detail::balance(mixed, 2) == parts{1, 0, 1, 1});
  CHECK(kvfit::detail::balance(equal, 8) == parts{0, 1, 2, 3, 4});
  CHECK(kvfit::detail::balance({}, 2).empty());
}
