// SPDX-License-Identifier: MIT
#include <kvfit/cache/rolling.hpp>
#include <memory>
#include <optional>
#include <utility>

#include "call.hpp"
#include "convert.hpp"
#include "options.hpp"
#include "results.hpp"

struct kvfit_rolling {
  kvfit::rolling_cache own;
};

struct kvfit_round {
  kvfit::rolling_round own;
  std::optional<kvfit::rolling_outcome> outcome = {};
};

namespace {

using kvfit::errc;
using kvfit::result;

// Runs of positions that follow each other.
std::vector<kvfit::position_run> runs_of(const int64_t* positions, int64_t rows) {
  std::vector<kvfit::position_run> runs;
  for (int64_t i = 0; i < rows; ++i) {
    kvfit::detail::add_run(runs, {.first = positions[i], .rows = 1});
  }
  return runs;
}

}  // namespace

extern "C" {

int32_t kvfit_rolling_make(const kvfit_options* options, kvfit_rolling** out, kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(options, "options"); !ok) return ok;
    if (const auto ok = kvfit_c::need(out, "out"); !ok) return ok;
    auto made = kvfit::rolling_cache::make(kvfit_c::rolling_options_of(*options));
    if (!made) return made.error();
    *out = new kvfit_rolling{std::move(*made)};
    return {};
  });
}

int32_t kvfit_rolling_restore(const kvfit_options* options, const kvfit_cache* block,
                              int64_t length, int64_t live_first, int64_t next_position,
                              const int64_t* live_positions, kvfit_rolling** out,
                              kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(options, "options"); !ok) return ok;
    if (const auto ok = kvfit_c::need(out, "out"); !ok) return ok;
    constexpr int64_t largest = kvfit::detail::largest_position;
    for (const auto& [name, number] :
         {std::pair{"length", length}, std::pair{"live_first", live_first},
          std::pair{"next_position", next_position}}) {
      if (number >= 0 && number <= largest) continue;
      return kvfit::error{errc::invalid_option, name, number, largest,
                          "must not be negative, and within 2^53"};
    }
    kvfit::rolling_state saved;
    if (block != nullptr) saved.block = block->own;
    saved.length = length;
    saved.live_first = live_first;
    saved.next_position = next_position;
    if (length > live_first) {
      if (const auto ok = kvfit_c::need(live_positions, "live_positions"); !ok) return ok;
      for (int64_t i = 0; i < length - live_first; ++i) {
        if (live_positions[i] >= 0 && live_positions[i] <= next_position) continue;
        return kvfit::error{errc::invalid_position, "live_positions", live_positions[i],
                            next_position, "row " + std::to_string(i)};
      }
      saved.live_positions = runs_of(live_positions, length - live_first);
    }
    auto made = kvfit::rolling_cache::make(kvfit_c::rolling_options_of(*options), std::move(saved));
    if (!made) return made.error();
    *out = new kvfit_rolling{std::move(*made)};
    return {};
  });
}

int32_t kvfit_rolling_fork(const kvfit_rolling* rolling, kvfit_rolling** out, kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(rolling, "rolling"); !ok) return ok;
    if (const auto ok = kvfit_c::need(out, "out"); !ok) return ok;
    *out = new kvfit_rolling{rolling->own.fork()};
    return {};
  });
}

void kvfit_rolling_free(kvfit_rolling* rolling) {
  delete rolling;
}

int32_t kvfit_rolling_get(const kvfit_rolling* rolling, kvfit_rolling_state* state,
                          kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(rolling, "rolling"); !ok) return ok;
    const auto read = kvfit_c::read_struct(state, "state");
    if (!read) return read.error();
    const std::size_t size = state->struct_size;
    kvfit_rolling_state now{};
    now.struct_size = size;
    now.length = rolling->own.length();
    now.live_first = rolling->own.live_first();
    now.next_position = rolling->own.next_position();
    now.rows = rolling->own.rows();
    now.is_due = rolling->own.is_due() ? 1 : 0;
    now.is_busy = rolling->own.is_busy() ? 1 : 0;
    std::memcpy(state, &now, (std::min)(size, sizeof now));
    return {};
  });
}

int32_t kvfit_rolling_block(const kvfit_rolling* rolling, kvfit_cache** out, kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(rolling, "rolling"); !ok) return ok;
    if (const auto ok = kvfit_c::need(out, "out"); !ok) return ok;
    *out = rolling->own.block() ? new kvfit_cache(rolling->own.block()) : nullptr;
    return {};
  });
}

int32_t kvfit_rolling_live_positions(const kvfit_rolling* rolling, int64_t* positions,
                                     int64_t count, kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(rolling, "rolling"); !ok) return ok;
    const int64_t live = rolling->own.live_rows();
    if (count != live) {
      return kvfit::error{errc::shape_mismatch, "count", count, live, "one for each live row"};
    }
    if (count > 0) {
      if (const auto ok = kvfit_c::need(positions, "positions"); !ok) return ok;
    }
    int64_t at = 0;
    for (const kvfit::position_run& run : rolling->own.live_positions()) {
      for (int64_t i = 0; i < run.rows; ++i) positions[at++] = run.position(i);
    }
    return {};
  });
}

int32_t kvfit_rolling_append(kvfit_rolling* rolling, int64_t rows, const int64_t* positions,
                             int64_t next_position, kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(rolling, "rolling"); !ok) return ok;
    if (positions == nullptr) {
      if (next_position != 0) {
        return kvfit::error{errc::invalid_option, "next_position", next_position, 0,
                            "is given, but positions are not"};
      }
      return rolling->own.append(rows);
    }
    if (rows < 0) {
      return kvfit::error{errc::invalid_option, "rows", rows, 0, "must not be negative"};
    }
    return rolling->own.append(std::span(positions, static_cast<std::size_t>(rows)), next_position);
  });
}

int32_t kvfit_rolling_truncate(kvfit_rolling* rolling, int64_t length, kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(rolling, "rolling"); !ok) return ok;
    return rolling->own.truncate(length);
  });
}

void kvfit_rolling_clear(kvfit_rolling* rolling) {
  if (rolling != nullptr) rolling->own.clear();
}

void kvfit_rolling_abandon(kvfit_rolling* rolling) {
  if (rolling != nullptr) rolling->own.abandon();
}

int32_t kvfit_rolling_begin(kvfit_rolling* rolling, const kvfit_layer* live, size_t layer_count,
                            kvfit_round** out, kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(rolling, "rolling"); !ok) return ok;
    if (const auto ok = kvfit_c::need(out, "out"); !ok) return ok;
    kvfit_c::inputs in;
    const auto view = in.cache(live, layer_count);
    if (!view) return view.error();
    auto round = rolling->own.begin(*view);
    if (!round) return round.error();
    *out = new kvfit_round{std::move(*round)};
    return {};
  });
}

int32_t kvfit_round_run(kvfit_round* round, const kvfit_layer_queries* queries, size_t query_count,
                        const kvfit_call* call, kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(round, "round"); !ok) return ok;
    kvfit_c::inputs in;
    const auto asked = in.cache_queries(queries, query_count);
    if (!asked) return asked.error();
    auto how = kvfit_c::read_call(call, false, true);
    if (!how) return how.error();
    round->outcome.emplace(round->own.run(
        *asked, how->threads, {.progress = how->by.progress, .deadline = how->by.deadline}));
    if (!round->outcome->cache()) return round->outcome->cache().error();
    return {};
  });
}

void kvfit_round_cancel(const kvfit_round* round) {
  if (round != nullptr) round->own.cancel();
}

void kvfit_round_free(kvfit_round* round) {
  delete round;
}

int32_t kvfit_rolling_apply(kvfit_rolling* rolling, const kvfit_round* round, int64_t* rows,
                            kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(rolling, "rolling"); !ok) return ok;
    if (const auto ok = kvfit_c::need(round, "round"); !ok) return ok;
    if (!round->outcome) {
      return kvfit::error{errc::invalid_option, "round", kvfit::error::none, kvfit::error::none,
                          "has not run"};
    }
    const auto taken = rolling->own.apply(*round->outcome);
    if (!taken) return taken.error();
    if (rows != nullptr) *rows = taken->rows;
    return {};
  });
}

}  // extern "C"
