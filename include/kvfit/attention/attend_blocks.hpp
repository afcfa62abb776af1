// SPDX-License-Identifier: MIT
/// The work of `attend`: panel after panel, block after block.
#pragma once

#include <algorithm>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/attention/attend_options.hpp"
#include "kvfit/attention/check.hpp"
#include "kvfit/attention/panel.hpp"
#include "kvfit/attention/result_memory.hpp"
#include "kvfit/attention/state.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/core/workspace.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Keys of the longest block.
inline index_t longest_of(std::span<const kv_block> blocks) noexcept {
  index_t longest = 0;
  for (const kv_block& cache : blocks) longest = (std::max)(longest, cache.keys.rows());
  return longest;
}

/// Bytes that `attend` holds at most.
inline double attend_blocks_bytes(const query_set& queries, std::span<const kv_block> blocks,
                                  const attend_options& options) {
  workspace space;
  const index_t rows = panel_rows(longest_of(blocks), options.panel);
  space.count(small_bytes);
  for (const kv_block& cache : blocks) {
    const workspace::phase checking(space);
    declare_check(space, sizes_of_head(cache, queries));
  }
  const workspace::phase attending(space);
  panel_list().declare(space, queries.rows(), static_cast<index_t>(queries.blocks().size()), rows);
  for (const kv_block& cache : blocks) {
    head_sizes sizes = sizes_of_head(cache, queries);
    sizes.panel = rows;
    if (&cache == blocks.data()) space.count(float_bytes(sizes.queries + 1, sizes.width + 1));
    declare_panel(space, sizes, false);
    space.count(static_cast<double>(sizeof(attention_panel)));
  }
  return space.most();
}

/// Checks one block beside its queries: `check_cache`, or less where its numbers show otherwise.
using block_check = result<void> (*)(const kv_block& cache, const query_set& queries);

/// Every block by itself, and all of the same two widths.
inline result<void> check_blocks(const query_set& queries, std::span<const kv_block> blocks,
                                 block_check check) {
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const auto in_block = [&](error cause) {
      if (blocks.size() > 1) {
        if (!cause.detail.empty()) cause.detail += "; ";
        cause.detail += "cache block " + std::to_string(b);
      }
      return cause;
    };
    const kv_block& cache = blocks[b];
    if (const auto ok = check(cache, queries); !ok) return in_block(ok.error());
    if (cache.keys.cols() != blocks[0].keys.cols()) {
      return in_block({errc::shape_mismatch, "keys", cache.keys.cols(), blocks[0].keys.cols(),
                       "columns must be the same in all blocks"});
    }
    if (cache.values.cols() != blocks[0].values.cols()) {
      return in_block({errc::shape_mismatch, "values", cache.values.cols(), blocks[0].values.cols(),
                       "columns must be the same in all blocks"});
    }
  }
  return check_queries(queries, blocks[0].keys.cols());
}

/// `options` with which `attend` keeps to `options.memory`, or `memory_cap_exceeded` with the least
/// it needs.
inline result<attend_options> attend_options_within(const query_set& queries,
                                                    std::span<const kv_block> blocks,
                                                    const attend_options& options) {
  attend_options now = options;
  if (!options.memory) return now;
  const auto cap = static_cast<double>(*options.memory);
  double least = attend_blocks_bytes(queries, blocks, now);
  if (least <= cap) return now;
  index_t longest = 0;
  for (const query_block& block : queries.blocks())
    longest = (std::max)(longest, block.rows.rows());
  for (now.panel = (std::min)(longest, panel_rows(longest_of(blocks), options.panel));
       now.panel > 0; now.panel /= 2) {
    const double bytes = attend_blocks_bytes(queries, blocks, now);
    if (bytes <= cap) return now;
    least = (std::min)(least, bytes);
  }
  return error{errc::memory_cap_exceeded, "memory", whole_bytes(least), *options.memory,
               "one query at a time"};
}

/// Blocks that have rows: a head of a compact cache, or a conversation, may have none yet.
inline std::vector<kv_block> blocks_with_rows(std::span<const kv_block> blocks) {
  std::vector<kv_block> filled;
  for (const kv_block& cache : blocks) {
    if (cache.keys.rows() != 0 || cache.values.rows() != 0) filled.push_back(cache);
  }
  return filled;
}

/// A block without rows says nothing of rows, and is as wide as the others where it has a width.
inline result<void> check_empty_block(const kv_block& cache, index_t depth, index_t width) {
  const auto rows_of_none = [](const char* what, index_t count) {
    return error{errc::shape_mismatch, what, count, 0, "of a block without rows"};
  };
  if (!cache.bias.empty()) return rows_of_none("bias", static_cast<index_t>(cache.bias.size()));
  if (!cache.positions.empty()) {
    return rows_of_none("positions", static_cast<index_t>(cache.positions.size()));
  }
  for (const row_view& mask : cache.masks) {
    if (mask.cols() != 0) return rows_of_none("masks", mask.cols());
  }
  if (cache.keys.cols() != 0 && cache.keys.cols() != depth) {
    return error{errc::shape_mismatch, "keys", cache.keys.cols(), depth,
                 "columns must be the same in all blocks"};
  }
  if (cache.values.cols() != 0 && cache.values.cols() != width) {
    return error{errc::shape_mismatch, "values", cache.values.cols(), width,
                 "columns must be the same in all blocks"};
  }
  return {};
}

/// The first block with rows, or else with columns, or else the first: it says how wide all are.
inline const kv_block& block_with_sizes(std::span<const kv_block> blocks) noexcept {
  for (const kv_block& cache : blocks) {
    if (cache.keys.rows() != 0 || cache.values.rows() != 0) return cache;
  }
  for (const kv_block& cache : blocks) {
    if (cache.keys.cols() != 0 && cache.values.cols() != 0) return cache;
  }
  return blocks[0];
}

/// n × `width` zeros, and memory for n log-masses.
inline output_target zero_output(const output_owner& into, index_t queries, index_t width) {
  const output_target out = into.allocate(into.owner, queries, width);
  std::fill_n(out.output, queries * width, 0.0F);
  return out;
}

/// Attention over no rows: the sinks alone.
inline void attend_nothing(const query_set& queries, index_t width, const output_owner& into) {
  const output_target out = zero_output(into, queries.rows(), width);
  index_t row = 0;
  for (const query_block& block : queries.blocks()) {
    for (index_t i = 0; i < block.rows.rows(); ++i) out.log_mass[row++] = block.sink_logit;
  }
}

/// The blocks of `given` that have rows, all inputs checked; none where no block has any.
inline result<std::vector<kv_block>> check_attention(const query_set& queries,
                                                     std::span<const kv_block> given,
                                                     const logit_rule& rule,
                                                     const attend_options& options,
                                                     block_check check = &check_cache) {
  if (const auto ok = check_rule(rule); !ok) return ok.error();
  for (const auto& [name, size] :
       {std::pair{"panel", options.panel}, std::pair{"memory", options.memory.value_or(0)}}) {
    if (size < 0) return error{errc::invalid_option, name, size, 0, "must not be negative"};
  }
  if (given.empty()) return error{errc::empty_input, "blocks", 0, error::none, "no blocks"};
  const kv_block& sizes = block_with_sizes(given);
  for (const kv_block& cache : given) {
    if (cache.keys.rows() != 0 || cache.values.rows() != 0) continue;
    const auto ok = check_empty_block(cache, sizes.keys.cols(), sizes.values.cols());
    if (!ok) return ok.error();
  }
  std::vector<kv_block> filled = blocks_with_rows(given);
  const auto ok = filled.empty() ? check_queries(queries, sizes.keys.cols())
                                 : check_blocks(queries, filled, check);
  if (!ok) return ok.error();
  return filled;
}

/// `attend`, its result in memory of the caller, who is asked for it once the input has been
/// checked.
inline result<void> attend_blocks(const query_set& queries, std::span<const kv_block> given,
                                  const logit_rule& rule, const attend_options& options,
                                  const output_owner& into) {
  const auto filled = check_attention(queries, given, rule, options);
  if (!filled) return filled.error();
  const std::span<const kv_block> blocks = *filled;
  if (blocks.empty()) {
    attend_nothing(queries, block_with_sizes(given).values.cols(), into);
    return {};
  }
  const auto within = attend_options_within(queries, blocks, options);
  if (!within) return within.error();
  const index_t width = blocks[0].values.cols();
  const output_target out = zero_output(into, queries.rows(), width);
  std::vector<attention_panel> parts;
  parts.reserve(blocks.size());
  for (const kv_block& cache : blocks) parts.emplace_back(cache, queries, rule);
  std::vector<float> nothing(static_cast<std::size_t>(width), 0.0F);
  for (const query_panel& panel :
       cut_panels(queries, panel_rows(longest_of(blocks), within->panel))) {
    for (attention_panel& part : parts) {
      if (const auto ok = part.compute(panel); !ok) return ok.error();
    }
    const float sink = queries.blocks()[panel.block].sink_logit;
    for (index_t i = 0; i < panel.count; ++i) {
      const auto columns = static_cast<std::size_t>(width);
      attention_state state{.output = {out.output + (panel.offset + i) * width, columns}};
      for (attention_panel& part : parts) {
        merge(state,
              {part.largest(i), static_cast<float>(part.mass(i)), {part.output(i), columns}});
      }
      const bool has_sink = sink != -std::numeric_limits<float>::infinity();
      merge(state, {sink, has_sink ? 1.0F : 0.0F, nothing});
      out.log_mass[panel.offset + i] = state.log_mass();
    }
  }
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
