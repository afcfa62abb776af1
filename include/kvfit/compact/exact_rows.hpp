// SPDX-License-Identifier: MIT
/// Rows that are kept as they are, the block of the others, and both parts of a result as one.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/protected_rows.hpp"
#include "kvfit/compact/storage.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Rows first … first + count − 1 of a block, with what belongs to them.
class block_slice {
 public:
  block_slice(const kv_block& cache, index_t first, index_t count) : block_(cache) {
    block_.keys = cache.keys.middle_rows(first, count);
    block_.values = cache.values.middle_rows(first, count);
    const auto start = static_cast<std::size_t>(first);
    const auto length = static_cast<std::size_t>(count);
    if (!cache.bias.empty()) block_.bias = cache.bias.subspan(start, length);
    if (!cache.positions.empty()) block_.positions = cache.positions.subspan(start, length);
    block_.first_position += first;
    for (const row_view& mask : cache.masks) masks_.push_back(mask.middle_cols(first, count));
    block_.masks = masks_;
  }
  block_slice(const block_slice&) = delete;
  block_slice& operator=(const block_slice&) = delete;
  ~block_slice() = default;

  [[nodiscard]] const kv_block& block() const noexcept { return block_; }

 private:
  kv_block block_;
  std::vector<row_view> masks_;
};

/// A stretch of a cache in which the rows numbered `hidden` (of the cache, ascending) are hidden
/// besides those that its own bias hides. Copies biases only where any of them lies in the stretch.
class open_block {
 public:
  open_block(const kv_block& cache, const open_rows& where, std::span<const index_t> hidden)
      : slice_(cache, where.first, where.count), block_(slice_.block()) {
    const auto first = std::lower_bound(hidden.begin(), hidden.end(), where.first);
    const auto end = std::lower_bound(first, hidden.end(), where.first + where.count);
    if (first == end) return;
    if (block_.bias.empty()) {
      bias_.assign(static_cast<std::size_t>(where.count), 0.0F);
    } else {
      bias_.assign(block_.bias.begin(), block_.bias.end());
    }
    for (auto row = first; row != end; ++row) {
      bias_[static_cast<std::size_t>(*row - where.first)] = -std::numeric_limits<float>::infinity();
    }
    block_.bias = bias_;
  }
  open_block(const open_block&) = delete;
  open_block& operator=(const open_block&) = delete;
  ~open_block() = default;

  [[nodiscard]] const kv_block& block() const noexcept { return block_; }

 private:
  block_slice slice_;
  std::vector<float> bias_;
  kv_block block_;
};

/// Makes `exact` the rows of the cache numbered `rows` as they are, rounded to storage; where one
/// does not fit, `storage_overflow` at its place in the list.
inline result<void> take_exact(const kv_block& cache, std::vector<index_t> rows, dtype storage,
                               dtype bias_storage, compacted& exact) {
  exact.keys = gather_rows(cache.keys, rows);
  exact.values = gather_rows(cache.values, rows);
  exact.bias.setZero(static_cast<index_t>(rows.size()));
  if (!cache.bias.empty()) {
    for (index_t j = 0; j < exact.bias.size(); ++j) {
      exact.bias[j] = cache.bias[static_cast<std::size_t>(rows[static_cast<std::size_t>(j)])];
    }
  }
  exact.positions = std::move(rows);
  if (const auto ok = round_to_storage(exact.keys, storage, "keys"); !ok) return ok;
  if (const auto ok = round_to_storage(exact.values, storage, "values"); !ok) return ok;
  return round_to_storage(exact.bias, bias_storage, "bias");
}

/// Both lists of rows as one, ascending; none is in both. The report is left empty.
inline compacted merged(const compacted& a, const compacted& b) {
  const auto of_a = static_cast<index_t>(a.positions.size());
  const auto of_b = static_cast<index_t>(b.positions.size());
  compacted out;
  out.positions.reserve(a.positions.size() + b.positions.size());
  out.keys.resize(of_a + of_b, a.keys.cols());
  out.values.resize(of_a + of_b, a.values.cols());
  out.bias.resize(of_a + of_b);
  for (index_t i = 0, j = 0; i + j < of_a + of_b;) {
    const index_t at = i + j;
    const bool is_of_a = j == of_b || (i < of_a && a.positions[static_cast<std::size_t>(i)] <
                                                       b.positions[static_cast<std::size_t>(j)]);
    const compacted& from = is_of_a ? a : b;
    const index_t row = is_of_a ? i++ : j++;
    out.positions.push_back(from.positions[static_cast<std::size_t>(row)]);
    out.keys.row(at) = from.keys.row(row);
    out.values.row(at) = from.values.row(row);
    out.bias[at] = from.bias[row];
  }
  return out;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
