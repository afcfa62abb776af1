// SPDX-License-Identifier: MIT
/// Rows by influence curves: the best there is, for curves of any form, on a grid of rows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <queue>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/cache/influence_curve.hpp"
#include "kvfit/cache/row_bounds.hpp"
#include "kvfit/cache/water_filling.hpp"
#include "kvfit/core/bytes.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/core/workspace.hpp"

namespace kvfit {

/// Settings of `plan_by_dynamic_programming`.
struct dynamic_programming {
  index_t step = 1;                   ///< rows between two points of the grid, ≥ 1
  index_t memory = index_t{1} << 28;  ///< bytes it may take, ≥ 0
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// The grid: head h takes 0 … `most[h]` steps beyond its least, all heads together `steps`.
struct budget_grid {
  index_t step = 1;
  std::vector<index_t> most;
  index_t steps = 0;
};

/// What `minimise_on_grid` holds. A column stands for the steps that the heads so far take.
struct grid_tables {
  std::vector<double> best;
  std::vector<double> next;
  std::vector<double> losses;          ///< of one head
  std::vector<std::uint32_t> choices;  ///< heads × columns

  void declare(workspace& space, index_t heads, index_t columns) {
    space.add(best, columns);
    space.add(next, columns);
    space.add(losses, columns);
    space.add(choices, heads, columns);
  }
};

/// Steps of each head that minimise Σ f_h(least_h + k_h · step) where Σ k_h = steps.
inline std::vector<index_t> minimise_on_grid(std::span<const influence_curve> curves,
                                             std::span<const row_bounds> bounds,
                                             const budget_grid& grid) {
  const auto columns = static_cast<std::size_t>(grid.steps) + 1;
  grid_tables tables;
  allocate_buffers(tables, static_cast<index_t>(curves.size()), grid.steps + 1);
  auto& [best, next, losses, choices] = tables;
  index_t first = 0;  // of the columns that the heads so far can take
  index_t last = 0;
  index_t to_come = 0;
  for (const index_t most : grid.most) to_come += (std::min)(most, grid.steps);
  for (std::size_t h = 0; h < curves.size(); ++h) {
    const index_t most = (std::min)(grid.most[h], grid.steps);
    to_come -= most;
    for (index_t k = 0; k <= most; ++k) {
      losses[static_cast<std::size_t>(k)] = loss_at(curves[h], bounds[h].least + k * grid.step);
    }
    // Columns from which the heads to come can't reach the end need not be known.
    const index_t from = (std::max)(first, grid.steps - to_come);
    const index_t to = (std::min)(grid.steps, last + most);
    for (index_t s = from; s <= to; ++s) {
      double least = std::numeric_limits<double>::infinity();
      index_t choice = 0;
      const index_t low = std::max<index_t>(0, s - last);
      const index_t high = (std::min)(most, s - first);
      for (index_t k = low; k <= high; ++k) {
        const double loss =
            best[static_cast<std::size_t>(s - k)] + losses[static_cast<std::size_t>(k)];
        if (loss < least) {
          least = loss;
          choice = k;
        }
      }
      next[static_cast<std::size_t>(s)] = least;
      choices[h * columns + static_cast<std::size_t>(s)] = static_cast<std::uint32_t>(choice);
    }
    best.swap(next);
    first = from;
    last = to;
  }
  std::vector<index_t> taken(curves.size());
  index_t s = grid.steps;
  for (std::size_t h = curves.size(); h-- > 0;) {
    taken[h] = choices[h * columns + static_cast<std::size_t>(s)];
    s -= taken[h];
  }
  return taken;
}

/// Places `left` more rows one by one, each where the loss grows least; of equals, in the first
/// head.
inline void place_rest(std::span<const influence_curve> curves, std::span<const row_bounds> bounds,
                       index_t left, std::vector<index_t>& rows) {
  using offer = std::pair<double, std::size_t>;  // growth of the loss, head
  std::priority_queue<offer, std::vector<offer>, std::greater<>> offers;
  const auto make_offer = [&](std::size_t h) {
    if (left <= 0 || rows[h] >= bounds[h].most) return;
    offers.emplace(loss_at(curves[h], rows[h] + 1) - loss_at(curves[h], rows[h]), h);
  };
  for (std::size_t h = 0; h < rows.size(); ++h) make_offer(h);
  for (; left > 0; --left) {
    const std::size_t h = offers.top().second;
    offers.pop();
    ++rows[h];
    make_offer(h);
  }
}

inline result<influence_plan> plan_on_grid(std::span<const influence_curve> curves,
                                           std::span<const row_bounds> bounds, index_t total,
                                           const dynamic_programming& options) {
  budget_grid grid{options.step, {}, 0};
  index_t left = total;
  index_t reach = 0;
  for (const row_bounds& b : bounds) {
    grid.most.push_back((b.most - b.least) / options.step);
    reach += grid.most.back();
    left -= b.least;
  }
  grid.steps = (std::min)(left / options.step, reach);
  const index_t columns = (std::min)(grid.steps, (std::numeric_limits<index_t>::max)() - 1) + 1;
  workspace space;
  grid_tables().declare(space, static_cast<index_t>(curves.size()), columns);
  const index_t needed = whole_bytes(space.most());
  if (needed > options.memory) {
    return error{errc::memory_cap_exceeded, "dynamic_programming", needed, options.memory,
                 "bytes; a larger step needs less"};
  }
  if (grid.steps > (std::numeric_limits<std::uint32_t>::max)()) {
    return error{errc::invalid_option, "dynamic_programming.step", options.step, error::none,
                 "more than 32 bits of steps"};
  }
  influence_plan filled = fill_envelopes(curves, bounds, total);
  influence_plan plan;
  const auto taken = minimise_on_grid(curves, bounds, grid);
  for (std::size_t h = 0; h < bounds.size(); ++h) {
    plan.rows.push_back(bounds[h].least + taken[h] * options.step);
  }
  place_rest(curves, bounds, left - grid.steps * options.step, plan.rows);
  plan.loss = total_loss(curves, plan.rows);
  plan.lower_bound = (std::min)(filled.lower_bound, plan.loss);
  // Its rows stand on no grid, so that a coarse one may lose against it.
  return filled.loss < plan.loss ? filled : plan;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// Rows that minimise Σ f_h(t_h) itself, whatever the form of the curves:
///
///     least_h ≤ t_h ≤ most_h,   Σ t_h = total
///
/// With `step` 1 no allocation is better. With a step g > 1 the t_h are best among least_h + k g
/// for the largest multiple of g rows that can be given so; the rest, fewer than g rows or less
/// than g in each head, goes row by row to where the loss grows least, so that the total is exact.
/// A coarse grid misses the corners of the curves, where `plan_by_water_filling` puts its rows:
/// where that does better, its plan is returned.
///
/// curves, bounds: H. Errors: those of `check_total` and `check_curves`; `invalid_option` for a
/// step below 1 or a cap below 0; `memory_cap_exceeded` with the bytes needed; `out_of_memory`.
/// Cost: with S = (total − Σ least) / g steps in all and K_h = (most_h − least_h) / g in a head, at
/// most S Σ K_h additions (and a read of the curves for each row of the rest), and (S + 1) (4 H +
/// 24) bytes, which `memory` bounds, besides what `plan_by_water_filling` takes for the lower
/// bound. 288 heads of 32768 rows at a twentieth and a step of 64 are some 10⁹ additions and 9 MB;
/// `plan_by_water_filling` needs neither.
[[nodiscard]] inline result<influence_plan> plan_by_dynamic_programming(
    std::span<const influence_curve> curves, std::span<const row_bounds> bounds, index_t total,
    const dynamic_programming& options = {}) {
  if (options.step < 1) {
    return error{errc::invalid_option, "dynamic_programming.step", options.step, 1,
                 "must be at least 1"};
  }
  if (options.memory < 0) {
    return error{errc::invalid_option, "dynamic_programming.memory", options.memory, 0,
                 "must not be negative"};
  }
  if (auto ok = check_total(bounds, total); !ok) return ok.error();
  if (auto ok = check_curves(curves, bounds); !ok) return ok.error();
  return detail::catch_bad_alloc("plan_by_dynamic_programming", [&] {
    return detail::plan_on_grid(curves, bounds, total, options);
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
