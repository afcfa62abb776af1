// SPDX-License-Identifier: MIT
/// What a round of a rolling cache reads: each head's compact rows, and live rows below them.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "kvfit/cache/check_cache.hpp"
#include "kvfit/cache/compacted_layers.hpp"
#include "kvfit/cache/position_runs.hpp"
#include "kvfit/cache/rolling_round.hpp"
#include "kvfit/cache/stacked_rows.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// The live rows of a round: how many, and where they stand.
struct live_rows {
  index_t rows = 0;
  std::span<const position_run> runs;
  std::vector<index_t> positions = {};  ///< of every row, once a head was found to be as long
};

/// A head that says where its rows stand must say what the rolling cache has recorded. Without a
/// table, a first position of 0 says nothing.
inline result<void> check_live_positions(const kv_block& live, std::span<const index_t> positions) {
  const auto rows = static_cast<index_t>(positions.size());
  if (live.positions.empty() && live.first_position == 0) return {};
  if (!live.positions.empty() && static_cast<index_t>(live.positions.size()) != rows) {
    return error{errc::shape_mismatch, "positions", static_cast<index_t>(live.positions.size()),
                 rows, "one number per key"};
  }
  for (index_t row = 0; row < rows; ++row) {
    const index_t told = positions[static_cast<std::size_t>(row)];
    if (live.position(row) == told) continue;
    return error{errc::invalid_position, "positions", live.position(row), told,
                 "live row " + std::to_string(row) + " was appended at another"};
  }
  return {};
}

/// Adds the stack of one head: its compact rows, and the live ones that the round takes.
inline result<void> stack_head(const kv_block& live, live_rows& of, const compacted_layer* before,
                               std::size_t head, round_state& state) {
  const index_t rows = of.rows;
  for (const row_view* view : {&live.keys, &live.values}) {
    const bool is_keys = view == &live.keys;
    if (view->rows() != rows) {
      return error{errc::shape_mismatch, is_keys ? "keys" : "values", view->rows(), rows,
                   "must be the live rows"};
    }
    const index_t width = is_keys ? (before ? before->keys.cols() : view->cols())
                                  : (before ? before->values.cols() : view->cols());
    if (view->cols() != width) {
      return error{errc::shape_mismatch, is_keys ? "keys" : "values", view->cols(), width,
                   "columns must equal those of the compact block"};
    }
  }
  if (!live.masks.empty()) {
    return error{errc::invalid_option, "masks", static_cast<index_t>(live.masks.size()), 0,
                 "single logits of rows that are gone can't be changed"};
  }
  if (!live.bias.empty() && static_cast<index_t>(live.bias.size()) != rows) {
    return error{errc::shape_mismatch, "bias", static_cast<index_t>(live.bias.size()), rows,
                 "one number per key"};
  }
  if (of.positions.empty()) of.positions = positions_of_rows(of.runs);
  if (const auto ok = check_live_positions(live, of.positions); !ok) return ok;
  const chunk& taken = state.taken;
  head_stack& stack = state.stacks.emplace_back();
  const index_t all = taken.rows + (before != nullptr ? before->rows(head) : 0);
  stack.bias.reserve(static_cast<std::size_t>(all));
  stack.positions.reserve(static_cast<std::size_t>(all));
  stack.keys.bottom = live.keys.middle_rows(0, taken.rows);
  stack.values.bottom = live.values.middle_rows(0, taken.rows);
  if (before != nullptr) {
    const kv_block block = before->block(head);
    stack.keys.top = block.keys;
    stack.values.top = block.values;
    stack.bias.assign(block.bias.begin(), block.bias.end());
    stack.positions.assign(block.positions.begin(), block.positions.end());
  }
  for (index_t row = 0; row < taken.rows; ++row) {
    stack.bias.push_back(live.bias.empty() ? 0.0F : live.bias[static_cast<std::size_t>(row)]);
    stack.positions.push_back(of.positions[static_cast<std::size_t>(row)]);
  }
  for (const stacked_rows* both : {&stack.keys, &stack.values}) {
    if (const auto view = stacked_view(*both); !view) return view.error();
  }
  return {};
}

/// The two parts as one block; `stacked_view` has accepted them.
inline kv_block stacked_block(const head_stack& stack) {
  return {.keys = *stacked_view(stack.keys),
          .values = *stacked_view(stack.values),
          .bias = stack.bias,
          .positions = stack.positions};
}

/// Fills in the round's view: every head's compact rows with those of the live ones below that it
/// takes. rows, runs: how many live rows there are, and where they stand.
inline result<void> stack_round(const cache_view& live, index_t rows,
                                std::span<const position_run> runs, round_state& state) {
  live_rows of{.rows = rows, .runs = runs};
  std::size_t of_block = 0;
  for (const cache_layer& layer : live.layers) {
    state.view.layers.push_back(layer);
    if (!is_compacted(layer, state.options.skip)) continue;
    const std::string where = "layer " + std::to_string(layer.number);
    const compacted_layer* before = nullptr;
    if (state.before) {
      const auto& layers = state.before->layers;
      if (of_block == layers.size() || layers[of_block].number != layer.number) {
        return error{errc::missing_entry, where, error::none, error::none,
                     "the compact block has other layers"};
      }
      before = &layers[of_block++];
      if (before->heads.size() != layer.heads.size()) {
        return error{errc::shape_mismatch, where + ": heads",
                     static_cast<index_t>(layer.heads.size()),
                     static_cast<index_t>(before->heads.size()), "as many as in the compact block"};
      }
    }
    for (std::size_t h = 0; h < layer.heads.size(); ++h) {
      const head_id id{layer.number, static_cast<index_t>(h)};
      const auto ok = stack_head(layer.heads[h], of, before, h, state);
      if (!ok) return in_head(ok.error(), id);
      state.view.layers.back().heads[h] = stacked_block(state.stacks.back());
    }
  }
  if (state.before && of_block != state.before->layers.size()) {
    return error{errc::missing_entry,
                 "layer " + std::to_string(state.before->layers[of_block].number), error::none,
                 error::none, "is in the compact block"};
  }
  if (state.stacks.empty()) {
    return error{errc::empty_input, "layers", 0, error::none, "no layer is to be compacted"};
  }
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
