// SPDX-License-Identifier: MIT
/// The heads of a cache by number: how long each is, and what share of the rows it is given.
#pragma once

#include <algorithm>
#include <compare>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {

/// A KV head of a cache. Layer numbers may have gaps, as where only global layers are compacted.
struct head_id {
  index_t layer = 0;  ///< ≥ 0
  index_t head = 0;   ///< ≥ 0, within its layer

  friend constexpr auto operator<=>(const head_id&, const head_id&) = default;
};

/// The name that errors and budget files use: "L3H1".
inline std::string name(const head_id& id) {
  return "L" + std::to_string(id.layer) + "H" + std::to_string(id.head);
}

/// A head and its length. A list of these is the input of every allocator; rows are allocated in
/// its order.
struct head_rows {
  head_id id;
  index_t rows = 0;  ///< T_h ≥ 0
};

/// A head and its part of all rows.
struct head_share {
  head_id id;
  double share = 0;  ///< ≥ 0, finite; only ratios of shares matter
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// Refuses lists of heads that no cache can have.
///
/// Errors: `empty_input` for no head; `invalid_option` for a negative layer, head or length and for
/// a head that stands twice, named in `detail`; `budget_out_of_range` where the lengths add up
/// beyond 63 bits; `out_of_memory`. Cost: O(H log H), 16 bytes a head.
[[nodiscard]] inline result<void> check_heads(std::span<const head_rows> heads) {
  if (heads.empty()) return error{errc::empty_input, "heads", 0, error::none, {}};
  return detail::catch_bad_alloc("heads", [&]() -> result<void> {
    std::vector<head_id> ids;
    ids.reserve(heads.size());
    index_t sum = 0;
    for (const head_rows& h : heads) {
      const index_t least = (std::min)({h.id.layer, h.id.head, h.rows});
      if (least < 0) {
        return error{errc::invalid_option, "heads", least, 0,
                     name(h.id) + ": layer, head and rows must not be negative"};
      }
      if (h.rows > (std::numeric_limits<index_t>::max)() - sum) {
        return error{errc::budget_out_of_range, "heads", h.rows,
                     (std::numeric_limits<index_t>::max)() - sum,
                     "rows of all heads exceed 63 bits"};
      }
      sum += h.rows;
      ids.push_back(h.id);
    }
    std::sort(ids.begin(), ids.end());
    const auto twin = std::adjacent_find(ids.begin(), ids.end());
    if (twin == ids.end()) return {};
    return error{errc::invalid_option, "heads", error::none, error::none,
                 name(*twin) + " stands twice"};
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
