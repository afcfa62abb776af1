// SPDX-License-Identifier: MIT
/// Heads with bounds, curves and a total, and what any plan for them must keep.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "cache/budget_cases.hpp"
#include "kvfit/cache/influence_curve.hpp"
#include "support/catch.hpp"

namespace kvfit_test {

inline constexpr kvfit::index_t longest = 9;

/// Some heads with bounds, curves and a total.
struct plan_case {
  std::vector<kvfit::row_bounds> bounds;
  std::vector<kvfit::influence_curve> curves;
  kvfit::index_t total = 0;

  plan_case(std::uint64_t seed, bool is_convex) {
    kvfit::random_source random(seed);
    bounds = random_bounds(random, 1 + random.below(4), longest);
    for (std::size_t h = 0; h < bounds.size(); ++h) {
      curves.push_back(is_convex ? convex_curve(random, longest) : random_curve(random, longest));
    }
    total = random_total(random, bounds);
  }

  [[nodiscard]] double loss(const std::vector<kvfit::index_t>& rows) const {
    double sum = 0;
    for (std::size_t h = 0; h < rows.size(); ++h) {
      sum += plain_loss(curves[h], static_cast<double>(rows[h]));
    }
    return sum;
  }

  /// The least loss of all allocations, by trying them.
  [[nodiscard]] double best() const {
    double least = std::numeric_limits<double>::infinity();
    for_all_allocations(bounds, total, [&](const std::vector<kvfit::index_t>& rows) {
      least = std::min(least, loss(rows));
    });
    return least;
  }

  /// The same under the envelopes.
  [[nodiscard]] double best_on_envelopes() const {
    std::vector<std::vector<double>> envelopes(bounds.size());
    for (std::size_t h = 0; h < bounds.size(); ++h) {
      for (kvfit::index_t t = bounds[h].least; t <= bounds[h].most; ++t) {
        envelopes[h].push_back(plain_envelope(curves[h], bounds[h], t));
      }
    }
    double least = std::numeric_limits<double>::infinity();
    for_all_allocations(bounds, total, [&](const std::vector<kvfit::index_t>& rows) {
      double sum = 0;
      for (std::size_t h = 0; h < rows.size(); ++h) {
        sum += envelopes[h][static_cast<std::size_t>(rows[h] - bounds[h].least)];
      }
      least = std::min(least, sum);
    });
    return least;
  }

  void check_rows(const kvfit::influence_plan& plan) const {
    REQUIRE(plan.rows.size() == bounds.size());
    REQUIRE(sum_of(plan.rows) == total);
    for (std::size_t h = 0; h < bounds.size(); ++h) {
      REQUIRE(plan.rows[h] >= bounds[h].least);
      REQUIRE(plan.rows[h] <= bounds[h].most);
    }
    REQUIRE(std::abs(plan.loss - loss(plan.rows)) < 1e-12);
    REQUIRE(plan.lower_bound <= plan.loss);
  }
};

}  // namespace kvfit_test
