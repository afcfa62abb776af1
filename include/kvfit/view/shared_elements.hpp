// SPDX-License-Identifier: MIT
/// Whether rows that are to be written share memory. Include kvfit/view/store.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/view/decode.hpp"
#include "kvfit/view/row_map.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Elements offset(k) + c · step, c < count, of each row k < rows.count; `map`, `stride`,
/// `page_stride` and `group` say where a row starts, as `row_map::offset` takes them.
struct element_rows {
  row_map map;
  stepped rows;
  index_t stride = 0;
  index_t page_stride = 0;
  index_t group = 1;
  index_t count = 0;  ///< ≥ 1
  index_t step = 1;   ///< not 0 where count > 1

  [[nodiscard]] index_t offset(index_t k) const noexcept {
    return map.offset(rows.at(k), stride, page_stride, group);
  }
};

/// Numbers of two rows, the lower first.
struct row_pair {
  index_t first = 0;
  index_t second = 0;
};

inline std::uint64_t magnitude(index_t x) noexcept {
  return x < 0 ? 0 - static_cast<std::uint64_t>(x) : static_cast<std::uint64_t>(x);
}

/// Rows a constant distance apart: i · distance = t · step first holds for i = step / g and
/// t = distance / g, g their greatest common divisor.
inline std::optional<row_pair> shared_by_strides(const element_rows& of) {
  const std::uint64_t distance = magnitude(of.offset(1) - of.offset(0));
  if (distance == 0) return row_pair{0, 1};
  if (of.count == 1) return std::nullopt;
  const std::uint64_t step = magnitude(of.step);
  const std::uint64_t divisor = std::gcd(distance, step);
  const std::uint64_t row = step / divisor;
  if (row >= magnitude(of.rows.count) || distance / divisor >= magnitude(of.count)) {
    return std::nullopt;
  }
  return row_pair{0, static_cast<index_t>(row)};
}

/// Two rows that have an element in common, the lower of the second ones where several pairs lie
/// next to each other in memory; none if there are none. Exact, whatever the strides, lists and
/// tables. Cost: O(1) for strided rows; else O(n log n) for n rows, 16 n bytes.
inline std::optional<row_pair> shared_elements(const element_rows& of) {
  const index_t n = of.rows.count;
  if (n < 2) return std::nullopt;
  if (of.map.is_strided()) return shared_by_strides(of);
  struct start {
    index_t offset;
    index_t row;
  };
  const auto step = of.count > 1 ? static_cast<index_t>(magnitude(of.step)) : index_t{1};
  // Rows can only meet where they start a whole number of steps apart.
  const auto residue = [step](index_t offset) {
    return step == 1 ? 0 : (offset % step + step) % step;
  };
  const auto is_before = [&](const start& a, const start& b) {
    const index_t of_a = residue(a.offset);
    const index_t of_b = residue(b.offset);
    if (of_a != of_b) return of_a < of_b;
    return a.offset != b.offset ? a.offset < b.offset : a.row < b.row;
  };
  std::vector<start> starts(static_cast<std::size_t>(n));
  for (index_t k = 0; k < n; ++k) starts[static_cast<std::size_t>(k)] = {of.offset(k), k};
  if (!std::is_sorted(starts.begin(), starts.end(), is_before)) {
    std::sort(starts.begin(), starts.end(), is_before);
  }
  std::optional<row_pair> found;
  for (std::size_t k = 1; k < starts.size(); ++k) {
    const start& a = starts[k - 1];
    const start& b = starts[k];
    if (residue(a.offset) != residue(b.offset)) continue;
    if ((b.offset - a.offset) / step >= of.count) continue;
    const row_pair pair{(std::min)(a.row, b.row), (std::max)(a.row, b.row)};
    if (!found || pair.second < found->second) found = pair;
  }
  return found;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
