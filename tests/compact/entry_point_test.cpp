// SPDX-License-Identifier: MIT
#include <array>
#include <new>
#include <span>
#include <string_view>
#include <vector>

#include "compact/entry_point.hpp"
#include "kvfit/attention/attend.hpp"
#include "kvfit/attention/compare.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/parallel/external_executor.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/presets.hpp"
#include "support/catch.hpp"

namespace kvfit_test {

kvfit::result<kvfit::compacted> try_compact(const kvfit::kv_block& cache,
                                            const kvfit::query_set& queries,
                                            const kvfit::compact_options& options,
                                            const kvfit::stop_when& stop,
                                            const kvfit::executor_ref& threads) {
  return kvfit::compact(cache, queries, options, stop, threads);
}

kvfit::compacted compacted_head(const kvfit::kv_block& cache, const kvfit::query_set& queries,
                                const kvfit::compact_options& options) {
  auto fitted = kvfit::compact(cache, queries, options);
  INFO((fitted ? "fitted" : fitted.error().message()));
  REQUIRE(fitted);
  return std::move(*fitted);
}

kvfit::fidelity errors_of(const kvfit::query_set& queries, std::span<const kvfit::kv_block> full,
                          std::span<const kvfit::kv_block> compact, const kvfit::logit_rule& rule) {
  const auto wanted = kvfit::attend(queries, full, rule);
  const auto found = kvfit::attend(queries, compact, rule);
  INFO((wanted ? "full" : wanted.error().message()));
  INFO((found ? "compact" : found.error().message()));
  REQUIRE(wanted);
  REQUIRE(found);
  return kvfit::compare(wanted->output, wanted->log_mass, found->output, found->log_mass);
}

}  // namespace kvfit_test

using namespace kvfit_test;

TEST_CASE("the plain call takes matrices, maps and views, and is the call over a block",
          "[compact][entry_point]") {
  const head made = make_head(1);
  const auto by_block = kvfit::compact(made.cache(), made.queries, {.budget = 12});
  const auto by_matrix = kvfit::compact(made.keys, made.values, made.queries, {.budget = 12});
  const Eigen::Map<const kvfit::matrix> keys(made.keys.data(), made.keys.rows(), made.keys.cols());
  const std::array<kvfit::query_block, 1> blocks = {kvfit::row_view(made.queries)};
  const auto by_map = kvfit::compact(keys, made.values, std::span<const kvfit::query_block>(blocks),
                                     {.budget = 12});
  REQUIRE(by_block);
  REQUIRE(by_matrix);
  REQUIRE(by_map);
  CHECK(by_block->positions.size() == 12);
  CHECK(same_result(*by_block, *by_matrix));
  CHECK(same_result(*by_block, *by_map));
}

TEST_CASE("threads within a head change no byte", "[compact][entry_point][threads]") {
  // More than one panel of queries and more than one piece of keys; with and without masks.
  const head made = make_head(5, {.queries = 230, .keys = 1500, .depth = 8, .width = 6});
  const std::array<kvfit::query_block, 2> blocks = {kvfit::row_view(made.queries.topRows(130)),
                                                    kvfit::row_view(made.queries.bottomRows(100))};
  const kvfit::query_set queries = std::span<const kvfit::query_block>(blocks);
  for (const std::string_view name :
       {"default", "highest_attention", "omp_fast", "snapkv", "refined"}) {
    kvfit::compact_options options = kvfit::presets::find(name)->make(40);
    if (options.refine.steps.value_or(0) > 8) options.refine.steps = 8;
    const auto alone = kvfit::compact(made.cache(), queries, options);
    REQUIRE(alone);
    for (const int threads : {2, 3, 5}) {
      kvfit::thread_pool pool(threads);
      const auto shared = kvfit::compact(made.cache(), queries, options, {}, pool);
      CAPTURE(name, threads);
      REQUIRE(shared);
      CHECK(same_result(*alone, *shared));
      CHECK(alone->report.train.output_error == shared->report.train.output_error);
      CHECK(shared->report.memory.panels_at_once == threads);
    }
    options.memory.cap = alone->report.memory.needed;
    kvfit::thread_pool pool(2);
    const auto capped = kvfit::compact(made.cache(), queries, options, {}, pool);
    REQUIRE(capped);
    CHECK(same_result(*alone, *capped));
  }
}

TEST_CASE("threads within the fits of a head change no byte", "[compact][entry_point][threads]") {
  // Enough queries and kept keys that factors, products and logits are worth sharing.
  const head made = make_head(6, {.queries = 700, .keys = 900, .depth = 16, .width = 48});
  for (const std::string_view name : {"highest_attention", "zero_bias", "joint"}) {
    kvfit::compact_options options = kvfit::presets::find(name)->make(180);
    options.refine.steps = 0;
    options.queries.per_row = 0;
    const auto alone = kvfit::compact(made.cache(), made.queries, options);
    REQUIRE(alone);
    for (const int threads : {2, 3}) {
      kvfit::thread_pool pool(threads);
      const auto shared = kvfit::compact(made.cache(), made.queries, options, {}, pool);
      CAPTURE(name, threads);
      REQUIRE(shared);
      CHECK(same_result(*alone, *shared));
      CHECK(alone->report.train.output_error == shared->report.train.output_error);
      CHECK(alone->report.mass_residual == shared->report.mass_residual);
      REQUIRE(alone->report.held_out.has_value() == shared->report.held_out.has_value());
      if (!alone->report.held_out) continue;
      CHECK(alone->report.held_out->output_error == shared->report.held_out->output_error);
    }
  }
}

TEST_CASE("handles made of the default policies are the defaults", "[compact][entry_point]") {
  const head made = make_head(2);
  const kvfit::compact_options options{.budget = 12,
                                       .selection = kvfit::selection::joint{},
                                       .bias = kvfit::bias::nnls{},
                                       .values = kvfit::values::least_squares{}};
  const auto composed = kvfit::compact(made.cache(), made.queries, options);
  const auto plain = kvfit::compact(made.cache(), made.queries, {.budget = 12});
  REQUIRE(composed);
  REQUIRE(plain);
  CHECK(same_result(*composed, *plain));
  CHECK(composed->report.train.output_error == plain->report.train.output_error);
}

TEST_CASE("an executor that runs out of memory, whenever it does, is an error of the call",
          "[compact][entry_point][threads]") {
  const head made = make_head(6, {.queries = 640, .keys = 900, .depth = 16});
  const kvfit::compact_options options = kvfit::presets::find("highest_attention")->make(150);
  int failures = 0;
  for (int served = 0;; ++served) {
    int loops = 0;
    kvfit::external_executor fails{[&](kvfit::index_t count, const auto& body) {
      if (++loops > served) throw std::bad_alloc();
      for (kvfit::index_t i = 0; i < count; ++i) body(i);
    }};
    const auto fitted =
        kvfit::compact(made.cache(), made.queries, options, {}, kvfit::executor_ref(fails, 3));
    if (loops <= served) {
      CHECK(fitted);
      break;
    }
    ++failures;
    REQUIRE_FALSE(fitted);
    CHECK(fitted.error().code == kvfit::errc::out_of_memory);
  }
  CHECK(failures > 8);  // score pass, bias, values and judge all share work
}
