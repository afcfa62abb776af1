// SPDX-License-Identifier: MIT
/// Budgets by one ranking of the keys of all heads together.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <queue>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/cache/row_bounds.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/selection/highest_attention.hpp"

namespace kvfit::budgets {

/// Each head gets as many rows as it has among the Σ t_h most important keys of all heads (global
/// highest attention, arXiv:2602.16284), within its bounds. A key's importance is made of attention
/// weights, which sum to 1 for each query of each head, and so can be compared between heads. By
/// the maximum, {.by = {.importance = importance_kind::max}}, with queries of a repeat, it is
/// KVzip's one threshold over all heads (arXiv:2505.23416); `head_limits::at_least` is the fewest
/// rows that a head keeps below it.
///
/// With `selection::highest_attention` of the same settings, fitted on all queries, the rows kept
/// are that ranking's, and no head is scored twice (`plan_cache`).
struct global_ranking {
  selection::highest_attention by = {};
};

}  // namespace kvfit::budgets

namespace kvfit {
inline namespace KVFIT_ISA {

/// How many of the `total` most important keys of all heads each head has, every head within its
/// bounds: a head's `least` best keys are in, its keys beyond `most` are passed over.
///
/// importance: one list a head, of the keys that may be kept, in any order, no NaN; each is sorted.
/// bounds: one a head, `most` no more than its keys. Of equal keys the one in the earlier head is
/// taken first.
/// Errors: `shape_mismatch`; those of `check_total`; `out_of_memory`. Cost: N log N for N keys.
[[nodiscard]] inline result<std::vector<index_t>> rank_globally(
    std::span<std::vector<float>> importance, std::span<const row_bounds> bounds, index_t total) {
  if (importance.size() != bounds.size()) {
    return error{errc::shape_mismatch, "importance", static_cast<index_t>(importance.size()),
                 static_cast<index_t>(bounds.size()), "one list for each of the bounds"};
  }
  if (auto ok = check_total(bounds, total); !ok) return ok.error();
  for (std::size_t h = 0; h < bounds.size(); ++h) {
    if (bounds[h].most > static_cast<index_t>(importance[h].size())) {
      return error{errc::shape_mismatch, "importance", static_cast<index_t>(importance[h].size()),
                   bounds[h].most, "at least as many keys as the head may keep"};
    }
  }
  return detail::catch_bad_alloc("rank_globally", [&]() -> result<std::vector<index_t>> {
    struct candidate {
      float importance;
      std::size_t head;
    };
    const auto is_behind = [](const candidate& a, const candidate& b) {
      return a.importance != b.importance ? a.importance < b.importance : a.head > b.head;
    };
    std::priority_queue<candidate, std::vector<candidate>, decltype(is_behind)> next(is_behind);
    std::vector<index_t> rows(bounds.size());
    index_t left = total;
    const auto offer = [&](std::size_t h) {
      if (rows[h] < bounds[h].most) {
        next.push({importance[h][static_cast<std::size_t>(rows[h])], h});
      }
    };
    for (std::size_t h = 0; h < bounds.size(); ++h) {
      std::sort(importance[h].begin(), importance[h].end(), std::greater<>());
      rows[h] = bounds[h].least;
      left -= rows[h];
      offer(h);
    }
    for (; left > 0; --left) {
      const std::size_t h = next.top().head;
      next.pop();
      ++rows[h];
      offer(h);
    }
    return rows;
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
