// SPDX-License-Identifier: MIT
/// Compact layers of neighbouring stretches of a text as one: head under head.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// One head's report over several stretches: sums, the worst outcome and the first cause. What was
/// measured was measured on each stretch alone, and does not add up.
inline head_report sum_of_reports(std::span<const compacted_layer> parts, std::size_t head) {
  head_report sum;
  sum.id = parts.front().heads[head].id;
  bool is_identity = true;
  for (const compacted_layer& part : parts) {
    const head_report& own = part.heads[head];
    sum.rows_before += own.rows_before;
    sum.rows += own.rows;
    is_identity = is_identity && own.outcome == head_outcome::identity;
    if (own.outcome == head_outcome::fallback && sum.outcome != head_outcome::fallback) {
      sum.outcome = head_outcome::fallback;
      sum.cause = own.cause;
    }
  }
  if (sum.outcome == head_outcome::fallback) return sum;
  if (is_identity) {
    sum.outcome = head_outcome::identity;
    sum.report.is_identity = true;
  } else if (sum.rows == 0) {
    sum.outcome = head_outcome::empty;
  }
  return sum;
}

/// The rows of every head of `parts`, those of the first part first. All parts have the same heads
/// and widths; at least one.
inline compacted_layer stack_layers(std::span<const compacted_layer> parts) {
  const compacted_layer& first = parts.front();
  compacted_layer out;
  out.number = first.number;
  out.offsets = {0};
  index_t rows = 0;
  for (const compacted_layer& part : parts) rows += part.keys.rows();
  out.keys.resize(rows, first.keys.cols());
  out.values.resize(rows, first.values.cols());
  out.bias.resize(rows);
  out.positions.reserve(static_cast<std::size_t>(rows));
  out.key_positions.reserve(static_cast<std::size_t>(rows));
  index_t at = 0;
  for (std::size_t head = 0; head < first.heads.size(); ++head) {
    for (const compacted_layer& part : parts) {
      const index_t from = part.offsets[head];
      const index_t count = part.rows(head);
      out.keys.middleRows(at, count) = part.keys.middleRows(from, count);
      out.values.middleRows(at, count) = part.values.middleRows(from, count);
      out.bias.segment(at, count) = part.bias.segment(from, count);
      for (index_t row = from; row < from + count; ++row) {
        out.positions.push_back(part.positions[static_cast<std::size_t>(row)]);
        out.key_positions.push_back(part.key_positions[static_cast<std::size_t>(row)]);
      }
      at += count;
    }
    out.offsets.push_back(at);
    out.heads.push_back(sum_of_reports(parts, head));
  }
  return out;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
