// SPDX-License-Identifier: MIT
/// `rolling_cache`: the book of a cache that is compacted again and again while it is used.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/cache/check_layer.hpp"
#include "kvfit/cache/rolling_options.hpp"
#include "kvfit/cache/rolling_round.hpp"
#include "kvfit/cache/stack_round.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/guarded.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {

/// What a rolling cache is in numbers and rows: to be saved, and to go on from.
struct rolling_state {
  std::shared_ptr<const compacted_cache> block;  ///< none before the first round
  index_t length = 0;                            ///< tokens of the text; the next one stands here
  index_t live_first = 0;                        ///< the first token that the live rows have
};

}  // namespace kvfit

namespace kvfit::inline KVFIT_ISA {

/// Keeps, for one text, a compact block of its first `live_first()` tokens and count of the live
/// rows behind it; the live rows themselves are the engine's. An engine attends over both:
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
/// rows stand for). The first `sinks` rows of the text stay as they are in every round. Positions
/// are those of the text, from 0, in every round: blocks' own positions are not looked at.
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

  /// Of a text that was left as `saved` says. Errors besides: `invalid_option` for counts that do
  /// not fit together, those of `check_layer` for its block, `invalid_position` for one
  /// with rows that are live or not in the text.
  [[nodiscard]] static result<rolling_cache> make(rolling_options options, rolling_state saved) {
    if (const auto ok = check_rolling(options); !ok) return ok.error();
    if (const auto ok = check_saved(saved); !ok) return ok.error();
    rolling_cache restored(std::move(options));
    restored.now_ = std::move(saved);
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
  /// Tokens of the text, compacted or live: the position of the next one.
  [[nodiscard]] index_t length() const noexcept { return now_.length; }
  /// The first token that live rows have; all before it are in the block.
  [[nodiscard]] index_t live_first() const noexcept { return now_.live_first; }
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

  /// `tokens` more live rows. `invalid_option` where that is negative or the text exceeds 53 bits.
  result<void> append(index_t tokens) {
    constexpr index_t largest = index_t{1} << 53U;
    if (tokens < 0 || tokens > largest - now_.length) {
      return error{errc::invalid_option, "tokens", tokens, largest - now_.length,
                   "must not be negative, and the text within 2^53 rows"};
    }
    now_.length += tokens;
    return {};
  }

  /// Ends the text after `length` tokens: the last live rows are gone. A round under way that has
  /// taken any of them is abandoned. `invalid_position` (with the first live token) where tokens
  /// within the block would have to go: a fit can't be undone, so the text must be prefilled anew.
  result<void> truncate(index_t length) {
    if (length < now_.live_first || length > now_.length) {
      return error{errc::invalid_position, "length", length,
                   length > now_.length ? now_.length : now_.live_first,
                   length > now_.length ? "the text is no longer than that"
                                        : "tokens of the compact block can't be taken back"};
    }
    now_.length = length;
    if (is_busy() && length < end_of(under_way_->taken)) abandon();
    return {};
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
  /// head with its `live_rows()` rows from token `live_first()` on; their positions are not looked
  /// at, their biases are; sliding layers are left alone.
  ///
  /// Errors, with nothing changed: `invalid_option` where a round is under way or heads have masks;
  /// `empty_input` where all live rows are recent ones; `shape_mismatch` for heads of other lengths
  /// or widths than the book says, `missing_entry` for a layer of the block that is not there;
  /// those of a recurrent layer. Cost: 12 bytes a row and head; no row is read.
  [[nodiscard]] result<rolling_round> begin(const cache_view& live) {
    return detail::guard_memory("begin", [&]() -> result<rolling_round> {
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
      if (const auto ok = detail::stack_round(live, live_rows(), *state); !ok) return ok.error();
      const auto heads = static_cast<index_t>(state->stacks.size());
      state->options.budget = heads * (options_.target - options_.recent);
      state->options.head.protect_first = options_.sinks;
      under_way_ = state;
      return rolling_round(std::move(state));
    });
  }

  /// Makes the outcome the compact block, at once or not at all, and ends the round. Returns the
  /// tokens whose live rows the block now has: the engine's first so many live rows, which must not
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
    return taken;
  }

 private:
  explicit rolling_cache(rolling_options options) : options_(std::move(options)) {}

  static index_t end_of(const chunk& part) noexcept { return part.first + part.rows; }

  static result<void> check_saved(const rolling_state& saved) {
    constexpr index_t largest = index_t{1} << 53U;
    if (saved.length < 0 || saved.length > largest) {
      return error{errc::invalid_option, "length", saved.length, largest,
                   "must not be negative, and within 2^53 rows"};
    }
    if (saved.live_first < 0 || saved.live_first > saved.length) {
      return error{errc::invalid_option, "live_first", saved.live_first, saved.length,
                   "must not be negative, and within the text"};
    }
    if ((saved.block != nullptr) != (saved.live_first > 0)) {
      return error{errc::invalid_option, "live_first", saved.live_first,
                   saved.block != nullptr ? 1 : 0,
                   saved.block != nullptr ? "must be at least 1: a block stands for rows before"
                                          : "must be 0: no block stands for rows before"};
    }
    if (saved.block == nullptr) return {};
    for (const compacted_layer& layer : saved.block->layers) {
      if (const auto ok = check_layer(layer); !ok) return ok;
      for (const auto* of : {&layer.positions, &layer.key_positions}) {
        for (const index_t position : *of) {
          if (position >= 0 && position < saved.live_first) continue;
          return error{errc::invalid_position, "block", position, saved.live_first,
                       "of layer " + std::to_string(layer.number) + ", beside live rows"};
        }
      }
    }
    return {};
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

}  // namespace kvfit::inline KVFIT_ISA
