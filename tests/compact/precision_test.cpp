// SPDX-License-Identifier: MIT
// Compaction from a score pass of fewer bits.
#include "compact/entry_point.hpp"
#include "kvfit/presets.hpp"
#include "support/catch.hpp"

using namespace kvfit_test;
using kvfit::compact_options;
using kvfit::precision_kind;

TEST_CASE("precision reaches the score pass of a composition, and costs what it says",
          "[compact][precision]") {
  const head made = make_head(4, {.queries = 400, .keys = 500, .depth = 32, .width = 24});
  const kvfit::kv_block cache = made.cache();
  const kvfit::query_set queries(made.queries);
  const auto name = GENERATE("highest_attention", "default");
  INFO(name);
  compact_options options = kvfit::presets::find(name)->make(40);
  CHECK(options.precision == precision_kind::fp32);
  const auto exact = compacted_head(cache, queries, options);
  const double error = errors_of(queries, cache, exact.block()).output_error;
  for (const auto& [precision, more] :
       {std::pair(precision_kind::bf16x3, 1.002), std::pair(precision_kind::bf16, 1.05)}) {
    options.precision = precision;
    const auto fitted = compacted_head(cache, queries, options);
    check_sound(fitted, cache, 40);
    CHECK_FALSE(same_result(fitted, exact));
    CHECK(errors_of(queries, cache, fitted.block()).output_error <= more * error);
    CHECK(same_result(compacted_head(cache, queries, options), fitted));
  }
  options.precision = static_cast<precision_kind>(7);
  const auto refused = try_compact(cache, queries, options);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == kvfit::errc::invalid_option);
  CHECK(refused.error().argument == "precision");
}
