// SPDX-License-Identifier: MIT
/// Kernels beside the CPU's own code.
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "kvfit/attention/attend.hpp"
#include "kvfit/attention/score_pass.hpp"
#include "metal/kernels/column_runs.hpp"
#include "support/catch.hpp"

namespace {

using namespace kernel_tests;

/// A head as the CPU takes it.
struct cpu_head {
  kvfit::matrix keys;
  kvfit::matrix values;
  std::vector<kvfit::matrix> query_rows;
  std::vector<kvfit::matrix> mask_rows;
  std::vector<kvfit::query_block> queries;
  std::vector<kvfit::row_view> masks;
  kvfit::kv_block cache;
  kvfit::logit_rule rule;

  [[nodiscard]] kvfit::query_set set() const {
    return std::span<const kvfit::query_block>(queries);
  }

  explicit cpu_head(const head& from) {
    const auto as_matrix = [](const matrix& m, int first, int rows) {
      kvfit::matrix out(rows, m.cols);
      for (int i = 0; i < rows; ++i) {
        for (int j = 0; j < m.cols; ++j) out(i, j) = static_cast<float>(m(first + i, j));
      }
      return out;
    };
    keys = as_matrix(from.keys, 0, from.spec.keys);
    values = as_matrix(from.values, 0, from.spec.keys);
    const int rows = from.spec.block_rows;
    for (int b = 0; b < from.spec.blocks; ++b) {
      query_rows.push_back(as_matrix(from.queries, b * rows, rows));
      if (from.spec.has_mask) mask_rows.push_back(as_matrix(from.mask, b * rows, rows));
    }
    for (int b = 0; b < from.spec.blocks; ++b) {
      const auto at = static_cast<std::size_t>(b);
      kvfit::query_block block(query_rows[at], from.spec.first_query_position,
                               from.spec.has_slopes ? from.slopes[at] : 0.0F);
      block.position_step = from.spec.query_position_step;
      if (from.spec.has_query_positions) {
        block.positions = from.query_positions;
        block.first_position = b * rows;
        block.position_step = 1;
      }
      queries.push_back(block);
      if (from.spec.has_mask) masks.emplace_back(mask_rows[at]);
    }
    cache = {.keys = keys,
             .values = values,
             .bias = from.bias,
             .positions = from.key_positions,
             .first_position = from.spec.first_key_position,
             .masks = masks};
    rule = {.scale = from.logits.scale,
            .soft_cap = from.spec.soft_cap,
            .causal = from.spec.causal,
            .window = from.spec.window};
  }
};

std::vector<head_spec> all_rules() {
  const head_spec base{.blocks = 2, .block_rows = 21, .keys = 100, .depth = 24, .width = 18};
  std::vector<head_spec> out(6, base);
  out[1].has_bias = out[1].has_mask = true;
  out[2].causal = true;
  out[2].window = 30;
  out[2].first_key_position = 3;
  out[3].causal = out[3].has_slopes = out[3].has_key_positions = true;
  out[3].has_query_positions = true;
  out[3].first_query_position = 40;
  out[4].soft_cap = 4;
  out[4].size = 2;
  out[4].key_type = dtype::bf16;
  out[5].query_type = out[5].key_type = dtype::fp16;
  out[5].query_position_step = -2;
  out[5].first_query_position = 110;
  out[5].window = 50;
  return out;
}

TEST_CASE("Masses, outputs and importance are those of the CPU's score pass", "[metal][cpu]") {
  for (const head_spec& spec : all_rules()) {
    head on(spec);
    const cpu_head same(on);
    const auto truth = kvfit::score_pass(same.cache, same.set(), same.rule,
                                         {.importance = kvfit::importance_kind::rms,
                                          .pooling = kvfit::pooling_kind::average,
                                          .pooling_width = 5});
    REQUIRE(truth);
    for (const std::string& kind : both_tiles) {
      const query_results got = run_score(on, kind, 64, true);
      const std::vector<float> importance = run_importance(on, kind,
                                                           {.kind = kernels::importance_rms,
                                                            .pooling = kernels::pooling_average,
                                                            .pooling_width = 5});
      for (int r = 0; r < on.rows(); ++r) {
        const auto at = static_cast<std::size_t>(r);
        CHECK(got.faults[at] == 0);
        if (std::isinf(truth->log_mass[r])) {
          CHECK(got.log_mass[at] == truth->log_mass[r]);
        } else {
          CHECK(std::abs(got.log_mass[at] - truth->log_mass[r]) <= 1e-5F);
        }
        for (int c = 0; c < spec.width; ++c) {
          const auto place =
              at * static_cast<std::size_t>(spec.width) + static_cast<std::size_t>(c);
          CHECK(std::abs(got.output[place] - truth->output(r, c)) <= 1e-4F);
        }
      }
      for (int j = 0; j < spec.keys; ++j) {
        CHECK(std::abs(importance[static_cast<std::size_t>(j)] - truth->importance[j]) <=
              1e-5F * truth->importance[j] + 1e-9F);
      }
    }
  }
}

TEST_CASE("attention of two blocks with sinks is the CPU's attend", "[metal][cpu]") {
  for (head_spec spec : all_rules()) {
    head old(spec);
    spec.keys = 70;
    spec.first_key_position += 100;
    spec.seed = 5;
    head live(spec);
    cpu_head same_old(old);
    cpu_head same_live(live);
    const std::vector<float> sinks = {0.5F, -std::numeric_limits<float>::infinity()};
    for (std::size_t b = 0; b < sinks.size(); ++b) same_old.queries[b].sink_logit = sinks[b];
    const auto truth =
        kvfit::attend(same_old.set(), {same_old.cache, same_live.cache}, same_old.rule);
    REQUIRE(truth);
    for (const std::string& kind : both_tiles) {
      const query_results got = run_attention({&old, &live}, kind, 64, sinks);
      for (int r = 0; r < old.rows(); ++r) {
        const auto at = static_cast<std::size_t>(r);
        CHECK(got.faults[at] == 0);
        if (std::isinf(truth->log_mass[r])) {
          CHECK(got.log_mass[at] == truth->log_mass[r]);
        } else {
          CHECK(std::abs(got.log_mass[at] - truth->log_mass[r]) <= 1e-5F);
        }
        for (int c = 0; c < spec.width; ++c) {
          const auto place =
              at * static_cast<std::size_t>(spec.width) + static_cast<std::size_t>(c);
          CHECK(std::abs(got.output[place] - truth->output(r, c)) <= 1e-4F);
        }
      }
    }
  }
}

}  // namespace
