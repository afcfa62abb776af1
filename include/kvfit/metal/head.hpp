// SPDX-License-Identifier: MIT
/// One KV head in memory that the GPU reads, and the arguments that say how it lies there.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/visible_rows.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/element.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/metal/batch.hpp"
#include "kvfit/metal/buffer.hpp"
#include "kvfit/metal/device.hpp"
#include "kvfit/metal/kernels/shared/attention_arguments.h"
#include "kvfit/view/load.hpp"

namespace kvfit::metal {

/// Counts in kernels are below this.
inline constexpr index_t largest_count = index_t{1} << 30;

}  // namespace kvfit::metal

namespace kvfit::metal {
inline namespace KVFIT_ISA {

/// Rows in memory: element (i, j) is number offset + i · row_stride + j · col_stride of a type.
struct placed_rows {
  buffer memory;
  dtype type = dtype::fp32;
  std::int64_t offset = 0;
  std::int64_t row_stride = 0;
  std::int64_t col_stride = 1;
};

/// Queries as kernels take them: fp32, contiguous, with what belongs to each of them.
struct placed_queries {
  buffer rows;
  buffer positions;  ///< only where they are not even
  buffer slopes;
  index_t count = 0;
  index_t block_rows = 1;  ///< of a query block, or 1 where blocks differ
  index_t first_position = 0;
  index_t position_step = 0;
  bool has_slopes = false;
};

/// One block of keys and values with its queries.
struct placed_head {
  kernels::logit_arguments logits = {};
  kernels::value_arguments values = {};
  placed_rows key_rows;
  placed_rows value_rows;
  buffer bias;
  buffer mask;
  buffer key_positions;

  /// The instance of a kernel for these types.
  [[nodiscard]] kernel_name kernel(const device& on, const char* source) const {
    return {source, on.tiled(std::string(source) + "_fp32_" + std::string(name(key_rows.type)))};
  }
  /// The buffers of everything that logits are made of.
  [[nodiscard]] std::vector<binding> bindings(const placed_queries& queries) const {
    std::vector<binding> out = {{kernels::buffer_queries, &queries.rows},
                                {kernels::buffer_keys, &key_rows.memory}};
    const auto add = [&out](int index, const buffer& memory) {
      if (memory) out.push_back({index, &memory});
    };
    add(kernels::buffer_bias, bias);
    add(kernels::buffer_mask, mask);
    add(kernels::buffer_key_positions, key_positions);
    add(kernels::buffer_query_positions, queries.positions);
    add(kernels::buffer_slopes, queries.slopes);
    return out;
  }
};

/// Whether a kernel can read rows where they lie.
inline bool is_readable(const row_view& rows) noexcept {
  if (!rows.is_plain() || rows.empty()) return false;
  const dtype type = rows.type();
  if (type != dtype::fp32 && type != dtype::fp16 && type != dtype::bf16) return false;
  return reinterpret_cast<std::uintptr_t>(rows.data()) % size_of(type) == 0;
}

/// The rows where they lie; no buffer where that is refused (`share`).
inline placed_rows share_rows(device& on, const row_view& rows) {
  const auto size = static_cast<index_t>(size_of(rows.type()));
  const index_t down = (rows.rows() - 1) * rows.row_stride();
  const index_t across = (rows.cols() - 1) * rows.col_stride();
  const index_t low = std::min<index_t>(down, 0) + std::min<index_t>(across, 0);
  const index_t high = std::max<index_t>(down, 0) + std::max<index_t>(across, 0);
  const auto* begin = static_cast<const std::byte*>(rows.data()) + low * size;
  buffer memory = share(on, begin, (high - low + 1) * size);
  const index_t first = memory.first_byte / size - low;  // pages and rows are aligned to elements
  return {std::move(memory), rows.type(), first, rows.row_stride(), rows.col_stride()};
}

/// A copy of the rows as fp32; zeros for those that `bias` hides, which are not read.
inline result<placed_rows> copy_rows(device& on, const row_view& rows,
                                     std::span<const float> bias) {
  const index_t cols = rows.cols();
  auto memory = allocate_elements<float>(on, rows.rows() * cols);
  if (!memory) return memory.error();
  constexpr index_t piece = 32;
  for (index_t first = 0; first < rows.rows(); first += piece) {
    const index_t count = (std::min)(piece, rows.rows() - first);
    float* const to = memory->template as<float>() + first * cols;
    const float_tile tile = detail::load_visible_rows(rows, bias, first, count, to);
    for (index_t i = 0; tile.data != to && i < count; ++i) {
      std::copy_n(tile.data + i * tile.stride, cols, to + i * cols);
    }
  }
  return placed_rows{std::move(*memory), dtype::fp32, 0, cols, 1};
}

/// Whether every query block has as many rows, at the same even positions, as the first.
inline bool are_alike(std::span<const query_block> blocks) noexcept {
  return std::all_of(blocks.begin(), blocks.end(), [&](const query_block& block) {
    return block.positions.empty() && block.rows.rows() == blocks[0].rows.rows() &&
           block.first_position == blocks[0].first_position &&
           block.position_step == blocks[0].position_step;
  });
}

/// Copies n × d_k numbers, decoded to fp32, and where blocks differ 12 bytes a query besides.
inline result<placed_queries> place_queries(device& on, const query_set& queries,
                                            const logit_rule& rule) {
  const auto blocks = queries.blocks();
  const index_t depth = blocks[0].rows.cols();
  placed_queries out;
  out.count = queries.rows();
  auto rows = allocate_elements<float>(on, out.count * depth);
  if (!rows) return rows.error();
  out.rows = std::move(*rows);
  float* to = out.rows.as<float>();
  for (const query_block& block : blocks) {
    for (index_t i = 0; i < block.rows.rows(); ++i, to += depth) load_row(block.rows, i, to);
    out.has_slopes = out.has_slopes || block.alibi_slope != 0;
  }
  const bool alike = are_alike(blocks);
  if (alike) {
    out.block_rows = blocks[0].rows.rows();
    out.first_position = blocks[0].first_position;
    out.position_step = blocks[0].position_step;
  }
  const bool is_placed = rule.causal || rule.window > 0 || out.has_slopes;
  std::vector<std::int64_t> positions;
  std::vector<float> slopes;
  for (const query_block& block : blocks) {
    const index_t many = alike ? 1 : block.rows.rows();
    if (out.has_slopes)
      slopes.insert(slopes.end(), static_cast<std::size_t>(many), block.alibi_slope);
    for (index_t i = 0; !alike && is_placed && i < block.rows.rows(); ++i) {
      positions.push_back(block.position(i));
    }
  }
  if (!positions.empty()) {
    auto made = copy_of(on, std::span<const std::int64_t>(positions));
    if (!made) return made.error();
    out.positions = std::move(*made);
  }
  if (!slopes.empty()) {
    auto made = copy_of(on, std::span<const float>(slopes));
    if (!made) return made.error();
    out.slopes = std::move(*made);
  }
  return out;
}

/// One number a row of `placed_queries::block_rows` queries: of each block, or of each query.
inline std::vector<float> sinks_of(const query_set& queries, const placed_queries& placed) {
  std::vector<float> out;
  const bool alike = are_alike(queries.blocks()) && placed.block_rows > 0;
  for (const query_block& block : queries.blocks()) {
    out.insert(out.end(), static_cast<std::size_t>(alike ? 1 : block.rows.rows()),
               block.sink_logit);
  }
  return out;
}

/// Masks, n × T in fp32: a copy.
inline result<buffer> copy_masks(device& on, const kv_block& cache, const query_set& queries) {
  const index_t keys = cache.keys.rows();
  auto memory = allocate_elements<float>(on, queries.rows() * keys);
  if (!memory) return memory.error();
  float* to = memory->template as<float>();
  for (const row_view& mask : cache.masks) {
    for (index_t i = 0; i < mask.rows(); ++i, to += keys) load_row(mask, i, to);
  }
  return memory;
}

/// Keys and, if wanted, values: where they lie if kernels can read both there, else copies in fp32.
inline result<void> place_rows(device& on, const kv_block& cache, bool has_values,
                               placed_head& out) {
  const bool are_readable =
      is_readable(cache.keys) &&
      (!has_values || (is_readable(cache.values) && cache.values.type() == cache.keys.type()));
  if (are_readable) {
    out.key_rows = share_rows(on, cache.keys);
    if (has_values) out.value_rows = share_rows(on, cache.values);
    if (out.key_rows.memory && (!has_values || out.value_rows.memory)) return {};
  }
  auto keys = copy_rows(on, cache.keys, cache.bias);
  if (!keys) return keys.error();
  out.key_rows = std::move(*keys);
  if (!has_values) return {};
  auto values = copy_rows(on, cache.values, cache.bias);
  if (!values) return values.error();
  out.value_rows = std::move(*values);
  return {};
}

/// Inputs that were checked before, T and n below `largest_count`.
inline result<placed_head> place_head(device& on, const kv_block& cache, const query_set& queries,
                                      const placed_queries& placed, const logit_rule& rule,
                                      bool has_values) {
  placed_head out;
  if (const auto ok = place_rows(on, cache, has_values, out); !ok) return ok.error();
  const auto take = [](result<buffer> made, buffer& to) -> result<void> {
    if (!made) return made.error();
    to = std::move(*made);
    return {};
  };
  kernels::logit_arguments& logits = out.logits;
  const index_t depth = cache.keys.cols();
  if (!cache.bias.empty()) {
    if (const auto ok = take(copy_of(on, cache.bias), out.bias); !ok) return ok.error();
    logits.flags |= kernels::logit_bias;
  }
  if (!cache.masks.empty()) {
    if (const auto ok = take(copy_masks(on, cache, queries), out.mask); !ok) return ok.error();
    logits.flags |= kernels::logit_mask;
    logits.mask_row_stride = cache.keys.rows();
    logits.mask_block_stride = placed.block_rows * cache.keys.rows();
    logits.mask_col_stride = 1;
  }
  if (!cache.positions.empty()) {
    const std::vector<std::int64_t> positions(cache.positions.begin(), cache.positions.end());
    const auto ok = take(copy_of(on, std::span<const std::int64_t>(positions)), out.key_positions);
    if (!ok) return ok.error();
    logits.flags |= kernels::logit_key_positions;
  }
  if (rule.causal) logits.flags |= kernels::logit_causal;
  if (placed.positions) logits.flags |= kernels::logit_query_positions;
  if (placed.has_slopes) logits.flags |= kernels::logit_slopes;
  logits.query_block_stride = placed.block_rows * depth;
  logits.query_row_stride = depth;
  logits.query_col_stride = 1;
  logits.key_offset = out.key_rows.offset;
  logits.key_row_stride = out.key_rows.row_stride;
  logits.key_col_stride = out.key_rows.col_stride;
  logits.first_query_position = placed.first_position;
  logits.query_position_step = placed.position_step;
  logits.first_key_position = cache.first_position;
  logits.window = rule.window;
  logits.queries = static_cast<std::int32_t>(placed.count);
  logits.block_rows = static_cast<std::int32_t>(placed.block_rows);
  logits.keys = static_cast<std::int32_t>(cache.keys.rows());
  logits.depth = static_cast<std::int32_t>(depth);
  logits.scale = rule.scale.value_or(1.0F / std::sqrt(static_cast<float>(depth)));
  logits.soft_cap = rule.soft_cap;
  if (has_values) {
    out.values = {out.value_rows.offset, out.value_rows.row_stride, out.value_rows.col_stride,
                  static_cast<std::int32_t>(cache.values.cols()), 0};
  }
  return out;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
