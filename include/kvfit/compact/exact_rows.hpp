// SPDX-License-Identifier: MIT
/// Rows that are kept as they are, the block of the others, and both parts of a result as one.
#pragma once

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

/// Rows first … first + count − 1 of a block, with what belongs to them. Rows of the block numbered
/// `hidden` (ascending) are hidden besides those that its own bias hides; biases are copied only
/// where any of these lies among the rows.
class block_slice {
 public:
  block_slice(const kv_block& cache, index_t first, index_t count,
              std::span<const index_t> hidden = {})
      : block_(cache) {
    block_.keys = cache.keys.middle_rows(first, count);
    block_.values = cache.values.middle_rows(first, count);
    const auto start = static_cast<std::size_t>(first);
    const auto length = static_cast<std::size_t>(count);
    if (!cache.bias.empty()) block_.bias = cache.bias.subspan(start, length);
    if (!cache.positions.empty()) block_.positions = cache.positions.subspan(start, length);
    block_.first_position += first;
    for (const row_view& mask : cache.masks) masks_.push_back(mask.middle_cols(first, count));
    block_.masks = masks_;
    for (const index_t row : hidden) {
      if (row < first || row >= first + count) continue;
      if (bias_.empty()) {
        bias_.assign(block_.bias.begin(), block_.bias.end());
        bias_.resize(length, 0.0F);
      }
      bias_[static_cast<std::size_t>(row - first)] = -std::numeric_limits<float>::infinity();
    }
    if (!bias_.empty()) block_.bias = bias_;
  }
  block_slice(const block_slice&) = delete;
  block_slice& operator=(const block_slice&) = delete;
  ~block_slice() = default;

  [[nodiscard]] const kv_block& block() const noexcept { return block_; }

 private:
  kv_block block_;
  std::vector<row_view> masks_;
  std::vector<float> bias_;
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
