// SPDX-License-Identifier: MIT
/// `rolling_cache`: the state of a cache that is compacted again and again while it is used.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/cache/position_runs.hpp"
#include "kvfit/cache/rolling_options.hpp"
#include "kvfit/cache/rolling_round.hpp"
#include "kvfit/cache/rolling_state.hpp"
#include "kvfit/cache/stack_round.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// Keeps, for one text, a compact block of its first `live_first()` rows and the positions of the
/// live rows behind it; the live rows themselves are the engine's. An engine attends over both:
///
///     attend(query, {roll.block()->layers[l].block(h), live[l][h]});
///
/// and compacts, whenever a round is due, in three steps of which only the middle one takes time:
///
///     roll.append(1);                                  // after each token decoded
///     if (roll.is_due() && !roll.is_busy()) {
///       auto round = roll.begin(live);                 // all live rows, as they lie
///       std::thread worker([&] { outcome.emplace(round->run(queries, pool)); });
///       ...                                            // decode on, append on
///       worker.join();
///       auto gone = roll.apply(*outcome);              // the block now has these rows
///       if (gone) drop_first_live_rows(gone->rows);    // those that came meanwhile stay live
///     }
///
/// A round takes the compact block and all live rows but the recent ones, and makes one block of
/// them. Old rows go into it with the biases they were fitted with, for these are part of their
/// attention mass (arXiv:2602.16284's recompaction with b_S + ln w; ln w alone forgets what the
/// rows stand for). The `sinks` visible rows
/// at the smallest positions stay as they are in every round.
///
/// Rows and positions are counted apart (`rolling_state`). What is compacted, protected, dropped or
/// taken back is counted in rows; positions are only where rows stand. They are given with the rows
/// and kept as given, in the block, too, several rows at one position included (M-RoPE):
///
///     roll.append(image_positions, next_position);     // 64 rows at one position, the next 8 on
///
/// Until `apply`, nothing changes; a round that failed, was cancelled or abandoned leaves block and
/// counts as they were. The object belongs to one thread; a round runs on any. Blocks are never
/// changed, only replaced: who holds `block()` may go on reading it.
class rolling_cache {
 public:
  /// Of an empty text. Errors: those of `check_rolling`.
  [[nodiscard]] static result<rolling_cache> make(rolling_options options) {
    if (const auto ok = check_rolling(options); !ok) return ok.error();
    return rolling_cache(std::move(options));
  }

  /// Of a text that was left as `saved` says; an empty one, with an empty block or none, too.
  /// Errors besides: `invalid_option` for counts that do not fit together, those of `check_layer`
  /// and `check_layer_order` for its block, `invalid_position` for a block with rows that are live
  /// or not in the text, or with keys that stand behind the next position; `shape_mismatch` where
  /// `live_positions` are not those of the live rows.
  [[nodiscard]] static result<rolling_cache> make(rolling_options options, rolling_state saved) {
    if (const auto ok = check_rolling(options); !ok) return ok.error();
    if (const auto ok = detail::check_saved(saved); !ok) return ok.error();
    rolling_cache restored(std::move(options));
    restored.now_ = std::move(saved);
    if (restored.now_.live_first == 0) restored.now_.block.reset();  // it has no rows
    return restored;
  }

  rolling_cache(rolling_cache&&) = default;
  rolling_cache& operator=(rolling_cache&&) = default;
  rolling_cache(const rolling_cache&) = delete;  // `fork` says what becomes of a round
  rolling_cache& operator=(const rolling_cache&) = delete;
  ~rolling_cache() { abandon(); }

  /// The same text once more, to go on otherwise: everything but a round under way. Shares the
  /// block; live rows are the engine's to copy.
  [[nodiscard]] rolling_cache fork() const {
    rolling_cache twin(options_);
    twin.now_ = now_;
    return twin;
  }

  [[nodiscard]] const rolling_options& options() const noexcept { return options_; }
  [[nodiscard]] const rolling_state& state() const noexcept { return now_; }
  /// Rows of the text, compacted or live.
  [[nodiscard]] index_t length() const noexcept { return now_.length; }
  /// Number of the first live row; all rows before it are in the block.
  [[nodiscard]] index_t live_first() const noexcept { return now_.live_first; }
  /// Where the next token stands.
  [[nodiscard]] index_t next_position() const noexcept { return now_.next_position; }
  /// Where the live rows stand, run after run.
  [[nodiscard]] std::span<const position_run> live_positions() const noexcept {
    return now_.live_positions;
  }
  [[nodiscard]] index_t live_rows() const noexcept { return now_.length - now_.live_first; }
  /// The compact block, or nothing before the first round.
  [[nodiscard]] const std::shared_ptr<const compacted_cache>& block() const noexcept {
    return now_.block;
  }
  /// Rows of a head, compact and live together, on average over heads; rounded up.
  [[nodiscard]] index_t rows() const noexcept {
    const index_t heads = block_heads();
    return live_rows() + (heads > 0 ? (now_.block->rows + heads - 1) / heads : 0);
  }
  /// Whether the trigger is reached and a round has something to take.
  [[nodiscard]] bool is_due() const noexcept {
    return rows() >= options_.trigger && live_rows() > options_.recent;
  }
  /// Whether a round was begun and neither applied nor abandoned.
  [[nodiscard]] bool is_busy() const noexcept { return under_way_ != nullptr; }

  /// `rows` more live rows, at the next position and those that follow it, one each; the next token
  /// then stands behind them.
  ///
  /// Errors, with nothing changed: `invalid_option` where `rows` is negative, or the text or its
  /// positions exceed 53 bits; `out_of_memory`.
  result<void> append(index_t rows) {
    const index_t most = detail::largest_position - (std::max)(now_.length, now_.next_position);
    if (rows < 0 || rows > most) {
      return error{errc::invalid_option, "rows", rows, most,
                   "must not be negative, and text and positions within 2^53"};
    }
    if (rows == 0) return {};
    return detail::catch_bad_alloc("append", [&]() -> result<void> {
      detail::add_run(now_.live_positions, {.first = now_.next_position, .rows = rows});
      now_.length += rows;
      now_.next_position += rows;
      return {};
    });
  }

  /// More live rows, at these positions, and where the token behind them stands: under M-RoPE the
  /// rows of an image share one, and the text goes on some positions further.
  ///
  /// positions: one a row, 0 … next_position, in any order, the same one several times. A part of
  /// an image leaves its own position the next. next_position: no less than before, within 53 bits.
  /// Errors, with nothing changed: `invalid_position` with the position at fault; `invalid_option`
  /// where the text exceeds 53 bits; `out_of_memory`. Memory: 24 bytes for each run of rows that
  /// share a position or follow each other by one.
  result<void> append(std::span<const index_t> positions, index_t next_position) {
    const auto rows = static_cast<index_t>(positions.size());
    const index_t most = detail::largest_position - now_.length;
    if (rows > most) {
      return error{errc::invalid_option, "rows", rows, most, "the text must stay within 2^53 rows"};
    }
    if (next_position < now_.next_position || next_position > detail::largest_position) {
      return error{
          errc::invalid_position, "next_position", next_position,
          next_position < now_.next_position ? now_.next_position : detail::largest_position,
          "must not be less than before, nor exceed 53 bits"};
    }
    for (std::size_t row = 0; row < positions.size(); ++row) {
      if (positions[row] >= 0 && positions[row] <= next_position) continue;
      return error{
          errc::invalid_position, "positions", positions[row], next_position,
          "row " + std::to_string(row) + ": must be at least 0 and not behind the next position"};
    }
    return detail::catch_bad_alloc("append", [&]() -> result<void> {
      std::vector<position_run> added;
      for (const index_t position : positions) {
        detail::add_run(added, {.first = position, .rows = 1});
      }
      std::vector<position_run>& runs = now_.live_positions;
      const std::size_t needed = runs.size() + added.size();
      if (needed > runs.capacity()) runs.reserve((std::max)(needed, 2 * runs.size()));
      for (const position_run& run : added) detail::add_run(runs, run);  // there is space
      now_.length += rows;
      now_.next_position = next_position;
      return {};
    });
  }

  /// Ends the text after `length` rows: the last live rows are gone. The next token then stands
  /// where the first of them stood, or at the highest position of the rows that stay, if that
  /// is more; where none is gone, at the same position as before. A round under way that has taken
  /// any of them is abandoned. `invalid_position` (with the first live row) where rows within the
  /// block would have to go: a fit can't be undone, so the text must be prefilled anew.
  result<void> truncate(index_t length) {
    if (const auto ok = check_length(length); !ok) return ok;
    end_after(length);
    return {};
  }

  /// The same, with the next token at `next_position`: where an engine goes on elsewhere, as within
  /// the rows of an image (a `cache_prefix`, whose keys all stand before it, can't then be made of
  /// what stays). `invalid_position` besides for one that is more than before, or less than that of
  /// a row that stays; `out_of_memory`.
  result<void> truncate(index_t length, index_t next_position) {
    if (const auto ok = check_length(length); !ok) return ok;
    if (next_position > now_.next_position) {
      return error{errc::invalid_position, "next_position", next_position, now_.next_position,
                   "a shorter text does not go on later"};
    }
    return detail::catch_bad_alloc("truncate", [&]() -> result<void> {
      auto runs = now_.live_positions;
      detail::keep_first_rows(runs, length - now_.live_first, 0);
      const index_t highest = (std::max)(detail::highest_position(runs), highest_of_block());
      if (next_position < highest || next_position < 0) {
        return error{errc::invalid_position, "next_position", next_position,
                     std::max<index_t>(highest, 0), "rows that stay stand behind it"};
      }
      end_after(length);
      now_.next_position = next_position;
      return {};
    });
  }

  /// Begins a text anew, with the same options; a round under way is abandoned.
  void clear() {
    abandon();
    now_ = {};
  }

  /// Asks a round under way to stop, and forgets it: its outcome will be refused. The rows that it
  /// took must stay until its `run` has returned.
  void abandon() noexcept {
    if (under_way_) under_way_->stop.request();
    under_way_.reset();
  }

  /// A round over the block and the live rows but the recent ones. `live`: the layers, each global
  /// head with its `live_rows()` rows from row `live_first()` on, with their biases; sliding layers
  /// are left alone. Positions are those given to `append`: a head that says where its rows stand,
  /// by a table or a first position other than 0, must say the same.
  ///
  /// Errors, with nothing changed: `invalid_option` where a round is under way or heads have masks;
  /// `empty_input` where all live rows are recent ones; `shape_mismatch` for heads of other lengths
  /// or widths than recorded, `invalid_position` for rows that stand elsewhere,
  /// `missing_entry` for a layer of the block that is not there; those of a recurrent layer. Cost:
  /// 12 bytes a row and head, and 8 a live row; no row is read.
  [[nodiscard]] result<rolling_round> begin(const cache_view& live) {
    return detail::catch_bad_alloc("begin", [&]() -> result<rolling_round> {
      if (is_busy()) {
        return error{errc::invalid_option, "round", error::none, error::none,
                     "another one is under way: apply or abandon it"};
      }
      const index_t count = live_rows() - options_.recent;
      if (count < 1) {
        return error{errc::empty_input, "live rows", live_rows(), options_.recent + 1,
                     "all are recent ones, which stay live"};
      }
      auto state = std::make_shared<detail::round_state>();
      state->before = now_.block;
      state->taken = {now_.live_first, count};
      state->options = options_.cache;
      const auto ok = detail::stack_round(live, live_rows(), now_.live_positions, *state);
      if (!ok) return ok.error();
      const auto heads = static_cast<index_t>(state->stacks.size());
      state->options.budget = heads * (options_.target - options_.recent);
      state->options.head.protect.first = options_.sinks;
      under_way_ = state;
      return rolling_round(std::move(state));
    });
  }

  /// Makes the outcome the compact block, at once or not at all, and ends the round. Returns the
  /// rows of the text that the block now has: the engine's first so many live rows, which must not
  /// be attended to any more. Rows that came since `begin` stay live behind it.
  ///
  /// Errors, with block and counts as they were: the outcome's own (the round is over; another may
  /// be begun); `cancelled` for the outcome of a round that was abandoned.
  result<chunk> apply(const rolling_outcome& outcome) {
    if (!is_busy() || outcome.of_ != under_way_) {
      return error{errc::cancelled, "round", error::none, error::none,
                   "it was abandoned, or applied before"};
    }
    const chunk taken = under_way_->taken;
    under_way_.reset();
    if (!outcome.cache()) return outcome.cache().error();
    now_.block = *outcome.cache();
    now_.live_first = end_of(taken);
    detail::drop_first_rows(now_.live_positions, taken.rows);
    return taken;
  }

 private:
  explicit rolling_cache(rolling_options options) : options_(std::move(options)) {}

  static index_t end_of(const chunk& part) noexcept { return part.first + part.rows; }

  [[nodiscard]] result<void> check_length(index_t length) const {
    if (length >= now_.live_first && length <= now_.length) return {};
    return error{errc::invalid_position, "length", length,
                 length > now_.length ? now_.length : now_.live_first,
                 length > now_.length ? "the text is no longer than that"
                                      : "rows of the compact block can't be taken back"};
  }

  /// Drops the rows from `length` on.
  void end_after(index_t length) noexcept {
    const index_t next =
        detail::keep_first_rows(now_.live_positions, length - now_.live_first, now_.next_position);
    now_.next_position =
        (std::max)({next, detail::highest_position(now_.live_positions), highest_of_block()});
    now_.length = length;
    if (is_busy() && length < end_of(under_way_->taken)) abandon();
  }

  [[nodiscard]] index_t highest_of_block() const noexcept {
    index_t highest = -1;
    if (!now_.block) return highest;
    for (const compacted_layer& layer : now_.block->layers) {
      for (const index_t position : layer.key_positions) highest = (std::max)(highest, position);
    }
    return highest;
  }

  [[nodiscard]] index_t block_heads() const noexcept {
    if (!now_.block) return 0;
    index_t heads = 0;
    for (const compacted_layer& layer : now_.block->layers) {
      heads += static_cast<index_t>(layer.heads.size());
    }
    return heads;
  }

  rolling_options options_;
  rolling_state now_;
  std::shared_ptr<detail::round_state> under_way_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit
