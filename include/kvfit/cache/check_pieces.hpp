// SPDX-License-Identifier: MIT
/// Refuses pieces that do not make one text, before any is compacted.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "kvfit/attention/check.hpp"
#include "kvfit/attention/row_order.hpp"
#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/check_cache.hpp"
#include "kvfit/cache/compacted_layers.hpp"
#include "kvfit/cache/queries_of_layer.hpp"
#include "kvfit/cache/rope.hpp"
#include "kvfit/cache/text_piece.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// The layers of a piece that are compacted.
inline std::vector<const cache_layer*> compacted_layers(const text_piece& piece,
                                                        const cache_options& options) {
  std::vector<const cache_layer*> layers;
  for (const cache_layer& layer : piece.cache.layers) {
    if (is_compacted(layer, options.skip)) layers.push_back(&layer);
  }
  return layers;
}

/// How the layer's keys were turned: as it says, or else the options.
inline std::optional<rope> rotation_of(const cache_layer& layer, const cache_options& options) {
  return layer.rotation ? layer.rotation : options.head.refine.rotation;
}

/// Positions that the piece's keys in this layer are moved by.
inline index_t distance_of(const text_piece& piece, const cache_layer& layer) {
  if (!piece.position) return 0;
  return *piece.position - layer.heads.front().position(piece.where.first);
}

/// `cause`, found in one piece, saying in which.
inline error in_piece(error cause, const text_piece& piece) {
  if (!cause.detail.empty()) cause.detail += "; ";
  cause.detail += "in the piece at row " + std::to_string(piece.place) + " of the text";
  return cause;
}

/// `invalid_position` where rows of a part of a block lie in another order than their positions: a
/// stretch of memory is then no stretch of the text. Sizes that do not fit are found elsewhere.
inline result<void> check_ascending(const kv_block& block, const chunk& where) {
  const auto rows = static_cast<std::size_t>(block.keys.rows());
  if (block.positions.size() != rows) return {};
  const auto first = static_cast<std::size_t>(where.first);
  const auto count = static_cast<std::size_t>(where.rows);
  kv_block part = block;
  part.keys = block.keys.middle_rows(where.first, where.rows);
  part.bias = block.bias.size() == rows ? block.bias.subspan(first, count) : block.bias.first(0);
  part.positions = block.positions.subspan(first, count);
  if (order_of(part).is_ascending) return {};
  return error{errc::invalid_position, "positions", error::none, error::none,
               "rows must lie in the order of the text, or no chunk is a part of it"};
}

/// What pieces have to do with each other, and what cutting and moving them needs.
class piece_check {
 public:
  piece_check(std::span<const text_piece> pieces, const cache_options& options)
      : pieces_(pieces), options_(options) {}

  [[nodiscard]] result<void> run() const {
    if (pieces_.empty()) return error{errc::empty_input, "pieces", 0, error::none, {}};
    const protection& protect = options_.head.protect;
    if (!protect.is_empty()) {
      return error{errc::invalid_option, "protect", (std::max)(protect.first, protect.last), 0,
                   "of chunks: what is to stay lies outside them"};
    }
    if (const auto* rows = options_.head.selection.get_if<selection::joint>();
        rows != nullptr && !rows->prior.empty()) {
      return error{errc::invalid_option, "joint.prior", static_cast<index_t>(rows->prior.size()), 0,
                   "of chunks: its factors are those of one cache's rows"};
    }
    if (std::holds_alternative<budgets::rows>(options_.shares)) {
      return error{errc::invalid_option, "shares", error::none, error::none,
                   "rows head by head are no plan for chunks, which have budgets of their own"};
    }
    const auto model = compacted_layers(pieces_.front(), options_);
    if (model.empty()) {
      return error{errc::empty_input, "layers", 0, error::none, "no layer is to be compacted"};
    }
    index_t end = pieces_.front().place;
    if (end < 0) return error{errc::invalid_position, "place", end, 0, "must not be negative"};
    for (const text_piece& piece : pieces_) {
      if (piece.place != end) {
        return in_piece({errc::invalid_position, "place", piece.place, end,
                         "must equal it: a piece follows the one before, or text would be lost"},
                        piece);
      }
      if (const auto ok = check_like(piece, model); !ok) return in_piece(ok.error(), piece);
      if (end > largest - piece.where.rows) {
        return in_piece({errc::invalid_position, "place", end, largest - piece.where.rows,
                         "the text must stay within 2^53 rows"},
                        piece);
      }
      end += piece.where.rows;
    }
    return {};
  }

 private:
  static constexpr index_t largest = index_t{1} << 53U;  // of rows and positions

  [[nodiscard]] result<void> check_like(const text_piece& piece,
                                        const std::vector<const cache_layer*>& model) const {
    if (const auto ok = check_part(piece.where, largest, "where"); !ok) return ok;
    if (piece.budget < 1) {
      return error{errc::budget_out_of_range, "budget", piece.budget, 1, "must be at least 1"};
    }
    if (const auto ok = check_query_layers(piece.cache, piece.queries); !ok) return ok;
    for (const cache_layer& layer : piece.cache.layers) {
      const bool is_skipped = std::find(options_.skip.begin(), options_.skip.end(), layer.number) !=
                              options_.skip.end();
      if (layer.kind == layer_kind::recurrent && !is_skipped) {
        return error{errc::invalid_option, "layer", layer.number, error::none,
                     "recurrent: it has no keys; leave it out or skip it"};
      }
    }
    const auto layers = compacted_layers(piece, options_);
    if (layers.size() != model.size()) {
      return error{errc::shape_mismatch, "layers", static_cast<index_t>(layers.size()),
                   static_cast<index_t>(model.size()), "pieces of one text have the same layers"};
    }
    for (std::size_t l = 0; l < layers.size(); ++l) {
      if (const auto ok = check_layer(piece, *layers[l], *model[l]); !ok) return ok;
    }
    return {};
  }

  [[nodiscard]] result<void> check_layer(const text_piece& piece, const cache_layer& layer,
                                         const cache_layer& model) const {
    const auto refuse = [&](const char* what, index_t found, index_t expected) {
      return error{errc::shape_mismatch, "layer " + std::to_string(layer.number) + ": " + what,
                   found, expected, "must be the same in all pieces"};
    };
    if (layer.number != model.number) return refuse("number", layer.number, model.number);
    if (layer.heads.empty() || layer.heads.size() != model.heads.size()) {
      return refuse("heads", static_cast<index_t>(layer.heads.size()),
                    static_cast<index_t>(model.heads.size()));
    }
    for (std::size_t h = 0; h < layer.heads.size(); ++h) {
      const kv_block& block = layer.heads[h];
      const head_id id{layer.number, static_cast<index_t>(h)};
      const kv_block& first = model.heads.front();
      if (block.keys.cols() != first.keys.cols()) {
        return refuse("d_k", block.keys.cols(), first.keys.cols());
      }
      if (block.values.cols() != first.values.cols()) {
        return refuse("d_v", block.values.cols(), first.values.cols());
      }
      if (const auto ok = check_block(block, piece.where); !ok) return in_head(ok.error(), id);
      if (const auto ok = check_ascending(block, piece.where); !ok) return in_head(ok.error(), id);
      if (!piece.position) continue;
      if (*piece.position < -largest || *piece.position > largest) {
        return error{errc::invalid_option, "position", *piece.position, largest,
                     "must not be farther from 0"};
      }
      if (const auto ok = check_positions(block); !ok) return in_head(ok.error(), id);
      if (block.position(piece.where.first) != layer.heads.front().position(piece.where.first)) {
        return error{errc::invalid_position, name(id) + ": position",
                     block.position(piece.where.first),
                     layer.heads.front().position(piece.where.first),
                     "must equal it: heads of one layer stand alike"};
      }
      if (distance_of(piece, layer) == 0) continue;
      const std::optional<rope> rotation = rotation_of(layer, options_);
      if (!rotation) {
        return error{errc::missing_entry, "layer " + std::to_string(layer.number) + ": rotation",
                     error::none, error::none,
                     "keys can't be moved without knowing how they were turned"};
      }
      const auto ok =
          check_move(*rotation, block.keys.rows(), block.keys.cols(), distance_of(piece, layer));
      if (!ok) return in_head(ok.error(), id);
      const index_t turned = rotation->dims == 0 ? block.keys.cols() : rotation->dims;
      if (options_.head.tied_values_from.value_or(turned) < turned) {
        return in_head({errc::invalid_option, "tied_values_from", *options_.head.tied_values_from,
                        turned, "keys that are moved would turn the values they hold"},
                       id);
      }
    }
    return {};
  }

  /// Enough of a block's sizes that a stretch of it can be cut out.
  static result<void> check_block(const kv_block& block, const chunk& where) {
    const index_t rows = block.keys.rows();
    if (const auto ok = check_part(where, rows, "where"); !ok) return ok;
    if (block.values.rows() != rows) {
      return error{errc::shape_mismatch, "values", block.values.rows(), rows,
                   "rows must equal the keys'"};
    }
    if (!block.bias.empty() && static_cast<index_t>(block.bias.size()) != rows) {
      return error{errc::shape_mismatch, "bias", static_cast<index_t>(block.bias.size()), rows,
                   "one number per key"};
    }
    if (!block.positions.empty() && static_cast<index_t>(block.positions.size()) != rows) {
      return error{errc::shape_mismatch, "positions", static_cast<index_t>(block.positions.size()),
                   rows, "one number per key"};
    }
    for (const row_view& mask : block.masks) {
      if (mask.cols() != rows) {
        return error{errc::shape_mismatch, "masks", mask.cols(), rows, "one column per key"};
      }
    }
    return {};
  }

  std::span<const text_piece> pieces_;
  const cache_options& options_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
