// SPDX-License-Identifier: MIT
/// What tokens are read over: for each layer and KV head the blocks that stand before them.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <iterator>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/attention/check.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/check_layer.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/cache/heads.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/queries/engine.hpp"
#include "kvfit/queries/live_cache.hpp"

namespace kvfit {

/// A cache to read on from, by reference: full rows, compact ones, or both one after the other.
/// Empty: the text begins. What the blocks refer to must outlive every use.
struct cache_prefix {
  /// [layer][KV head]: any number of blocks, none too. Every key stands before `positions`.
  std::vector<std::vector<std::vector<kv_block>>> blocks = {};
  index_t positions = 0;  ///< ≥ 0: where the first token read stands; no key is there or behind
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Rows first … first + count − 1 of a block without masks.
inline kv_block block_rows(const kv_block& block, index_t first, index_t count) noexcept {
  const auto start = static_cast<std::size_t>(first);
  const auto length = static_cast<std::size_t>(count);
  kv_block part = block;
  part.keys = block.keys.middle_rows(first, count);
  part.values = block.values.middle_rows(first, count);
  if (!block.bias.empty()) part.bias = block.bias.subspan(start, length);
  if (!block.positions.empty()) part.positions = block.positions.subspan(start, length);
  part.first_position += first;
  return part;
}

/// The first row of a block whose positions ascend that stands at `position` or later.
inline index_t first_row_from(const kv_block& block, index_t position) noexcept {
  if (block.positions.empty()) {
    return std::clamp<index_t>(position - block.first_position, 0, block.keys.rows());
  }
  const auto at = std::lower_bound(block.positions.begin(), block.positions.end(), position);
  return static_cast<index_t>(at - block.positions.begin());
}

/// The largest position of a visible key; less than any that may be, where there is none.
inline index_t last_position(const kv_block& block) noexcept {
  constexpr index_t none = (std::numeric_limits<index_t>::min)();
  const index_t rows = block.keys.rows();
  const bool may_hide = static_cast<index_t>(block.bias.size()) == rows;
  if (!may_hide && block.positions.empty()) return block.first_position + rows - 1;
  index_t last = none;
  const index_t places = block.positions.empty() ? rows : std::ssize(block.positions);
  for (index_t row = 0; row < places; ++row) {
    if (may_hide && row < rows && block.is_hidden(row)) continue;
    last = (std::max)(last, block.position(row));
  }
  return last;
}

/// Appends `block` without the rows that stand in [first, end). A block that can't be cut is
/// refused.
inline result<void> append_outside(const kv_block& block, index_t first, index_t end,
                                   std::vector<kv_block>& kept) {
  const index_t rows = block.keys.rows();
  const auto mismatch = [rows](const char* part, index_t found) {
    return error{errc::shape_mismatch, part, found, rows, "one for each row of the keys"};
  };
  if (block.values.rows() != rows) return mismatch("values", block.values.rows());
  const auto biases = static_cast<index_t>(block.bias.size());
  if (biases != 0 && biases != rows) return mismatch("bias", biases);
  const auto places = static_cast<index_t>(block.positions.size());
  if (places != 0 && places != rows) return mismatch("positions", places);
  if (const auto ok = check_positions(block); !ok) return ok;
  if (!block.masks.empty()) {
    return error{errc::invalid_option, "masks", error::none, error::none,
                 "blocks that tokens are read over have none"};
  }
  if (!std::is_sorted(block.positions.begin(), block.positions.end())) {
    return error{errc::invalid_position, "positions", error::none, error::none, "must ascend"};
  }
  const index_t before = first_row_from(block, first);
  const index_t after = (std::max)(before, first_row_from(block, end));
  if (before > 0) kept.push_back(block_rows(block, 0, before));
  if (after < block.keys.rows()) {
    kept.push_back(block_rows(block, after, block.keys.rows() - after));
  }
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// All rows of a cache that an engine has read, which must be as long in all layers (asserted).
inline cache_prefix prefix_of(const live_cache& cache) {
  cache_prefix all;
  for (index_t l = 0; l < cache.layers(); ++l) {
    assert(cache.rows(l) == cache.rows(0));
    all.positions = cache.first_position() + cache.rows(l);
    std::vector<std::vector<kv_block>> heads;
    for (index_t h = 0; h < cache.heads(l); ++h) heads.push_back({cache.block(l, h)});
    all.blocks.push_back(std::move(heads));
  }
  return all;
}

/// A cache of the caller's: its layer numbers are the engine's layers, and the next token stands at
/// `positions`. `invalid_option` where a number is no layer of `layers`, or does not ascend.
inline result<cache_prefix> prefix_of(const cache_view& cache, index_t layers, index_t positions) {
  return detail::catch_bad_alloc("prefix_of", [&]() -> result<cache_prefix> {
    cache_prefix all{.positions = positions};
    all.blocks.resize(static_cast<std::size_t>(std::max<index_t>(layers, 0)));
    index_t before = -1;
    for (const cache_layer& layer : cache.layers) {
      if (layer.number < 0 || layer.number >= layers) {
        return error{errc::invalid_option, "layer.number", layer.number, layers,
                     "must not be negative, and below the number of layers"};
      }
      if (layer.number <= before) {  // its heads would become those of the layer before
        return error{errc::invalid_option, "layer.number", layer.number, before + 1,
                     "layers must ascend"};
      }
      before = layer.number;
      for (const kv_block& head : layer.heads) {
        all.blocks[static_cast<std::size_t>(layer.number)].push_back({head});
      }
    }
    return all;
  });
}

/// Puts a compacted layer in the place of all its rows that stand in [first, end): from now on they
/// are never seen besides it. Rows outside (kept ones, and those that came later) stay.
///
/// Errors, with the prefix as it was: those of `check_layer`; `invalid_option` for a layer that is
/// not there, `shape_mismatch` for another number of heads or a block whose parts do not fit
/// together, `invalid_position` for a range that is none or
/// ends beyond the prefix, for positions that do not ascend and for a compact row outside the
/// range.
inline result<void> replace_rows(cache_prefix& prefix, const compacted_layer& layer, index_t first,
                                 index_t end) {
  if (const auto ok = check_layer(layer); !ok) return ok;
  const auto count = static_cast<index_t>(prefix.blocks.size());
  if (layer.number < 0 || layer.number >= count) {
    return error{errc::invalid_option, "layer.number", layer.number, count,
                 "must not be negative, and below the number of layers"};
  }
  if (first < 0 || end < first || end > prefix.positions) {
    return error{errc::invalid_position, "end", end, prefix.positions,
                 "rows from " + std::to_string(first)};
  }
  auto& heads = prefix.blocks[static_cast<std::size_t>(layer.number)];
  if (layer.offsets.size() != heads.size() + 1) {
    return error{errc::shape_mismatch, "offsets", static_cast<index_t>(layer.offsets.size()),
                 static_cast<index_t>(heads.size()) + 1, "one per head, and the end"};
  }
  return detail::catch_bad_alloc("replace_rows", [&]() -> result<void> {
    std::vector<std::vector<kv_block>> replaced(heads.size());
    for (std::size_t h = 0; h < heads.size(); ++h) {
      for (const kv_block& block : heads[h]) {
        const auto ok = detail::append_outside(block, first, end, replaced[h]);
        if (!ok) return ok.error();
      }
      const kv_block compact = layer.block(h);
      for (const index_t position : compact.positions) {
        if (position < first || position >= end) {
          return error{errc::invalid_position, "key_positions", position, end,
                       name(head_id{layer.number, static_cast<index_t>(h)}) +
                           ": a compact row outside the rows that are replaced"};
        }
      }
      if (layer.rows(h) > 0) replaced[h].push_back(compact);
    }
    heads = std::move(replaced);
    return {};
  });
}

/// `prefix` with every layer of `cache` in the place of the rows that stand in [first, end).
///
/// Errors: those of `replace_rows`.
inline result<cache_prefix> compacted_prefix(cache_prefix prefix, const compacted_cache& cache,
                                             index_t first, index_t end) {
  for (const compacted_layer& layer : cache.layers) {
    if (const auto ok = replace_rows(prefix, layer, first, end); !ok) return ok.error();
  }
  return prefix;
}

/// The same where all rows were compacted.
inline result<cache_prefix> compacted_prefix(cache_prefix prefix, const compacted_cache& cache) {
  const index_t end = prefix.positions;
  return compacted_prefix(std::move(prefix), cache, 0, end);
}

/// Refuses a prefix that an engine of these layers can't be read over: `shape_mismatch` for another
/// number of layers or heads or another width, `invalid_option` for masks or a negative length,
/// `invalid_position` for a key that stands where tokens are still to come; those of
/// `check_positions`. Cost: O(rows) where a
/// block has a table of positions; numbers are checked by `attend`.
inline result<void> check_prefix(const cache_prefix& prefix, std::span<const layer_shape> shapes) {
  if (prefix.positions < 0) {
    return error{errc::invalid_option, "prefix.positions", prefix.positions, 0,
                 "must not be negative"};
  }
  if (prefix.blocks.empty()) return {};
  if (prefix.blocks.size() != shapes.size()) {
    return error{errc::shape_mismatch, "prefix.blocks", static_cast<index_t>(prefix.blocks.size()),
                 static_cast<index_t>(shapes.size()), "one entry per layer"};
  }
  for (std::size_t l = 0; l < shapes.size(); ++l) {
    const auto& heads = prefix.blocks[l];
    const auto layer = static_cast<index_t>(l);
    if (heads.empty()) continue;
    if (static_cast<index_t>(heads.size()) != shapes[l].kv_heads) {
      return error{errc::shape_mismatch, "prefix.blocks", static_cast<index_t>(heads.size()),
                   shapes[l].kv_heads, "KV heads of layer " + std::to_string(l)};
    }
    for (std::size_t h = 0; h < heads.size(); ++h) {
      const auto here = [&] { return name(head_id{layer, static_cast<index_t>(h)}); };
      for (const kv_block& block : heads[h]) {
        if (!block.masks.empty()) {
          return error{errc::invalid_option, "masks", error::none, error::none,
                       here() + ": blocks that tokens are read over have none"};
        }
        if (block.keys.cols() != shapes[l].key_size) {
          return error{errc::shape_mismatch, "keys", block.keys.cols(), shapes[l].key_size, here()};
        }
        if (block.values.cols() != shapes[l].value_size) {
          return error{errc::shape_mismatch, "values", block.values.cols(), shapes[l].value_size,
                       here()};
        }
        if (const auto ok = check_positions(block); !ok) {
          error cause = ok.error();
          cause.detail = here();
          return cause;
        }
        const index_t last = detail::last_position(block);
        if (block.keys.rows() > 0 && last >= prefix.positions) {
          return error{errc::invalid_position, "positions", last, prefix.positions,
                       here() + ": a key stands where tokens are still to come"};
        }
      }
    }
  }
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
