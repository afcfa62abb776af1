// SPDX-License-Identifier: MIT
// Values that are columns of the keys (MLA, K = V): one vector for both stays one vector.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "compact/entry_point.hpp"
#include "kvfit/attention/attend.hpp"
#include "kvfit/compact/memory_plan.hpp"
#include "kvfit/core/element.hpp"
#include "kvfit/core/random.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/presets.hpp"
#include "kvfit/view/store.hpp"
#include "kvfit/view/writable_view.hpp"
#include "support/catch.hpp"
#include "support/dense.hpp"

using namespace kvfit_test;
using kvfit::compact_options;
using kvfit::compacted;
using kvfit::errc;

namespace {

/// A head whose values are columns of its keys, seen as they lie in them.
struct tied_head {
  tied_head(std::uint64_t seed, const head_shape& shape, index_t first_column)
      : made(make_head(seed, shape)), first(first_column), width(shape.width) {}

  [[nodiscard]] kvfit::kv_block cache() const {
    return {.keys = made.keys, .values = kvfit::row_view(made.keys).middle_cols(first, width)};
  }

  head made;
  index_t first;
  index_t width;
};

constexpr head_shape tied_shape{.queries = 320, .keys = 96, .depth = 16, .width = 12};

compact_options tied_options(index_t budget, index_t first) {
  compact_options options{.budget = budget};
  options.tied_values_from = first;
  options.queries.held_out = 0.125;
  return options;
}

/// Every value is its key's number, bit for bit.
bool stays_tied(const compacted& of, index_t first) {
  for (index_t j = 0; j < of.values.rows(); ++j) {
    for (index_t k = 0; k < of.values.cols(); ++k) {
      if (std::bit_cast<std::uint32_t>(of.values(j, k)) !=
          std::bit_cast<std::uint32_t>(of.keys(j, first + k))) {
        return false;
      }
    }
  }
  return true;
}

/// What a call says of its error.
kvfit::error refusal_of(const kvfit::kv_block& cache, const head& made,
                        const compact_options& options) {
  const auto fitted = try_compact(cache, made.queries, options);
  REQUIRE_FALSE(fitted);
  return fitted.error();
}

}  // namespace

TEST_CASE("G: tied values stay the keys' columns, bit for bit", "[compact][tied]") {
  const index_t first = GENERATE(index_t{0}, index_t{4});
  const tied_head of(1, tied_shape, first);
  for (const auto type : {kvfit::dtype::fp32, kvfit::dtype::fp16, kvfit::dtype::bf16,
                          kvfit::dtype::fp8_e4m3, kvfit::dtype::fp8_e5m2}) {
    for (const std::optional<int> steps : {std::optional<int>{}, std::optional<int>{0}}) {
      CAPTURE(first, kvfit::name(type), steps.value_or(-1));
      compact_options options = tied_options(12, first);
      options.storage.rows = options.storage.bias = type;
      options.refine.steps = steps;
      options.protect.first = 2;
      options.protect.last = 1;
      const auto fitted = try_compact(of.cache(), of.made.queries, options);
      REQUIRE(fitted);
      REQUIRE(fitted->positions.size() == 12);
      if (type == kvfit::dtype::fp32) check_sound(*fitted, of.cache(), 12);  // keys unrounded
      CHECK(stays_tied(*fitted, first));
      CHECK_FALSE(fitted->report.is_values_fitted);
      bool is_stored = true;
      for (index_t j = 0; j < 12; ++j) {
        for (index_t k = 0; k < 16; ++k) {
          const float x = fitted->keys(j, k);
          is_stored = is_stored && kvfit::as_stored(x, type) == x;
        }
      }
      CHECK(is_stored);
      if (steps) CHECK(fitted->report.refinement.steps == 0);
      if (!steps) CHECK(fitted->report.refinement.steps > 0);
    }
  }
  // What nobody asked to tie is fitted, and no longer is the keys'.
  const compacted untied = compacted_head(of.cache(), of.made.queries, {.budget = 12});
  CHECK_FALSE(stays_tied(untied, first));
  // The identity and a copied fit of any selection are tied, too.
  compact_options whole = tied_options(96, first);
  whole.storage.rows = kvfit::dtype::fp16;
  CHECK(stays_tied(compacted_head(of.cache(), of.made.queries, whole), first));
  compact_options copied = tied_options(12, first);
  copied.values = kvfit::values::copy{};
  copied.selection = kvfit::selection::highest_attention{};
  CHECK(stays_tied(compacted_head(of.cache(), of.made.queries, copied), first));
}

TEST_CASE("G: tied refinement is judged and never worse than its start", "[compact][tied]") {
  int moved = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    for (const double held_out : {0.125, 0.0}) {
      for (const auto type : {kvfit::dtype::fp32, kvfit::dtype::bf16}) {
        CAPTURE(seed, held_out, kvfit::name(type));
        const tied_head of(seed, tied_shape, 2);
        compact_options options = tied_options(10, 2);
        options.queries.held_out = held_out;
        options.storage.rows = type;
        options.refine.steps = 0;
        const compacted rows = compacted_head(of.cache(), of.made.queries, options);
        options.refine.steps = 24;
        const compacted refined = compacted_head(of.cache(), of.made.queries, options);
        CHECK(refined.positions == rows.positions);
        CHECK(stays_tied(refined, 2));
        const auto judged = [](const compacted& c) {
          return c.report.held_out ? *c.report.held_out : c.report.train;
        };
        const kvfit::fidelity now = judged(refined);
        const kvfit::fidelity before = judged(rows);
        // What is judged is what is returned: to the bit, for nothing is fitted afterwards.
        CHECK(now.output_error <= before.output_error);
        CHECK(now.mass_error <= before.mass_error);
        CHECK(refined.report.refinement.start.output_error == before.output_error);
        CHECK(refined.report.refinement.start.mass_error == before.mass_error);
        if (refined.report.refinement.kept_steps == 0) {
          CHECK(same_result(refined, rows));
        } else {
          ++moved;
          CHECK(now.output_error * std::sqrt(now.mass_error) <
                before.output_error * std::sqrt(before.mass_error));
        }
      }
    }
  }
  CHECK(moved >= 18);  // of 24
}

TEST_CASE("G: tied vectors that moved do better than rows on queries never seen",
          "[compact][tied]") {
  double better = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const tied_head of(seed, {.queries = 900, .keys = 256, .depth = 16, .width = 12}, 0);
    compact_options options = tied_options(16, 0);
    options.refine.steps = 0;
    const compacted rows = compacted_head(of.cache(), of.made.queries, options);
    options.refine.steps.reset();
    const compacted refined = compacted_head(of.cache(), of.made.queries, options);
    const auto error = [&](const compacted& c) {
      return errors_of(of.made.test_queries, of.cache(), c.block()).output_error;
    };
    better += std::log(error(refined) / error(rows)) / 6;
  }
  CHECK(std::exp(better) < 0.85);
}

TEST_CASE("G: values that are not the keys' are refused with row and column", "[compact][tied]") {
  const tied_head of(3, tied_shape, 4);
  kvfit::matrix values = of.made.keys.middleCols(4, 12);
  const kvfit::kv_block copied{.keys = of.made.keys, .values = values};
  const compact_options options = tied_options(10, 4);
  REQUIRE(try_compact(copied, of.made.queries, options));  // a copy is as good as a view

  values(95, 11) = std::nextafter(values(95, 11), 10.0F);
  kvfit::error cause = refusal_of(copied, of.made, options);
  CHECK(cause.code == errc::untied_values);
  CHECK(cause.argument == "values");
  CHECK(cause.actual == 95);
  CHECK(cause.expected == 11);
  values(40, 3) += 1.0F;  // the first counts
  cause = refusal_of(copied, of.made, options);
  CHECK(cause.actual == 40);
  CHECK(cause.expected == 3);
  CHECK(cause.message() ==
        "untied_values: values: 40, column 3 (not the key's number in column 7)");

  // Another column of the same keys.
  cause = refusal_of(of.cache(), of.made, tied_options(10, 3));
  CHECK(cause.code == errc::untied_values);
  // Not even the identity hides it.
  CHECK(refusal_of(copied, of.made, tied_options(96, 4)).code == errc::untied_values);
}

TEST_CASE("G: a zero's sign is a bit like any other", "[compact][tied]") {
  tied_head of(4, tied_shape, 0);
  of.made.keys(7, 5) = 0.0F;
  kvfit::matrix values = of.made.keys.leftCols(12);
  values(7, 5) = -0.0F;
  const kvfit::error cause =
      refusal_of({.keys = of.made.keys, .values = values}, of.made, tied_options(10, 0));
  CHECK(cause.code == errc::untied_values);
  CHECK(cause.actual == 7);
  CHECK(cause.expected == 5);
}

TEST_CASE("G: options that contradict tied values are refused by name", "[compact][tied]") {
  const tied_head of(5, tied_shape, 0);
  const auto refused = [&](const compact_options& options, const char* argument) {
    const kvfit::error cause = refusal_of(of.cache(), of.made, options);
    CHECK(cause.code == errc::invalid_option);
    CHECK(cause.argument == argument);
    // The estimate refuses the same.
    const auto plan = kvfit::planned_memory(kvfit::sizes_of(of.cache(), of.made.queries), options);
    REQUIRE_FALSE(plan);
    CHECK(plan.error().message() == cause.message());
    return cause;
  };
  kvfit::error cause = refused(tied_options(10, 5), "tied_values_from");
  CHECK(cause.actual == 5);
  CHECK(cause.expected == 4);
  refused(tied_options(10, -1), "tied_values_from");

  compact_options options = tied_options(10, 0);
  options.values = kvfit::values::least_squares{.reweightings = 3};
  refused(options, "values, tied_values_from");
  options.values = kvfit::values::copy{};
  options.gradient = kvfit::gradient_keys{};
  refused(options, "gradient, tied_values_from");
  options.gradient = {};
  CHECK(try_compact(of.cache(), of.made.queries, options));

  // Values wider than keys lie nowhere in them.
  const kvfit::matrix wide = kvfit::matrix::Zero(96, 17);
  const kvfit::error wider =
      refusal_of({.keys = of.made.keys, .values = wide}, of.made, tied_options(10, 0));
  CHECK(wider.code == errc::invalid_option);
  CHECK(wider.expected == -1);
}

TEST_CASE("G: the policy of values says nothing where they are tied", "[compact][tied]") {
  const tied_head of(6, tied_shape, 0);
  compact_options options = tied_options(10, 0);
  const compacted by_default = compacted_head(of.cache(), of.made.queries, options);
  options.values = kvfit::values::copy{};
  CHECK(same_result(compacted_head(of.cache(), of.made.queries, options), by_default));
  options.keep_better_values = false;
  CHECK(same_result(compacted_head(of.cache(), of.made.queries, options), by_default));
  const compact_options preset = kvfit::presets::tied(kvfit::presets::refined(10), 0);
  CHECK(preset.tied_values_from == 0);
  CHECK(stays_tied(compacted_head(of.cache(), of.made.queries, preset), 0));
}

TEST_CASE("G: without steps tied rows are copies under a fitted bias", "[compact][tied]") {
  const tied_head of(7, tied_shape, 0);
  compact_options options = tied_options(10, 0);
  options.refine.steps = 0;
  const compacted rows = compacted_head(of.cache(), of.made.queries, options);
  CHECK(rows.report.is_bias_fitted);
  CHECK(rows.bias.cwiseAbs().maxCoeff() > 0.1F);
  for (index_t j = 0; j < 10; ++j) {
    CHECK(rows.keys.row(j) == of.made.keys.row(rows.positions[static_cast<std::size_t>(j)]));
  }
  // The same as copied values that nobody tied.
  compact_options copied = options;
  copied.tied_values_from.reset();
  copied.values = kvfit::values::copy{};
  CHECK(same_result(compacted_head(of.cache(), of.made.queries, copied), rows));
}

TEST_CASE("G: tied results are the same bytes at any number of threads", "[compact][tied]") {
  const tied_head of(8, {.queries = 700, .keys = 300, .depth = 32, .width = 24}, 0);
  compact_options options = kvfit::presets::tied(kvfit::presets::joint(24), 0);
  options.refine.sets = 2;
  options.refine.sets_at_once = 1;
  const auto alone = try_compact(of.cache(), of.made.queries, options);
  REQUIRE(alone);
  CHECK(alone->report.refinement.kept_steps > 0);
  for (const unsigned threads : {2U, 3U}) {
    kvfit::thread_pool pool(threads);
    const auto shared = try_compact(of.cache(), of.made.queries, options, {}, pool);
    REQUIRE(shared);
    CHECK(same_result(*shared, *alone));
  }
}

TEST_CASE("G: a vector too big for its storage is an error, tied or not", "[compact][tied]") {
  tied_head of(10, tied_shape, 0);
  of.made.keys.col(15).setZero();
  of.made.keys.col(0) *= 1e6F;  // beyond fp16
  of.made.queries.col(0).setZero();
  compact_options options = tied_options(10, 0);
  options.storage.rows = kvfit::dtype::fp16;
  const kvfit::error cause = refusal_of(of.cache(), of.made, options);
  CHECK(cause.code == errc::storage_overflow);
  CHECK(cause.argument == "keys");
}

TEST_CASE("G: DeepSeek's shape: 16 query heads on one latent of 576, values its first 512",
          "[compact][tied][mla]") {
  constexpr index_t rows = 160;
  constexpr index_t depth = 576;
  constexpr index_t width = 512;
  constexpr index_t heads = 16;
  constexpr index_t asked = 24;  // queries a head
  // Latents of low rank, as a projection leaves them, and what the rotation adds.
  const kvfit::matrix basis = random_matrix(12, depth, 1, 0.4F);
  const kvfit::matrix latents = oracle::product_in_float(random_matrix(rows, 12, 2), basis) +
                                random_matrix(rows, depth, 3, 0.1F);
  // As an engine has it: one tensor in fp16, values a view of its first columns.
  std::vector<kvfit::fp16> memory(static_cast<std::size_t>(rows * depth));
  const kvfit::row_view keys(kvfit::row_memory{.data = memory.data(),
                                               .type = kvfit::dtype::fp16,
                                               .rows = rows,
                                               .cols = depth,
                                               .row_stride = depth});
  REQUIRE(kvfit::store_rows(latents, kvfit::writable_view(keys)));
  const kvfit::kv_block cache{.keys = keys, .values = keys.middle_cols(0, width)};
  std::vector<kvfit::matrix> asking;
  std::vector<kvfit::matrix> unseen;
  for (index_t h = 0; h < heads; ++h) {
    const auto seed = static_cast<std::uint64_t>(10 + h);
    const kvfit::matrix turn = random_matrix(12, 12, seed, 0.2F);
    const kvfit::matrix head_basis = oracle::product_in_float(turn, basis);
    asking.push_back(oracle::product_in_float(random_matrix(asked, 12, seed + 100), head_basis));
    unseen.push_back(oracle::product_in_float(random_matrix(asked, 12, seed + 200), head_basis));
  }
  const std::vector<kvfit::query_block> blocks(asking.begin(), asking.end());
  const std::vector<kvfit::query_block> test(unseen.begin(), unseen.end());
  const std::span<const kvfit::query_block> queries(blocks);

  compact_options options = kvfit::presets::tied(kvfit::presets::joint(16), 0);
  options.rule.scale = 1 / std::sqrt(192.0F);  // of the 128 + 64 columns before absorption
  options.storage.rows = kvfit::dtype::fp16;
  const compacted fitted = compacted_head(cache, queries, options);
  CHECK(fitted.keys.cols() == depth);
  CHECK(fitted.values.cols() == width);
  CHECK(stays_tied(fitted, 0));
  CHECK(fitted.report.refinement.steps > 0);

  // Stored back where the latents were, the cache is what was fitted: one tensor for both.
  REQUIRE(kvfit::store_rows(fitted.keys, kvfit::writable_view(keys.middle_rows(0, 16))));
  const std::span<const float> bias(fitted.bias.data(), 16);
  const kvfit::row_view small = keys.middle_rows(0, 16);
  const kvfit::kv_block stored{.keys = small, .values = small.middle_cols(0, width), .bias = bias};
  const std::span<const kvfit::query_block> judging(test);
  const auto from_result = kvfit::attend(judging, {fitted.block()}, options.rule);
  const auto from_memory = kvfit::attend(judging, {stored}, options.rule);
  REQUIRE(from_result);
  REQUIRE(from_memory);
  CHECK((from_result->output - from_memory->output).cwiseAbs().maxCoeff() <= 1e-6F);
}
