// SPDX-License-Identifier: MIT
// What `compact_cache` makes, saved, restored and brought into another form.
#include <cstddef>
#include <vector>

#include "cache/cache_case.hpp"
#include "kvfit/cache/compact_cache.hpp"
#include "kvfit/cache/padded.hpp"
#include "kvfit/cache/shared_positions.hpp"
#include "kvfit/io/state.hpp"
#include "support/catch.hpp"

namespace {

/// Three layers, of which one is skipped, compacted to bf16; one head is left without rows, and
/// keys stand 100 positions on.
kvfit::compacted_cache compacted_to_bf16(kvfit_test::cache_case& made) {
  for (kvfit::cache_layer& layer : made.view.layers) {
    for (kvfit::kv_block& head : layer.heads) head.first_position = 100;
  }
  kvfit::cache_options options;
  options.head.selection = kvfit::selection::highest_attention{};
  options.head.storage.rows = kvfit::dtype::bf16;
  options.skip = {1};
  options.shares = kvfit::budgets::rows{{5, 0, 7, 9}};
  auto small = kvfit::compact_cache(made.view, made.queries, options);
  REQUIRE(small);
  return std::move(*small);
}

}  // namespace

TEST_CASE("a compacted cache that was saved comes back as it was", "[cache][saved]") {
  kvfit_test::cache_case made({{.number = 0}, {.number = 1}, {.number = 4, .rows = 80}});
  const auto small = compacted_to_bf16(made);
  REQUIRE(small.skipped == std::vector<kvfit::index_t>{1});
  const kvfit::state_info info{80, kvfit::dtype::bf16, kvfit::dtype::bf16};
  const auto saved = kvfit::write_state(small, info);
  REQUIRE(saved);
  const auto restored = kvfit::read_state(*saved);
  REQUIRE(restored);
  CHECK(kvfit_test::same_cache(restored->cache, small));
  CHECK(restored->cache.rows == 21);
  CHECK(restored->cache.rows_before == 288);
  CHECK(restored->cache.layers[0].heads[1].outcome == kvfit::head_outcome::empty);
  CHECK(restored->cache.layers[0].key_positions[0] == small.layers[0].positions[0] + 100);
  const auto again = kvfit::write_state(restored->cache, restored->info);
  REQUIRE(again);
  CHECK(*again == *saved);
}

TEST_CASE("layers of a restored cache take the forms that fresh ones do", "[cache][saved]") {
  kvfit_test::cache_case made({{.number = 0}, {.number = 1}, {.number = 4, .rows = 80}});
  const auto small = compacted_to_bf16(made);
  const auto saved = kvfit::write_state(small, {.next_position = 80,
                                                .key_storage = kvfit::dtype::bf16,
                                                .value_storage = kvfit::dtype::bf16});
  REQUIRE(saved);
  const auto restored = kvfit::read_state(*saved);
  REQUIRE(restored);
  const auto& queries = made.queries[2].heads;
  const kvfit::compact_options options;
  const auto fresh = kvfit::share_positions(made.view.layers[2], small.layers[1], queries, options);
  const auto later =
      kvfit::share_positions(made.view.layers[2], restored->cache.layers[1], queries, options);
  REQUIRE(fresh);
  REQUIRE(later);
  CHECK(kvfit_test::same_layer(*fresh, *later));
  const auto padded = kvfit::pad(restored->cache.layers[1]);
  REQUIRE(padded);
  CHECK(padded->length == 9);
}
