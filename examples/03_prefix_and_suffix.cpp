// SPDX-License-Identifier: MIT
// How an engine uses the result: a compacted fp16 prefix and the live tokens behind it, one
// attention.
#include <cstdio>
#include <cstdlib>
#include <kvfit/kvfit.hpp>
#include <vector>

int main() {
  constexpr kvfit::index_t tokens = 2048, live = 64, depth = 64, width = 64;
  std::srand(1);
  // The engine's own memory: fp16, keys and values of a token side by side.
  std::vector<kvfit::fp16> cache(static_cast<std::size_t>(tokens * (depth + width)));
  for (auto& x : cache) x = kvfit::to_fp16(kvfit::matrix::Random(1, 1)(0, 0));
  const kvfit::row_view keys(cache.data(), tokens, depth, depth + width);
  const kvfit::row_view values(cache.data() + depth, tokens, width, depth + width);
  const kvfit::matrix queries = kvfit::matrix::Random(512, depth) * 4;

  auto options = kvfit::compact_options{.budget = 128};
  options.protect.first = 4;  // attention sinks stay as they are
  options.storage.rows = kvfit::dtype::fp16;
  const auto prefix = kvfit::compact(keys, values, queries, options);
  if (!prefix) return 1;

  const kvfit::matrix live_keys = kvfit::matrix::Random(live, depth);
  const kvfit::matrix live_values = kvfit::matrix::Random(live, width);
  const kvfit::kv_block full{.keys = keys, .values = values};
  const kvfit::kv_block suffix{.keys = live_keys, .values = live_values};

  const auto before = kvfit::attend(queries, {full, suffix});
  const auto after = kvfit::attend(queries, {prefix->block(), suffix});
  if (!before || !after) return 1;
  const auto change =
      kvfit::compare(before->output, before->log_mass, after->output, after->log_mass);
  std::printf("2,048 tokens in 128 rows, 64 live ones beside: output error %.1f %%\n",
              100 * change.output_error);
}
