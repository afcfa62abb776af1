// SPDX-License-Identifier: MIT
#include <string>
#include <vector>

#include "metal/kernels/column_runs.hpp"
#include "support/catch.hpp"

namespace {

using namespace kernel_tests;

void check_importance(const head_spec& on_spec, const importance_spec& spec) {
  head on(on_spec);
  const std::vector<double> truth = true_importance(on, spec);
  for (const std::string& kind : both_tiles) {
    const std::vector<float> got = run_importance(on, kind, spec);
    for (std::size_t j = 0; j < truth.size(); ++j) {
      INFO("key " << j << kind);
      CHECK(std::abs(static_cast<double>(got[j]) - truth[j]) <= 1e-5 * truth[j] + 1e-9);
    }
  }
}

TEST_CASE("importance equals the oracle: mean, rms and max, pooled and not",
          "[metal][importance]") {
  const head_spec on{.blocks = 2, .block_rows = 20, .keys = 130, .depth = 24, .has_bias = true};
  for (const int kind :
       {kernels::importance_mean, kernels::importance_rms, kernels::importance_max}) {
    for (const int pooling :
         {kernels::pooling_none, kernels::pooling_average, kernels::pooling_max}) {
      INFO("kind " << kind << ", pooling " << pooling);
      check_importance(on, {.kind = kind, .pooling = pooling});
    }
  }
}

TEST_CASE("importance takes all types, odd sizes and parts of the queries", "[metal][importance]") {
  for (const dtype type : all_types) {
    check_importance(
        {.block_rows = 37, .keys = 65, .depth = 17, .query_type = dtype::fp16, .key_type = type},
        {});
  }
  for (const int keys : {1, 5, 64, 66}) {
    check_importance({.block_rows = 3, .keys = keys, .depth = 9},
                     {.pooling = kernels::pooling_average, .pooling_width = 3});
  }
  for (const int kind : {kernels::importance_mean, kernels::importance_max}) {
    check_importance({.block_rows = 100, .keys = 70, .depth = 9},
                     {.kind = kind, .queries_per_part = 32});
  }
}

TEST_CASE("importance counts the observed queries alone, and none that see nothing",
          "[metal][importance]") {
  std::vector<std::uint8_t> observed(40, 0);
  for (std::size_t r = 0; r < 40; r += 3) observed[r] = 1;
  check_importance({.block_rows = 40, .keys = 70, .depth = 9}, {.observed = observed});
  check_importance({.blocks = 2,
                    .block_rows = 20,
                    .keys = 70,
                    .depth = 9,
                    .causal = true,
                    .first_key_position = 4},
                   {.kind = kernels::importance_mean, .observed = observed});
}

TEST_CASE("importance gives the same bytes in any order of threads", "[metal][importance]") {
  head on({.block_rows = 70, .keys = 100, .depth = 20});
  for (const std::string& kind : both_tiles) {
    const std::vector<float> first = run_importance(on, kind, {.queries_per_part = 32});
    for (const order& how : metal_emulator::orders()) {
      CHECK((run_importance(on, kind, {.queries_per_part = 32}, how) == first));
    }
  }
}

void check_gather(const head_spec& spec, const std::vector<int>& rows, bool copied) {
  head on(spec);
  const query_truth truth = truth_of({&on});
  std::vector<float> shifts;
  std::vector<float> factors;
  for (std::size_t r = 0; r < truth.max.size(); ++r) {
    shifts.push_back(static_cast<float>(truth.max[r]));
    factors.push_back(truth.max[r] == -infinity ? 0.0F : 0.5F + static_cast<float>(r % 3));
  }
  for (const std::string& kind : both_tiles) {
    const matrix got = run_gather(on, kind, rows, copied, shifts, factors);
    for (int k = 0; k < got.rows; ++k) {
      const int key = rows.empty() ? k : rows[static_cast<std::size_t>(k)];
      for (int r = 0; r < got.cols; ++r) {
        const auto at = static_cast<std::size_t>(r);
        const double want = factors[at] == 0
                                ? 0
                                : std::exp(on.logit(r, key) - static_cast<double>(shifts[at])) *
                                      static_cast<double>(factors[at]);
        INFO("key " << key << ", query " << r << kind);
        CHECK(std::abs(got(k, r) - want) <= 1e-5 * want + 1e-9);
      }
    }
  }
}

TEST_CASE("gather writes the columns of listed keys, and of all without a list",
          "[metal][gather]") {
  const std::vector<int> rows = {69, 0, 3, 12, 12, 41, 8};
  for (const dtype type : all_types) {
    check_gather({.blocks = 2,
                  .block_rows = 17,
                  .keys = 70,
                  .depth = 20,
                  .query_type = type,
                  .key_type = type,
                  .has_bias = true,
                  .has_mask = true,
                  .has_key_positions = true,
                  .causal = true,
                  .first_query_position = 30},
                 rows, false);
  }
  check_gather({.block_rows = 33, .keys = 70, .depth = 20}, {}, false);
  check_gather({.block_rows = 1, .keys = 1, .depth = 2}, {0}, false);
  std::vector<int> many;
  for (int k = 0; k < 130; ++k) many.push_back(k * 37 % 200);
  check_gather({.block_rows = 40, .keys = 200, .depth = 12}, many, false);
}

TEST_CASE("gather takes keys that were copied out, with bias, masks and positions of their rows",
          "[metal][gather]") {
  check_gather({.blocks = 2,
                .block_rows = 9,
                .keys = 70,
                .depth = 20,
                .key_type = dtype::fp16,
                .has_bias = true,
                .has_mask = true,
                .has_slopes = true,
                .causal = true,
                .first_query_position = 35},
               {69, 0, 4, 12, 30}, true);
}

TEST_CASE("gather: queries that see nothing get numbers that are finite", "[metal][gather]") {
  check_gather({.block_rows = 10, .keys = 30, .depth = 4, .causal = true, .first_key_position = 5},
               {}, false);
}

}  // namespace
