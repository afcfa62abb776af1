// SPDX-License-Identifier: MIT
/// A text that grows: layers of made-up heads, of which any stretch can be shown as live rows.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "cache/cache_case.hpp"
#include "kvfit/attention/attend.hpp"
#include "kvfit/attention/compare.hpp"
#include "kvfit/cache/rolling.hpp"
#include "kvfit/parallel/serial.hpp"
#include "selection/heads.hpp"
#include "support/catch.hpp"

namespace kvfit_test {

/// Two global layers of two and one KV heads with different widths, two query heads each, and a
/// sliding layer between them.
struct growing_text {
  index_t rows;
  std::vector<std::vector<head>> layers;  ///< structured heads, see selection/heads.hpp
  kvfit::cache_queries queries;
  kvfit::cache_queries test_queries;

  explicit growing_text(index_t length, std::uint64_t seed = 1, index_t asked = 96) : rows(length) {
    layers.push_back({});
    layers.push_back({});
    for (std::uint64_t h = 0; h < 3; ++h) {
      const head_shape shape{.queries = 2 * asked, .keys = length, .depth = h < 2 ? 16 : 12};
      layers[h < 2 ? 0 : 1].push_back(make_head(10 * seed + h, shape));
    }
    for (std::size_t l = 0; l < 2; ++l) {
      const index_t number = l == 0 ? 1 : 4;
      kvfit::layer_queries fit{.layer = number, .heads = {}};
      kvfit::layer_queries test = fit;
      for (const head& one : layers[l]) {
        for (const index_t group : {0, 1}) {
          fit.heads.emplace_back(kvfit::row_view(one.queries).middle_rows(group * asked, asked));
          test.heads.emplace_back(
              kvfit::row_view(one.test_queries).middle_rows(group * asked, asked));
        }
      }
      queries.push_back(fit);
      test_queries.push_back(test);
    }
  }

  /// Tokens first … end − 1 as an engine's live rows.
  [[nodiscard]] kvfit::cache_view live(index_t first, index_t end) const {
    kvfit::cache_view view;
    for (std::size_t l = 0; l < 2; ++l) {
      kvfit::cache_layer layer{.number = l == 0 ? 1 : 4};
      for (const head& one : layers[l]) {
        layer.heads.push_back(
            {.keys = kvfit::row_view(one.keys).middle_rows(first, end - first),
             .values = kvfit::row_view(one.values).middle_rows(first, end - first)});
      }
      view.layers.push_back(std::move(layer));
      if (l == 0) view.layers.push_back({.number = 2, .kind = kvfit::layer_kind::sliding});
    }
    return view;
  }
  [[nodiscard]] kvfit::cache_view live(const kvfit::rolling_cache& roll) const {
    return live(roll.live_first(), roll.length());
  }

  /// Mean errors over heads of the block and the live rows behind it against all tokens up to
  /// `end`, on test queries.
  [[nodiscard]] kvfit::fidelity errors(const kvfit::compacted_cache& block, index_t live_first,
                                       index_t end) const {
    kvfit::fidelity mean;
    int heads = 0;
    for (std::size_t l = 0; l < 2; ++l) {
      for (std::size_t h = 0; h < layers[l].size(); ++h) {
        const auto asked = std::span(test_queries[l].heads).subspan(2 * h, 2);
        const auto rows_of = [&](index_t first, index_t last) -> kvfit::kv_block {
          const head& one = layers[l][h];
          return {.keys = kvfit::row_view(one.keys).middle_rows(first, last - first),
                  .values = kvfit::row_view(one.values).middle_rows(first, last - first)};
        };
        const auto full = kvfit::attend(asked, {rows_of(0, end)});
        std::vector<kvfit::kv_block> blocks = {block.layers[l].block(h)};
        if (live_first < end) blocks.push_back(rows_of(live_first, end));
        const auto small = kvfit::attend(asked, blocks);
        REQUIRE(full);
        REQUIRE(small);
        const auto own =
            kvfit::compare(full->output, full->log_mass, small->output, small->log_mass);
        mean.mass_error += own.mass_error;
        mean.output_error += own.output_error;
        ++heads;
      }
    }
    mean.mass_error /= heads;
    mean.output_error /= heads;
    return mean;
  }
};

/// Options whose rounds are quick.
inline kvfit::rolling_options quick_rounds(index_t trigger, index_t target) {
  kvfit::rolling_options options{.trigger = trigger, .target = target, .sinks = 3, .recent = 8};
  options.cache.head.selection = kvfit::selection::highest_attention{};
  options.cache.head.refine = {.steps = 0};
  return options;
}

inline kvfit::rolling_cache rolling_of(const kvfit::rolling_options& options) {
  auto roll = kvfit::rolling_cache::make(options);
  REQUIRE(roll);
  return std::move(*roll);
}

/// Appends up to `end` tokens and runs one round.
inline kvfit::chunk run_round(kvfit::rolling_cache& roll, const growing_text& text, index_t end) {
  REQUIRE(roll.append(end - roll.length()));
  const auto round = roll.begin(text.live(roll));
  INFO((round ? "" : round.error().message()));
  REQUIRE(round);
  const auto outcome = round->run(text.queries, kvfit::serial{});
  INFO((outcome.cache() ? "" : outcome.cache().error().message()));
  const auto gone = roll.apply(outcome);
  REQUIRE(gone);
  return *gone;
}

}  // namespace kvfit_test
