// SPDX-License-Identifier: MIT
/// One KV head in emulated memory, and its logits, masses, weights and outputs in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "kvfit/metal/kernels/shared/attention_arguments.h"
#include "kvfit/metal/kernels/shared/tile_sizes.h"
#include "metal/emulator/emulator.hpp"
#include "metal/kernels/numbers.hpp"

namespace kernel_tests {

namespace kernels = kvfit::kernels;

/// What a head is made of; what is false or 0 is absent.
struct head_spec {
  int blocks = 1;
  int block_rows = 5;
  int keys = 40;
  int depth = 16;
  int width = 16;
  dtype query_type = dtype::fp32;
  dtype key_type = dtype::fp32;
  bool has_bias = false;  ///< every seventh key is then hidden by it
  bool has_mask = false;  ///< some of its numbers are −∞
  bool has_key_positions = false;
  bool has_query_positions = false;
  bool has_slopes = false;
  bool causal = false;
  bool keys_transposed = false;  ///< a column of keys and of values lies in one piece
  std::int64_t window = 0;
  std::int64_t first_query_position = 0;
  std::int64_t query_position_step = 1;
  std::int64_t first_key_position = 0;
  float scale = 0;  ///< 0: 1 / √depth
  float soft_cap = 0;
  double size = 1;  ///< of queries and keys
  unsigned seed = 1;
  unsigned query_seed = 7;
};

/// A head as it lies in memory. What belongs to no row is NaN, and so are keys and values of hidden
/// rows: reading them would show.
struct head {
  head_spec spec;
  matrix queries;  ///< n × d_k
  matrix keys;     ///< T × d_k
  matrix values;   ///< T × d_v
  std::vector<float> bias;
  matrix mask;  ///< n × T
  std::vector<std::int64_t> key_positions;
  std::vector<std::int64_t> query_positions;
  std::vector<float> slopes;
  kernels::logit_arguments logits{};
  kernels::value_arguments value_rule{};
  std::optional<buffer> query_memory;
  std::optional<buffer> key_memory;
  std::optional<buffer> value_memory;
  std::optional<buffer> bias_memory;
  std::optional<buffer> mask_memory;
  std::optional<buffer> key_position_memory;
  std::optional<buffer> query_position_memory;
  std::optional<buffer> slope_memory;

  [[nodiscard]] int rows() const { return spec.blocks * spec.block_rows; }
  [[nodiscard]] bool is_hidden(int key) const {
    return spec.has_bias && std::isinf(bias[static_cast<std::size_t>(key)]);
  }
  [[nodiscard]] std::int64_t query_position(int r) const {
    return spec.has_query_positions
               ? query_positions[static_cast<std::size_t>(r)]
               : spec.first_query_position + spec.query_position_step * (r % spec.block_rows);
  }
  [[nodiscard]] std::int64_t key_position(int j) const {
    return spec.has_key_positions ? key_positions[static_cast<std::size_t>(j)]
                                  : spec.first_key_position + j;
  }

  /// s_rj in double, from the rule as `kvfit::logit_rule` states it.
  [[nodiscard]] double logit(int r, int j) const {
    if (is_hidden(j)) return -infinity;
    double product = 0;
    for (int c = 0; c < spec.depth; ++c) product += queries(r, c) * keys(j, c);
    double s = product * static_cast<double>(logits.scale);
    const auto cap = static_cast<double>(spec.soft_cap);
    if (cap > 0) s = cap * std::tanh(s / cap);
    if (spec.has_bias) s += static_cast<double>(bias[static_cast<std::size_t>(j)]);
    if (spec.has_mask) s += mask(r, j);
    const std::int64_t back = query_position(r) - key_position(j);
    if ((spec.causal && back < 0) || (spec.window > 0 && back >= spec.window)) return -infinity;
    if (spec.has_slopes) {
      s -= static_cast<double>(slopes[static_cast<std::size_t>(r / spec.block_rows)]) *
           static_cast<double>(back);
    }
    return s;
  }

  explicit head(const head_spec& of);

  /// Binds what every kernel that makes logits reads.
  void bind(metal_emulator::call& to) {
    to.memory(kernels::buffer_queries, *query_memory).memory(kernels::buffer_keys, *key_memory);
    const auto optional = [&](bool has, int index, std::optional<buffer>& memory) {
      has ? to.memory(static_cast<unsigned>(index), *memory)
          : to.absent(static_cast<unsigned>(index));
    };
    optional(spec.has_bias, kernels::buffer_bias, bias_memory);
    optional(spec.has_mask, kernels::buffer_mask, mask_memory);
    optional(spec.has_key_positions, kernels::buffer_key_positions, key_position_memory);
    optional(spec.has_query_positions, kernels::buffer_query_positions, query_position_memory);
    optional(spec.has_slopes, kernels::buffer_slopes, slope_memory);
    to.absent(kernels::buffer_rows);
  }

  /// NAME_QUERIES_KEYS, with the ending of the tiles.
  [[nodiscard]] std::string kernel(const std::string& name, const std::string& tiles) const {
    return name + "_" + name_of(spec.query_type) + "_" + name_of(spec.key_type) + tiles;
  }
};

/// A buffer of NaN, whatever its type, that kernels may only read.
inline buffer poisoned(std::int64_t bytes) {
  buffer out(static_cast<std::size_t>(bytes));
  for (std::byte& b : out.as<std::byte>()) b = std::byte{0xFF};
  out.read_only();
  return out;
}

/// Rows of a matrix in memory, all with a distance between them that belongs to nothing.
struct row_layout {
  std::int64_t offset;
  std::int64_t row_stride;
  std::int64_t col_stride;
  std::int64_t elements;

  row_layout(int rows, int cols, bool transposed, std::int64_t gap)
      : offset(gap),
        row_stride(transposed ? 1 : cols + gap),
        col_stride(transposed ? rows + gap : 1),
        elements(offset + (transposed ? col_stride * cols : row_stride * rows)) {}
};

inline head::head(const head_spec& of) : spec(of) {
  std::mt19937 draw(spec.seed);
  std::mt19937 draw_queries(spec.query_seed);
  const int n = rows();
  queries = random_matrix(draw_queries, n, spec.depth, spec.size, spec.query_type);
  keys = random_matrix(draw, spec.keys, spec.depth, spec.size, spec.key_type);
  values = random_matrix(draw, spec.keys, spec.width, 1, spec.key_type);
  logits.scale = spec.scale != 0 ? spec.scale : 1.0F / std::sqrt(static_cast<float>(spec.depth));
  logits.soft_cap = spec.soft_cap;
  logits.queries = n;
  logits.block_rows = spec.block_rows;
  logits.keys = spec.keys;
  logits.depth = spec.depth;
  logits.window = spec.window;
  logits.first_query_position = spec.first_query_position;
  logits.query_position_step = spec.query_position_step;
  logits.first_key_position = spec.first_key_position;
  logits.flags = (spec.causal ? kernels::logit_causal : 0U) |
                 (spec.has_bias ? kernels::logit_bias : 0U) |
                 (spec.has_mask ? kernels::logit_mask : 0U) |
                 (spec.has_key_positions ? kernels::logit_key_positions : 0U) |
                 (spec.has_query_positions ? kernels::logit_query_positions : 0U) |
                 (spec.has_slopes ? kernels::logit_slopes : 0U);

  for (int j = 0; spec.has_bias && j < spec.keys; ++j) {
    const float x = static_cast<float>(draw() % 1000) / 500.0F - 1.0F;
    bias.push_back(j % 7 == 3 ? -std::numeric_limits<float>::infinity() : x);
  }
  if (spec.has_mask) {
    mask = random_matrix(draw, n, spec.keys);
    for (double& x : mask.numbers) x = draw() % 5 == 0 ? -infinity : x;
  }
  for (int j = 0; spec.has_key_positions && j < spec.keys; ++j) {
    key_positions.push_back(spec.first_key_position + (j * 7) % spec.keys);
  }
  for (int r = 0; spec.has_query_positions && r < n; ++r) {
    query_positions.push_back(spec.first_query_position + (r * 5) % (n + 3));
  }
  for (int b = 0; spec.has_slopes && b < spec.blocks; ++b) {
    slopes.push_back(0.03F * static_cast<float>(b + 1));
  }

  // Memory.
  const row_layout q(n, spec.depth, false, 3);
  constexpr std::int64_t block_gap = 11;  // between query heads
  query_memory.emplace(poisoned((q.elements + block_gap * spec.blocks) *
                                static_cast<std::int64_t>(bytes_of(spec.query_type))));
  logits.query_offset = q.offset;
  logits.query_row_stride = q.row_stride;
  logits.query_col_stride = q.col_stride;
  logits.query_block_stride = q.row_stride * spec.block_rows + block_gap;
  for (int r = 0; r < n; ++r) {
    const std::int64_t row = q.offset + logits.query_block_stride * (r / spec.block_rows) +
                             q.row_stride * (r % spec.block_rows);
    for (int c = 0; c < spec.depth; ++c)
      put(*query_memory, spec.query_type, row + c, queries(r, c));
  }
  const auto lay_out = [&](const matrix& from, std::optional<buffer>& to) {
    const row_layout lie(from.rows, from.cols, spec.keys_transposed, 5);
    to.emplace(poisoned(lie.elements * static_cast<std::int64_t>(bytes_of(spec.key_type))));
    for (int j = 0; j < from.rows; ++j) {
      for (int c = 0; c < from.cols && !is_hidden(j); ++c) {
        put(*to, spec.key_type, lie.offset + lie.row_stride * j + lie.col_stride * c, from(j, c));
      }
    }
    return lie;
  };
  const row_layout k = lay_out(keys, key_memory);
  logits.key_offset = k.offset;
  logits.key_row_stride = k.row_stride;
  logits.key_col_stride = k.col_stride;
  const row_layout v = lay_out(values, value_memory);
  value_rule = {v.offset, v.row_stride, v.col_stride, spec.width, 0};

  const auto copy_to = [&](const auto& from, std::optional<buffer>& to, std::int64_t& offset) {
    using number = typename std::decay_t<decltype(from)>::value_type;
    offset = 2;
    to.emplace(poisoned(static_cast<std::int64_t>((from.size() + 2) * sizeof(number))));
    for (std::size_t i = 0; i < from.size(); ++i) to->as<number>()[i + 2] = from[i];
  };
  copy_to(bias, bias_memory, logits.bias_offset);
  copy_to(key_positions, key_position_memory, logits.key_position_offset);
  copy_to(query_positions, query_position_memory, logits.query_position_offset);
  copy_to(slopes, slope_memory, logits.slope_offset);
  if (spec.has_mask) {
    const row_layout m(n, spec.keys, false, 1);
    mask_memory.emplace(poisoned((m.elements + spec.blocks) * 4));
    logits.mask_offset = m.offset;
    logits.mask_row_stride = m.row_stride;
    logits.mask_col_stride = m.col_stride;
    logits.mask_block_stride = m.row_stride * spec.block_rows + 1;
    for (int r = 0; r < n; ++r) {
      const std::int64_t row = m.offset + logits.mask_block_stride * (r / spec.block_rows) +
                               m.row_stride * (r % spec.block_rows);
      for (int j = 0; j < spec.keys; ++j) {
        if (!is_hidden(j)) put(*mask_memory, dtype::fp32, row + j, mask(r, j));
      }
    }
  }
}

}  // namespace kernel_tests
