// SPDX-License-Identifier: MIT
/// Budgets by one ranking of the keys of each layer's heads together.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/cache/apportion.hpp"
#include "kvfit/cache/global_ranking.hpp"
#include "kvfit/cache/heads.hpp"
#include "kvfit/cache/row_bounds.hpp"
#include "kvfit/cache/shares.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/selection/highest_attention.hpp"

namespace kvfit::budgets {

/// Each layer gets the rows that `uniform` gives its heads together; within it each head gets as
/// many as it has among the layer's most important keys, and no fewer than ⌊safeguard · t_h⌋ of the
/// t_h that `uniform` gives it (Ada-KV, arXiv:2407.11550: adaptive allocation with a safeguard, 0.2
/// in its experiments).
///
/// With `selection::highest_attention` of the same settings, fitted on all queries, the rows kept
/// are that ranking's.
struct layer_ranking {
  selection::highest_attention by = {};
  double safeguard = 0.2;  ///< in [0, 1]; 1: uniform
};

}  // namespace kvfit::budgets

namespace kvfit {
inline namespace KVFIT_ISA {

/// `invalid_option` for a safeguard outside [0, 1].
[[nodiscard]] inline result<void> check_safeguard(double safeguard) {
  if (safeguard >= 0 && safeguard <= 1) return {};
  return detail::refuse_number("safeguard", safeguard, "must be in [0, 1]");
}

/// Rows for each head, in the order of `heads`, by one ranking a layer: `total` in all, every head
/// within its bounds.
///
/// importance: one list a head, as `rank_globally` takes it; each is sorted. bounds: one a head.
/// Errors: `shape_mismatch`; `invalid_option` for a safeguard out of range; those of `check_heads`,
/// `apportion` and `rank_globally`. Cost: N log N for N keys, O(H · layers) for H heads.
[[nodiscard]] inline result<std::vector<index_t>> rank_in_layers(
    std::span<std::vector<float>> importance, std::span<const head_rows> heads,
    std::span<const row_bounds> bounds, index_t total, double safeguard) {
  if (const auto ok = check_safeguard(safeguard); !ok) return ok.error();
  if (importance.size() != heads.size()) {
    return error{errc::shape_mismatch, "importance", static_cast<index_t>(importance.size()),
                 static_cast<index_t>(heads.size()), "one list for each head"};
  }
  const auto lengths = budgets::shares_of(budgets::uniform{}, heads);
  if (!lengths) return lengths.error();
  auto rows = apportion(*lengths, bounds, total);
  if (!rows) return rows.error();
  return detail::catch_bad_alloc("rank_in_layers", [&]() -> result<std::vector<index_t>> {
    std::vector<char> is_done(heads.size(), 0);
    for (std::size_t first = 0; first < heads.size(); ++first) {
      if (is_done[first] != 0) continue;
      std::vector<std::size_t> places;  // of the layer's heads
      std::vector<std::vector<float>> keys;
      std::vector<row_bounds> own;
      index_t of_layer = 0;
      for (std::size_t h = first; h < heads.size(); ++h) {
        if (heads[h].id.layer != heads[first].id.layer) continue;
        const index_t even = (*rows)[h];
        const auto safe = static_cast<index_t>(std::floor(safeguard * static_cast<double>(even)));
        places.push_back(h);
        keys.push_back(std::move(importance[h]));
        own.push_back({(std::max)(bounds[h].least, (std::min)(safe, even)), bounds[h].most});
        of_layer += even;
        is_done[h] = 1;
      }
      const auto ranked = rank_globally(keys, own, of_layer);
      if (!ranked) return ranked.error();
      for (std::size_t i = 0; i < places.size(); ++i) {
        (*rows)[places[i]] = (*ranked)[i];
        importance[places[i]] = std::move(keys[i]);
      }
    }
    return std::move(*rows);
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
