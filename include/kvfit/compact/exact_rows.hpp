// SPDX-License-Identifier: MIT
/// Rows that are kept as they are, and putting parts of a result one below the other.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/storage.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit::detail::inline KVFIT_ISA {

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

/// Appends the rows of `tail`, whose positions count from `offset`.
inline void append(compacted& head, const compacted& tail, index_t offset) {
  const auto stack = [](auto& top, const auto& bottom) {
    const index_t rows = top.rows();
    top.conservativeResize(rows + bottom.rows(), bottom.cols());
    top.bottomRows(bottom.rows()) = bottom;
  };
  for (const index_t row : tail.positions) head.positions.push_back(offset + row);
  stack(head.keys, tail.keys);
  stack(head.values, tail.values);
  const index_t rows = head.bias.size();
  head.bias.conservativeResize(rows + tail.bias.size());
  head.bias.tail(tail.bias.size()) = tail.bias;
}

/// Rows first … first + count − 1 whose bias does not hide them.
inline index_t count_visible(const kv_block& cache, index_t first, index_t count) {
  if (cache.bias.empty()) return count;
  const auto rows =
      cache.bias.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
  return std::count_if(rows.begin(), rows.end(), [](float bias) { return !std::isinf(bias); });
}

/// Appends rows of the cache as they are (rounded to storage); hidden ones are left out.
inline result<void> append_exact(const kv_block& cache, index_t first, index_t count, dtype storage,
                                 dtype bias_storage, compacted& out) {
  std::vector<index_t> rows;
  for (index_t row = first; row < first + count; ++row) {
    const bool is_hidden =
        !cache.bias.empty() && std::isinf(cache.bias[static_cast<std::size_t>(row)]);
    if (!is_hidden) rows.push_back(row);
  }
  matrix keys = gather_rows(cache.keys, rows);
  matrix values = gather_rows(cache.values, rows);
  vector bias = vector::Zero(static_cast<index_t>(rows.size()));
  if (!cache.bias.empty()) {
    for (index_t j = 0; j < bias.size(); ++j) {
      bias[j] = cache.bias[static_cast<std::size_t>(rows[static_cast<std::size_t>(j)])];
    }
  }
  if (const auto ok = round_to_storage(keys, storage, "keys"); !ok) return ok;
  if (const auto ok = round_to_storage(values, storage, "values"); !ok) return ok;
  if (const auto ok = round_to_storage(bias, bias_storage, "bias"); !ok) return ok;
  compacted exact{.positions = std::move(rows),
                  .key_positions = {},
                  .keys = std::move(keys),
                  .bias = std::move(bias),
                  .values = std::move(values),
                  .report = {}};
  append(out, exact, 0);
  return {};
}

}  // namespace kvfit::detail::inline KVFIT_ISA
