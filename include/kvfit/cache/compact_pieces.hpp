// SPDX-License-Identifier: MIT
/// `compact_pieces()`: a text whose chunks were prefilled one by one, as one compact cache.
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/attention/check.hpp"
#include "kvfit/cache/assemble.hpp"
#include "kvfit/cache/check_pieces.hpp"
#include "kvfit/cache/compact_cache.hpp"
#include "kvfit/cache/rope.hpp"
#include "kvfit/cache/stack_layers.hpp"
#include "kvfit/cache/text_piece.hpp"
#include "kvfit/compact/exact_rows.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/progress.hpp"
#include "kvfit/parallel/stop.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Pieces of one text on their way into one compact cache.
template <class E>
class piece_compaction {
 public:
  piece_compaction(std::span<const text_piece> pieces, const cache_options& options, E& how,
                   const watch& by)
      : pieces_(pieces), options_(options), how_(how), by_(by) {}

  result<compacted_text> run() {
    if (const auto ok = piece_check(pieces_, options_).run(); !ok) return ok.error();
    for (const cache_layer* layer : compacted_layers(pieces_.front(), options_)) {
      heads_ += static_cast<index_t>(layer->heads.size());
    }
    fitted_ = std::count_if(pieces_.begin(), pieces_.end(),
                            [this](const text_piece& piece) { return !is_kept(piece); });
    for (const text_piece& piece : pieces_) {
      if (const auto ok = check_stop(by_.stop(), "pieces"); !ok) return in_piece(ok.error(), piece);
      auto part = is_kept(piece) ? keep(piece) : fit(piece);
      if (!part) return in_piece(part.error(), piece);
      if (const auto ok = place(piece, *part); !ok) return in_piece(ok.error(), piece);
      add(piece, std::move(*part));
    }
    return finish();
  }

 private:
  [[nodiscard]] bool is_kept(const text_piece& piece) const {
    return piece.budget >= heads_ * piece.where.rows;
  }

  result<std::vector<compacted_layer>> fit(const text_piece& piece) {
    std::deque<block_slice> slices;  // views of masks are theirs
    cache_view part;
    cache_queries queries;  // of the layers in the part
    for (const cache_layer* layer : compacted_layers(piece, options_)) {
      part.layers.push_back(*layer);
      for (const layer_queries& asked : piece.queries) {
        if (asked.layer == layer->number) queries.push_back(asked);
      }
      for (kv_block& block : part.layers.back().heads) {
        block = slices.emplace_back(block, piece.where.first, piece.where.rows).block();
      }
    }
    auto options = options_;
    options.budget = piece.budget;
    options.skip.clear();  // those layers are not in the part
    watch by = by_;
    if (by_.progress) {
      by.progress = [this](index_t done, index_t) {
        by_.progress(done_ * heads_ + done, fitted_ * heads_);
      };
    }
    auto fitted = compact_cache(part, queries, options, how_, by);
    if (!fitted) return fitted.error();
    ++done_;
    return std::move(fitted->layers);
  }

  /// All rows of a piece as they are, rounded to storage.
  result<std::vector<compacted_layer>> keep(const text_piece& piece) {
    std::vector<compacted_layer> part;
    for (const cache_layer* layer : compacted_layers(piece, options_)) {
      std::vector<compacted_head> heads;
      for (std::size_t h = 0; h < layer->heads.size(); ++h) {
        const head_id id{layer->number, static_cast<index_t>(h)};
        kv_block bare = layer->heads[h];
        bare.masks = {};
        const block_slice slice(bare, piece.where.first, piece.where.rows);
        const kv_block& block = slice.block();
        if (const auto ok = check_cache(block, {}); !ok) return in_head(ok.error(), id);
        compacted_head& head = heads.emplace_back();
        const auto ok =
            take_exact(block, visible_rows_of(block, order_of(block)), options_.head.storage.rows,
                       options_.head.storage.bias, head.rows);
        if (!ok) return in_head(ok.error(), id);
        for (const index_t row : head.rows.positions) {
          head.rows.key_positions.push_back(block.position(row));
        }
        head.report.id = id;
        head.report.rows_before = piece.where.rows;
        head.report.rows = static_cast<index_t>(head.rows.positions.size());
        head.report.outcome = head_outcome::identity;
        head.report.report.is_identity = true;
      }
      part.push_back(stack_heads(heads));
    }
    return part;
  }

  /// Keys to where the text has them, row numbers to those of the text.
  result<void> place(const text_piece& piece, std::vector<compacted_layer>& part) {
    const auto layers = compacted_layers(piece, options_);
    for (std::size_t l = 0; l < part.size(); ++l) {
      for (index_t& row : part[l].positions) row += piece.place;
      const index_t distance = distance_of(piece, *layers[l]);
      if (distance == 0) continue;
      const auto ok = move_keys(part[l], *rotation_of(*layers[l], options_), distance,
                                options_.head.storage.rows);
      if (!ok) return ok;
    }
    return {};
  }

  void add(const text_piece& piece, std::vector<compacted_layer> part) {
    piece_report& report = reports_.emplace_back();
    report.where = {piece.place, piece.where.rows};
    parts_.resize(part.size());
    for (std::size_t l = 0; l < part.size(); ++l) {
      report.heads.insert(report.heads.end(), part[l].heads.begin(), part[l].heads.end());
      parts_[l].push_back(std::move(part[l]));
    }
  }

  compacted_text finish() {
    compacted_text out;
    out.pieces = std::move(reports_);
    for (std::vector<compacted_layer>& parts : parts_) {
      out.cache.layers.push_back(stack_layers(parts));
      parts = {};
      for (const head_report& head : out.cache.layers.back().heads) {
        out.cache.rows_before += head.rows_before;
        out.cache.rows += head.rows;
        out.cache.fallbacks += head.outcome == head_outcome::fallback ? 1 : 0;
      }
    }
    for (const cache_layer& layer : pieces_.front().cache.layers) {
      if (!is_compacted(layer, options_.skip)) out.cache.skipped.push_back(layer.number);
    }
    return out;
  }

  std::span<const text_piece> pieces_;
  const cache_options& options_;
  E& how_;
  const watch& by_;
  index_t heads_ = 0;                                // compacted, of one piece
  index_t fitted_ = 0;                               // pieces that do not stay as they are
  index_t done_ = 0;                                 // of these
  std::vector<std::vector<compacted_layer>> parts_;  // layer by layer
  std::vector<piece_report> reports_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// Text-based chunks: each piece is fitted alone, as its own prefill has it, then its keys are
/// turned to where the text has them, and all are put one under the other (arXiv:2602.16284,
/// chunked compaction). Fitting before turning costs nothing, as queries and keys of one prefill
/// would turn alike.
///
/// pieces: in the order of the text, each following the one before it, so that no text is lost;
/// prefix and suffix are pieces with a budget of all their rows. A piece may lie in a prefill with
/// a prefix or suffix of its own, which is not used. Sliding layers are left as they are.
/// options: budget, protected rows and `budgets::rows` have no meaning here; the limits hold for
/// each piece. Rotation: `cache_layer::rotation`, or else `options.head.refine.rotation`.
///
/// Errors, before anything is compacted: `invalid_position` where a piece does not follow or ends
/// beyond 2⁵³ rows, a head stands elsewhere than its layer or its rows lie in another order than
/// their positions; `shape_mismatch`; `missing_entry` where keys must be moved and no rotation is
/// known; `invalid_option`, for queries of a layer that a piece does not have and where keys must
/// be moved that hold tied values in columns that turn, among others. On the way those of
/// `compact_cache`, with the rows of the text in the detail: a chunk that no query sees is one,
/// unless `options.fallback` says otherwise; `cancelled`, where `by` has it checked before each
/// piece and within its heads. Then nothing is returned. Same input, same bytes, at any number of
/// threads. Cost: that of the pieces, one after the other, their heads on the executor's threads;
/// holds the result, once more that of one layer, and what `compact_cache` holds of one piece.
template <executor E>
[[nodiscard]] result<compacted_text> compact_pieces(std::span<const text_piece> pieces,
                                                    const cache_options& options, E&& how,
                                                    const watch& by = {}) {
  return detail::catch_bad_alloc(
      "compact_pieces", [&] { return detail::piece_compaction(pieces, options, how, by).run(); });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
