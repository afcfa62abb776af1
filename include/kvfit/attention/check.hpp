// SPDX-License-Identifier: MIT
/// Refuses inputs of attention that do not fit together, before anything is computed.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvfit/attention/head_sizes.hpp"
#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/visible_rows.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/view/check.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// A bias or mask entry: finite, or −∞ for a hidden key.
inline bool is_finite_or_hidden(float x) noexcept {
  return is_finite(x) || std::bit_cast<std::uint32_t>(x) == 0xFF800000U;
}

inline result<void> check_bias(std::span<const float> bias, index_t keys) {
  if (bias.empty()) return {};
  if (static_cast<index_t>(bias.size()) != keys) {
    return error{errc::shape_mismatch, "bias", static_cast<index_t>(bias.size()), keys,
                 "one number per key"};
  }
  for (std::size_t j = 0; j < bias.size(); ++j) {
    if (!is_finite_or_hidden(bias[j])) {
      return error{errc::non_finite, "bias", static_cast<index_t>(j), 0, "finite or -infinity"};
    }
  }
  return {};
}

/// `cause`, found in one of several query blocks, saying in which.
inline error in_query_block(error cause, std::size_t block, std::size_t blocks) {
  if (blocks > 1) {
    if (!cause.detail.empty()) cause.detail += "; ";
    cause.detail += "query block " + std::to_string(block);
  }
  return cause;
}

/// `bias`: of the keys, or empty; what a mask says of hidden ones means nothing.
inline result<void> check_mask(const row_view& mask, index_t queries, index_t keys,
                               std::span<const float> bias) {
  if (mask.rows() != queries) {
    return error{errc::shape_mismatch, "masks", mask.rows(), queries, "one row per query"};
  }
  if (mask.cols() != keys) {
    return error{errc::shape_mismatch, "masks", mask.cols(), keys, "one column per key"};
  }
  if (!mask.is_backed()) return error{errc::null_data, "masks"};
  std::vector<float> row(static_cast<std::size_t>(keys));
  for (index_t i = 0; i < queries; ++i) {
    const float* entries = load_rows(mask, i, 1, row.data()).data;
    for (index_t j = first_non_finite(entries, keys); j < keys; ++j) {
      const bool is_hidden = !bias.empty() && hides(bias[static_cast<std::size_t>(j)]);
      if (!is_hidden && !is_finite_or_hidden(entries[j])) {
        return error{errc::non_finite, "masks", i, j, "finite or -infinity"};
      }
    }
  }
  return {};
}

inline result<void> check_masks(const kv_block& cache, std::span<const query_block> queries) {
  if (cache.masks.empty()) return {};
  if (cache.masks.size() != queries.size()) {
    return error{errc::shape_mismatch, "masks", static_cast<index_t>(cache.masks.size()),
                 static_cast<index_t>(queries.size()), "one mask per query block"};
  }
  for (std::size_t b = 0; b < queries.size(); ++b) {
    const auto ok =
        check_mask(cache.masks[b], queries[b].rows.rows(), cache.keys.rows(), cache.bias);
    if (!ok) return in_query_block(ok.error(), b, queries.size());
  }
  return {};
}

/// `check_view` of keys or values; rows that `bias` hides are not read. A bias of another length,
/// which is found after them, hides none.
inline result<void> check_visible(const row_view& view, std::span<const float> bias,
                                  std::string_view argument) {
  if (static_cast<index_t>(bias.size()) != view.rows()) bias = {};
  return check_rows_loaded(
      view, argument,
      [](const row_view& of, const void* hiding, index_t first, index_t count,
         float* buffer) noexcept {
        return load_visible_rows(of, *static_cast<const std::span<const float>*>(hiding), first,
                                 count, buffer);
      },
      &bias);
}

/// A table of positions: every row has a place in it, and no difference of two overflows.
inline result<void> check_query_positions(const query_block& block) {
  if (block.positions.empty()) return {};
  const auto places = static_cast<index_t>(block.positions.size());
  const index_t last = block.first_position + (block.rows.rows() - 1) * block.position_step;
  for (const index_t place : {block.first_position, last}) {
    if (place < 0 || place >= places) {
      return error{errc::shape_mismatch, "queries.positions", places, place + 1,
                   "every row needs a place in the table"};
    }
  }
  constexpr index_t largest = index_t{1} << 53U;
  for (const index_t position : block.positions) {
    if (position > largest || position < -largest) {
      return error{errc::invalid_option, "queries.positions", position, largest,
                   "must not be farther from 0"};
    }
  }
  return {};
}

inline result<void> check_query_block(const query_block& block, index_t depth) {
  if (const auto ok = check_view(block.rows, "queries"); !ok) return ok;
  if (block.rows.cols() != depth) {
    return error{errc::shape_mismatch, "queries", block.rows.cols(), depth,
                 "columns must equal the keys'"};
  }
  constexpr index_t largest = index_t{1} << 53U;
  const index_t reach = largest / block.rows.rows();
  if (block.first_position > largest || block.first_position < -largest) {
    return error{errc::invalid_option, "queries.first_position", block.first_position, largest,
                 "must not be farther from 0"};
  }
  if (block.position_step > reach || block.position_step < -reach) {
    return error{errc::invalid_option, "queries.position_step", block.position_step, reach,
                 "must not be farther from 0, for as many rows"};
  }
  if (const auto ok = check_query_positions(block); !ok) return ok;
  if (!is_finite(block.alibi_slope)) {
    return refuse_number("queries.alibi_slope", block.alibi_slope, "must be finite");
  }
  if (!is_finite_or_hidden(block.sink_logit)) {
    return refuse_number("queries.sink_logit", block.sink_logit, "must be finite or -infinity");
  }
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// `invalid_option` where the rule is outside its documented ranges.
inline result<void> check_rule(const logit_rule& rule) {
  if (rule.scale && !detail::is_finite(*rule.scale)) {
    return detail::refuse_number("rule.scale", *rule.scale, "must be finite");
  }
  if (!detail::is_finite(rule.soft_cap) || rule.soft_cap < 0) {
    return detail::refuse_number("rule.soft_cap", rule.soft_cap, "must be finite and not negative");
  }
  if (rule.window < 0) {
    return error{errc::invalid_option, "rule.window", rule.window, 0, "must not be negative"};
  }
  return {};
}

/// Queries: at least one block; each n ≥ 1 rows of `depth` finite numbers, finite ALiBi slope.
/// Among several blocks the error's detail names the one at fault.
inline result<void> check_queries(const query_set& queries, index_t depth) {
  const auto blocks = queries.blocks();
  if (blocks.empty()) return error{errc::empty_input, "queries", 0, error::none, "no blocks"};
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const auto ok = detail::check_query_block(blocks[b], depth);
    if (!ok) return detail::in_query_block(ok.error(), b, blocks.size());
  }
  return {};
}

/// Positions within ±2⁵³, so that no difference of two overflows: `invalid_option` otherwise. Those
/// of hidden rows are not used.
inline result<void> check_positions(const kv_block& cache) {
  constexpr index_t largest = index_t{1} << 53U;
  const auto is_sane = [](index_t position) { return position >= -largest && position <= largest; };
  if (!is_sane(cache.first_position)) {
    return error{errc::invalid_option, "first_position", cache.first_position, largest,
                 "must not be farther from 0"};
  }
  const bool may_hide = cache.bias.size() == cache.positions.size();
  for (std::size_t j = 0; j < cache.positions.size(); ++j) {
    if (is_sane(cache.positions[j]) || (may_hide && cache.is_hidden(static_cast<index_t>(j)))) {
      continue;
    }
    return error{errc::invalid_option, "positions", cache.positions[j], largest,
                 "must not be farther from 0"};
  }
  return {};
}

/// What `check_cache` checks besides the numbers in keys and values, which it does not read; they
/// have rows and columns.
inline result<void> check_beside_rows(const kv_block& cache, const query_set& queries) {
  if (cache.values.rows() != cache.keys.rows()) {
    return error{errc::shape_mismatch, "values", cache.values.rows(), cache.keys.rows(),
                 "rows must equal the keys'"};
  }
  if (!cache.positions.empty() &&
      static_cast<index_t>(cache.positions.size()) != cache.keys.rows()) {
    return error{errc::shape_mismatch, "positions", static_cast<index_t>(cache.positions.size()),
                 cache.keys.rows(), "one number per key"};
  }
  if (const auto ok = check_positions(cache); !ok) return ok.error();
  if (const auto ok = detail::check_bias(cache.bias, cache.keys.rows()); !ok) return ok.error();
  return detail::check_masks(cache, queries.blocks());
}

/// One block of cache beside its queries. Cost: one read of every input but for rows that the bias
/// hides: these may hold anything, in keys, values and the masks' columns.
inline result<void> check_cache(const kv_block& cache, const query_set& queries) {
  if (const auto ok = detail::check_visible(cache.keys, cache.bias, "keys"); !ok) return ok.error();
  if (const auto ok = detail::check_visible(cache.values, cache.bias, "values"); !ok) {
    return ok.error();
  }
  return check_beside_rows(cache, queries);
}

/// What these checks hold: a tile of rows, or a row of a mask.
inline void declare_check(workspace& space, const head_sizes& sizes) {
  for (const index_t cols : {sizes.depth, sizes.width}) {
    const workspace::phase one(space);
    if (cols > 0) space.count(float_bytes(detail::checked_rows(cols), cols));
  }
  const workspace::phase one(space);
  space.count(float_bytes(sizes.keys));
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
