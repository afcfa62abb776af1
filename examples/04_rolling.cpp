// SPDX-License-Identifier: MIT
// A conversation that never ends in a cache that does: compacted again and again, while decoding
// goes on.
#include <cstdio>
#include <cstdlib>
#include <kvfit/cache/recent_queries.hpp>
#include <kvfit/cache/rolling.hpp>
#include <kvfit/kvfit.hpp>
#include <optional>
#include <thread>

int main() {
  constexpr kvfit::index_t tokens = 4096, depth = 64;
  std::srand(1);
  // What a model would make token by token: keys and values of one head, and its queries.
  const kvfit::matrix keys = kvfit::matrix::Random(tokens, depth);
  const kvfit::matrix values = kvfit::matrix::Random(tokens, depth);
  const kvfit::matrix queries = kvfit::matrix::Random(tokens, depth) * 3;
  const auto rows = [](const kvfit::matrix& all, kvfit::index_t first, kvfit::index_t end) {
    return kvfit::row_view(all).middle_rows(first, end - first);
  };
  const auto block = [&](kvfit::index_t first, kvfit::index_t end) {
    return kvfit::kv_block{.keys = rows(keys, first, end), .values = rows(values, first, end)};
  };

  auto roll =
      kvfit::rolling_cache::make({.trigger = 1024, .target = 384, .sinks = 4, .recent = 64});
  if (!roll) return 1;
  kvfit::recent_queries asked(512);
  std::optional<kvfit::rolling_round> round;
  std::optional<kvfit::rolling_outcome> outcome;
  std::thread worker;
  for (kvfit::index_t token = 0; token < tokens; ++token) {
    // Decoding: attend over roll->block() and the live rows, then keep the token's query and row.
    const kvfit::query_block query{rows(queries, token, token + 1), token};
    if (!asked.record(0, {&query, 1}) || !roll->append(1)) return 1;

    if (roll->is_due() && !roll->is_busy()) {
      const kvfit::cache_layer layer{.heads = {block(roll->live_first(), roll->length())}};
      auto begun = roll->begin({{layer}});
      auto last = asked.copy();
      if (!begun || !last) return 1;
      round = std::move(*begun);
      worker = std::thread([&, last = std::move(*last)] {
        outcome.emplace(round->run(last.queries, kvfit::serial{}));
      });
    }
    // An engine would ask whether the worker is done; here it gets the time of 100 tokens.
    if (roll->is_busy() && token + 1 - (round->taken().first + round->taken().rows) == 64 + 100) {
      worker.join();
      const auto gone = roll->apply(*outcome);
      if (!gone) return 1;
      std::printf("token %4d: rows %4d to %4d went into the block of %d\n", static_cast<int>(token),
                  static_cast<int>(gone->first), static_cast<int>(gone->first + gone->rows - 1),
                  static_cast<int>(roll->block()->rows));
    }
  }
  if (worker.joinable()) worker.join();

  const kvfit::query_block last_queries{rows(queries, tokens - 256, tokens)};
  const auto full = kvfit::attend(last_queries, {block(0, tokens)});
  const auto small = kvfit::attend(
      last_queries, {roll->block()->layers[0].block(0), block(roll->live_first(), tokens)});
  if (!full || !small) return 1;
  const auto errors = kvfit::compare(full->output, full->log_mass, small->output, small->log_mass);
  std::printf("%d tokens in %d rows: mass error %.1f %%\n", static_cast<int>(tokens),
              static_cast<int>(roll->rows()), 100 * errors.mass_error);
}
