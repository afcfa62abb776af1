// SPDX-License-Identifier: MIT
/// Which rows of a cache are protected, how many at least and at most, and where the others lie.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "kvfit/attention/row_order.hpp"
#include "kvfit/compact/protection.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/core/workspace.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Counts that are not negative, and numbers of `rows` rows, each named once.
inline result<void> check_protection(const protection& asked, index_t rows) {
  if (asked.first < 0) {
    return error{errc::invalid_option, "protect.first", asked.first, 0, "must not be negative"};
  }
  if (asked.last < 0) {
    return error{errc::invalid_option, "protect.last", asked.last, 0, "must not be negative"};
  }
  std::vector<index_t> named = asked.rows;
  std::sort(named.begin(), named.end());
  for (std::size_t i = 0; i < named.size(); ++i) {
    if (named[i] < 0 || named[i] >= rows) {
      return error{errc::invalid_position, "protect.rows", named[i], rows, "no row of the cache"};
    }
    if (i > 0 && named[i] == named[i - 1]) {
      return error{errc::invalid_position, "protect.rows", named[i], error::none, "named twice"};
    }
  }
  return {};
}

/// `invalid_position` where a row that is named is hidden; `check_protection` has let it through.
inline result<void> check_named_rows(const kv_block& cache, const protection& asked) {
  for (const index_t row : asked.rows) {
    if (!cache.is_hidden(row)) continue;
    return error{errc::invalid_position, "protect.rows", row, error::none,
                 "its bias hides this row"};
  }
  return {};
}

/// How many rows are protected.
struct protected_count {
  index_t least = 0;
  index_t most = 0;
};

/// The rows that `asked` protects of `rows` rows in this order, in numbers. Exact but where named
/// rows may or may not be among the first and last ones, which sizes can't tell.
inline protected_count count_protected(const protection& asked, const row_order& order,
                                       index_t rows) noexcept {
  const index_t visible = rows - order.hidden();
  const index_t first = (std::min)(asked.first, visible);
  const index_t ends = first + (std::min)(asked.last, visible - first);
  const auto named = static_cast<index_t>(asked.rows.size());
  if (!order.is_plain()) {
    return {(std::max)(ends, (std::min)(named, visible)), ends + (std::min)(named, visible - ends)};
  }
  const index_t open = order.hidden_first + first;  // the first row that is none of the ends
  const index_t more = std::count_if(asked.rows.begin(), asked.rows.end(), [&](index_t row) {
    return row >= open && row < open + visible - ends;
  });
  return {ends + more, ends + more};
}

/// The budget must exceed the protected rows, or hold all visible ones.
inline result<void> check_protected_budget(index_t budget, index_t visible, index_t count) {
  if (budget >= visible || budget > count) return {};
  return error{errc::budget_out_of_range, "budget", budget, count >= visible ? visible : count + 1,
               "must exceed the protected rows"};
}

/// Numbers of the rows that are not hidden, ascending.
inline std::vector<index_t> visible_rows_of(const kv_block& cache, const row_order& order) {
  std::vector<index_t> rows;
  rows.reserve(static_cast<std::size_t>(cache.keys.rows() - order.hidden()));
  for (index_t row = 0; row < cache.keys.rows(); ++row) {
    if (!cache.is_hidden(row)) rows.push_back(row);
  }
  return rows;
}

/// The numbers of the rows that `asked` protects, ascending. Both `cache`, whose order is `order`,
/// and `asked` are sound. Cost T where rows are in the order of their positions, else T log T.
inline std::vector<index_t> protected_rows(const kv_block& cache, const row_order& order,
                                           const protection& asked) {
  const index_t visible = cache.keys.rows() - order.hidden();
  const index_t first = (std::min)(asked.first, visible);
  const index_t last = (std::min)(asked.last, visible - first);
  std::vector<index_t> rows;
  rows.reserve(static_cast<std::size_t>(first + last) + asked.rows.size());
  if (order.is_ascending) {
    index_t row = order.hidden_first;
    for (index_t count = 0; count < first; ++row) {
      if (cache.is_hidden(row)) continue;
      rows.push_back(row);
      ++count;
    }
    row = cache.keys.rows() - order.hidden_last;
    for (index_t count = 0; count < last;) {
      if (cache.is_hidden(--row)) continue;
      rows.push_back(row);
      ++count;
    }
  } else if (first + last > 0) {
    std::vector<index_t> standing = visible_rows_of(cache, order);
    std::sort(standing.begin(), standing.end(), [&cache](index_t a, index_t b) {
      return cache.position(a) != cache.position(b) ? cache.position(a) < cache.position(b) : a < b;
    });
    rows.insert(rows.end(), standing.begin(), standing.begin() + first);
    rows.insert(rows.end(), standing.end() - last, standing.end());
  }
  rows.insert(rows.end(), asked.rows.begin(), asked.rows.end());
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  return rows;
}

/// What `protected_rows` of `rows` rows holds, its result included.
inline void declare_protected_rows(workspace& space, const row_order& order, index_t rows,
                                   const protection& asked) {
  const index_t ends = (std::min)(asked.first, rows) + (std::min)(asked.last, rows);
  space.count(double_bytes(ends + static_cast<index_t>(asked.rows.size())));
  if (!order.is_ascending) space.count(double_bytes(rows));
}

/// Rows first … first + count − 1 of a cache: all that is neither protected nor hidden is there.
struct open_rows {
  index_t first = 0;
  index_t count = 0;
};

/// The stretch that selection and fits see. Where the visible rows lie in their order and none is
/// named, it is what lies between the protected ones and nothing else; otherwise all from the first
/// visible row to the last, among which the protected ones are hidden. So its length follows from
/// sizes.
inline open_rows open_stretch(const protection& asked, const row_order& order,
                              index_t rows) noexcept {
  open_rows open{order.hidden_first, rows - order.hidden_first - order.hidden_last};
  if (!order.is_plain() || !asked.rows.empty()) return open;
  const index_t first = (std::min)(asked.first, open.count);
  const index_t last = (std::min)(asked.last, open.count - first);
  return {open.first + first, open.count - first - last};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
