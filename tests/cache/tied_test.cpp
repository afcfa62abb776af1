// SPDX-License-Identifier: MIT
// A whole cache whose values are columns of its keys: what is made of it stays that.
#include <bit>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "cache/cache_case.hpp"
#include "kvfit/cache/compact_cache.hpp"
#include "kvfit/cache/compact_pieces.hpp"
#include "kvfit/cache/padded.hpp"
#include "kvfit/cache/shared_positions.hpp"
#include "kvfit/cache/zero_bias_refit.hpp"
#include "kvfit/parallel/serial.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/presets.hpp"
#include "support/catch.hpp"

namespace {

using kvfit::index_t;

/// Values of six columns, which are the keys' from column 2 on.
kvfit_test::cache_case tied_cache() {
  kvfit_test::cache_case made({{.number = 0}, {.number = 3, .heads = 1, .rows = 90}}, 96);
  for (kvfit::cache_layer& layer : made.view.layers) {
    for (kvfit::kv_block& block : layer.heads) block.values = block.keys.middle_cols(2, 6);
  }
  return made;
}

kvfit::cache_options tied_cache_options(index_t budget) {
  kvfit::cache_options options{.budget = budget};
  options.head = kvfit::presets::tied(kvfit::presets::joint(1), 2);
  options.head.storage.rows = kvfit::dtype::bf16;
  options.head.queries.held_out = 0.125;
  return options;
}

template <class Layer>
bool is_tied_layer(const Layer& layer) {
  if (layer.values.cols() != 6 || layer.values.rows() == 0) return false;
  for (index_t j = 0; j < layer.values.rows(); ++j) {
    for (index_t k = 0; k < 6; ++k) {
      if (std::bit_cast<std::uint32_t>(layer.values(j, k)) !=
          std::bit_cast<std::uint32_t>(layer.keys(j, 2 + k))) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace

TEST_CASE("G: a tied cache stays tied through every form of its result", "[cache][tied]") {
  const auto made = tied_cache();
  const kvfit::cache_options options = tied_cache_options(40);
  kvfit::thread_pool pool(2);
  const auto small = kvfit::compact_cache(made.view, made.queries, options, pool);
  REQUIRE(small);
  REQUIRE(small->layers.size() == 2);
  bool has_moved = false;
  for (const kvfit::compacted_layer& layer : small->layers) {
    CHECK(is_tied_layer(layer));
    for (const auto& head : layer.heads) {
      has_moved = has_moved || head.report.refinement.kept_steps > 0;
    }
    const auto padded = kvfit::pad(layer, 8);
    REQUIRE(padded);
    CHECK(is_tied_layer(*padded));
  }
  CHECK(has_moved);
  const auto alone = kvfit::compact_cache(made.view, made.queries, options, kvfit::serial{});
  REQUIRE(alone);
  CHECK(kvfit_test::same_cache(*alone, *small));

  // Fits on rows that are given move both roles as well.
  const auto& asked = made.queries[0].heads;
  const auto shared =
      kvfit::share_positions(made.view.layers[0], small->layers[0], asked, options.head);
  REQUIRE(shared);
  CHECK(is_tied_layer(*shared));
  const auto unbiased =
      kvfit::refit_without_bias(made.view.layers[0], small->layers[0], asked, options.head);
  REQUIRE(unbiased);
  CHECK(is_tied_layer(*unbiased));
  CHECK(unbiased->bias.isZero(0));
  auto moving = options.head;
  moving.refine.steps = 8;
  const auto moved =
      kvfit::refit_without_bias(made.view.layers[0], small->layers[0], asked, moving);
  REQUIRE(moved);
  CHECK(is_tied_layer(*moved));
  CHECK(moved->bias.isZero(0));
}

TEST_CASE("G: a fallback to copies is tied, too", "[cache][tied]") {
  auto made = tied_cache();
  // No query sees a key of the first head.
  const kvfit::matrix nothing =
      kvfit::matrix::Constant(96, 64, -std::numeric_limits<float>::infinity());
  const std::vector<kvfit::row_view> masks = {nothing, nothing};
  made.view.layers[0].heads[0].masks = masks;
  kvfit::cache_options options = tied_cache_options(40);
  options.fallback = kvfit::head_fallback::copies;
  const auto small = kvfit::compact_cache(made.view, made.queries, options, kvfit::serial{});
  REQUIRE(small);
  CHECK(small->fallbacks == 1);
  for (const auto& layer : small->layers) CHECK(is_tied_layer(layer));
}

TEST_CASE("G: a head that is not tied is named before any is compacted", "[cache][tied]") {
  auto made = tied_cache();
  kvfit::matrix values = kvfit_test::random_matrix(90, 6, 99);
  made.view.layers[1].heads[0].values = values;
  const auto small =
      kvfit::compact_cache(made.view, made.queries, tied_cache_options(40), kvfit::serial{});
  REQUIRE_FALSE(small);
  CHECK(small.error().code == kvfit::errc::untied_values);
  CHECK(small.error().argument == "L3H0: values");
  CHECK(small.error().actual == 0);
  CHECK(small.error().expected == 0);
}

TEST_CASE("G: pieces whose move would turn tied values are refused", "[cache][tied][chunks]") {
  const auto made = tied_cache();
  kvfit::cache_options options = tied_cache_options(0);
  options.skip = {3};
  std::vector<kvfit::text_piece> pieces = {{.cache = made.view,
                                            .where = {0, 64},
                                            .place = 0,
                                            .position = 100,
                                            .budget = 20,
                                            .queries = made.queries}};
  const auto run = [&](index_t dims) {
    options.head.refine.rotation = kvfit::rope{.dims = dims};
    return kvfit::compact_pieces(std::span<const kvfit::text_piece>(pieces), options,
                                 kvfit::serial{});
  };
  for (const index_t dims : {index_t{4}, index_t{0}}) {
    const auto refused = run(dims);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == kvfit::errc::invalid_option);
    CHECK(refused.error().argument == "L0H0: tied_values_from");
  }
  // Columns that do not turn stay what they are; nor does a piece that stays turn any.
  const auto moved = run(2);
  REQUIRE(moved);
  CHECK(is_tied_layer(moved->cache.layers[0]));
  pieces[0].position.reset();
  const auto stays = run(0);
  REQUIRE(stays);
  CHECK(is_tied_layer(stays->cache.layers[0]));
}
