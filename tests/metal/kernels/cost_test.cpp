// SPDX-License-Identifier: MIT
/// What docs/metal.md says that kernels read and write, counted.
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "metal/kernels/column_runs.hpp"
#include "metal/kernels/single_runs.hpp"
#include "support/catch.hpp"

namespace {
namespace cost_of_kernels {

using namespace kernel_tests;

// As docs/metal.md names them: n = 70, T = 130, d_k = 40, d_v = 150.
constexpr std::uint64_t n = 70;
constexpr std::uint64_t keys = 130;
constexpr std::uint64_t depth = 40;
constexpr std::uint64_t width = 150;
constexpr std::uint64_t query_tiles = 3;   // N
constexpr std::uint64_t key_tiles = 3;     // M
constexpr std::uint64_t slices = 2;        // S
constexpr std::uint64_t depth_chunks = 2;  // C
constexpr std::uint64_t value_chunks = 9;  // of 16 keys: 4 + 4 + 1

head_spec sizes() {
  return {.blocks = 2,
          .block_rows = 35,
          .keys = 130,
          .depth = 40,
          .width = 150,
          .query_type = dtype::fp32,
          .key_type = dtype::fp16};
}

std::uint64_t loaded(const counts& cost, int index) {
  return cost.buffers.at(static_cast<unsigned>(index)).loaded_bytes;
}
std::uint64_t stored_at(const counts& cost, int index) {
  return cost.buffers.at(static_cast<unsigned>(index)).stored_bytes;
}

/// What every tile of logits costs, made `times` over all queries and keys.
void check_logits(const counts& cost, std::uint64_t times) {
  CHECK(loaded(cost, kernels::buffer_queries) == times * key_tiles * n * depth * 4);
  CHECK(loaded(cost, kernels::buffer_keys) == times * query_tiles * keys * depth * 2);
}

/// Multiply-adds of K Qᵀ by simdgroup matrices: whole parts of 8 × 8 × 8.
constexpr std::uint64_t logit_products = 72 * 136 * 40;

TEST_CASE("score_pass costs what docs/metal.md says", "[metal][cost]") {
  for (const std::string& kind : both_tiles) {
    head_spec spec = sizes();
    spec.has_mask = spec.has_key_positions = spec.has_query_positions = spec.has_slopes = true;
    head on(spec);
    const counts cost = run_score(on, kind, 128).cost;  // two parts
    check_logits(cost, 1);
    CHECK(loaded(cost, kernels::buffer_mask) == n * keys * 4);
    CHECK(loaded(cost, kernels::buffer_key_positions) == query_tiles * keys * 8);
    CHECK(loaded(cost, kernels::buffer_query_positions) == 2 * n * 8);
    CHECK(loaded(cost, kernels::buffer_slopes) == 2 * n * 4);
    CHECK(stored_at(cost, kernels::score_buffer_states) == 2 * n * 16);
    CHECK(cost.barriers == query_tiles * key_tiles * (2 * depth_chunks + 1));
    CHECK(cost.threadgroup_bytes == 23680);
    if (kind.empty()) CHECK(cost.matrix_multiply_adds == logit_products);
  }
}

TEST_CASE("output costs what docs/metal.md says", "[metal][cost]") {
  for (const std::string& kind : both_tiles) {
    head on(sizes());
    const counts cost = run_score(on, kind, 128, true).cost;
    check_logits(cost, slices);
    CHECK(loaded(cost, kernels::output_buffer_values) == query_tiles * keys * width * 2);
    CHECK(loaded(cost, kernels::output_buffer_max) == 2 * slices * 4 * n * 4);
    CHECK(stored_at(cost, kernels::output_buffer_part_outputs) == 2 * n * width * 4);
    CHECK(cost.barriers ==
          slices * query_tiles * (key_tiles * (2 * depth_chunks + 1) + 2 * value_chunks));
    CHECK(cost.threadgroup_bytes == 23680);
    if (kind.empty()) {
      CHECK(cost.matrix_multiply_adds == slices * logit_products + 72 * 16 * value_chunks * 152);
    }
  }
}

TEST_CASE("attention costs what docs/metal.md says", "[metal][cost]") {
  for (const std::string& kind : both_tiles) {
    head_spec spec = sizes();
    head on(spec);
    const counts cost = run_attention({&on}, kind, 128).cost;
    check_logits(cost, slices);
    CHECK(loaded(cost, kernels::attention_buffer_values) == query_tiles * keys * width * 2);
    CHECK(stored_at(cost, kernels::attention_buffer_states) == 2 * n * 16);
    CHECK(stored_at(cost, kernels::attention_buffer_part_outputs) == 2 * n * width * 4);
    CHECK(cost.barriers ==
          slices * query_tiles * (key_tiles * (2 * depth_chunks + 2) + 2 * value_chunks));
    CHECK(cost.threadgroup_bytes == 23808);
    if (kind.empty()) {
      CHECK(cost.matrix_multiply_adds == slices * logit_products + 72 * 16 * value_chunks * 152);
    }
  }
}

TEST_CASE("importance costs what docs/metal.md says", "[metal][cost]") {
  for (const std::string& kind : both_tiles) {
    head on(sizes());
    counts cost;
    run_importance(on, kind, {.queries_per_part = 64}, {}, &cost);
    check_logits(cost, 1);
    CHECK(loaded(cost, kernels::importance_buffer_max) == key_tiles * n * 4);
    CHECK(loaded(cost, kernels::importance_buffer_mass) == key_tiles * n * 4);
    CHECK(stored_at(cost, kernels::importance_buffer_parts) == 2 * keys * 4);
    CHECK(cost.barriers == key_tiles * (query_tiles * (2 * depth_chunks + 2) + 2));
    CHECK(cost.threadgroup_bytes == 24192);
    if (kind.empty()) CHECK(cost.matrix_multiply_adds == logit_products);
  }
}

TEST_CASE("gather costs what docs/metal.md says", "[metal][cost]") {
  for (const std::string& kind : both_tiles) {
    head on(sizes());
    counts cost;
    const std::vector<float> shifts(n, 1.0F);
    run_gather(on, kind, {}, false, shifts, shifts, {}, &cost);
    check_logits(cost, 1);
    CHECK(loaded(cost, kernels::gather_buffer_shifts) == key_tiles * 4 * n * 4);
    CHECK(loaded(cost, kernels::gather_buffer_factors) == key_tiles * 4 * n * 4);
    CHECK(stored_at(cost, kernels::gather_buffer_columns) == keys * n * 4);
    CHECK(cost.barriers == query_tiles * key_tiles * (2 * depth_chunks + 1));
    CHECK(cost.threadgroup_bytes == 23680);
    if (kind.empty()) CHECK(cost.matrix_multiply_adds == logit_products);
  }
}

// ---- Kernels without logits: single_runs.hpp
// -----------------------------------------------------

constexpr std::uint64_t number = 4;  // bytes
constexpr std::uint64_t all_threads = kernels::group_threads;
constexpr std::uint64_t row_n = single_n;        // n
constexpr std::uint64_t row_keys = single_keys;  // T
constexpr std::uint64_t listed = single_listed;  // t
constexpr std::uint64_t parts = single_parts;    // p

TEST_CASE("merge_states costs what docs/metal.md says", "[metal][cost]") {
  const counts cost = run_merge_states(0).cost;
  constexpr std::uint64_t queries = 5;
  constexpr std::uint64_t columns = single_width;
  CHECK(loaded(cost, kernels::merge_buffer_states) ==
        queries * parts * 16 * (2 * all_threads + columns));
  CHECK(loaded(cost, kernels::merge_buffer_part_outputs) == queries * parts * columns * number);
  for (const int index : {kernels::merge_buffer_max, kernels::merge_buffer_mass,
                          kernels::merge_buffer_log_mass, kernels::merge_buffer_faults}) {
    CHECK(stored_at(cost, index) == queries * number);
  }
  CHECK(stored_at(cost, kernels::merge_buffer_outputs) == queries * columns * number);
  CHECK(cost.barriers == queries);
  CHECK(cost.threadgroup_bytes == 16);
}

TEST_CASE("finish_importance costs what docs/metal.md says", "[metal][cost]") {
  const counts cost = run_finish_importance(0).cost;
  // The window of the first and the last keys ends with the keys.
  constexpr std::uint64_t half = single_pooling / 2;
  constexpr std::uint64_t windows = row_n * single_pooling - half * (half + 1);
  CHECK(loaded(cost, kernels::finish_importance_buffer_parts) == windows * parts * number);
  CHECK(stored_at(cost, kernels::finish_importance_buffer_importance) == row_n * number);
  CHECK(cost.barriers == 0);
  CHECK(cost.threadgroup_bytes == 0);
}

TEST_CASE("Kernels of pursuit and joint selection cost what docs/metal.md says", "[metal][cost]") {
  const counts correlate = run_correlate(0).cost;
  CHECK(loaded(correlate, kernels::correlation_buffer_columns) == row_keys * row_n * number);
  CHECK(loaded(correlate, kernels::correlation_buffer_residual) == row_keys * row_n * number);
  CHECK(loaded(correlate, kernels::correlation_buffer_divisors) == row_keys * number);
  CHECK(loaded(correlate, kernels::correlation_buffer_open) == row_keys);
  CHECK(stored_at(correlate, kernels::correlation_buffer_correlations) == row_keys * number);
  CHECK(stored_at(correlate, kernels::correlation_buffer_scores) == row_keys * number);
  CHECK(correlate.barriers == 0);
  CHECK(correlate.multiply_adds == row_keys * row_n);

  constexpr std::uint64_t best = single_best;
  const counts rows = run_best_rows(0).cost;
  CHECK(loaded(rows, kernels::best_buffer_candidates) == best * row_n * number);
  CHECK(stored_at(rows, kernels::best_buffer_best) == parts * best * 8);
  CHECK(rows.barriers == parts * 2 * best);
  CHECK(rows.threadgroup_bytes == 32);
  const counts merged = run_best_of_parts(0).cost;
  CHECK(loaded(merged, kernels::best_buffer_candidates) == best * parts * best * 8);
  CHECK(stored_at(merged, kernels::best_buffer_best) == best * 8);
  CHECK(stored_at(merged, kernels::best_buffer_open) == best);
  CHECK(merged.barriers == 2 * best);

  const counts joint = run_joint_update(0).cost;
  constexpr std::uint64_t products = row_keys * single_slots * number;
  for (const int index : {kernels::joint_buffer_products, kernels::joint_buffer_shared}) {
    CHECK(loaded(joint, index) == products);
    CHECK(stored_at(joint, index) == products);
  }
  for (const int index : {kernels::joint_buffer_scores, kernels::joint_buffer_left}) {
    CHECK(loaded(joint, index) == row_keys * number);
    CHECK(stored_at(joint, index) == row_keys * number);
  }
  CHECK(loaded(joint, kernels::joint_buffer_norms) == row_keys * number);
  CHECK(loaded(joint, kernels::joint_buffer_open) == row_keys);
  CHECK(stored_at(joint, kernels::joint_buffer_waiting) == row_keys * number);
  CHECK(stored_at(joint, kernels::joint_buffer_gains) == row_keys * number);
  CHECK(joint.barriers == 0);

  const counts lengths = run_squared_lengths(0).cost;
  CHECK(loaded(lengths, kernels::length_buffer_rows) == 2 * row_keys * row_n * number);
  CHECK(stored_at(lengths, kernels::length_buffer_lengths) == row_keys * number);
  CHECK(lengths.barriers == 0);
}

TEST_CASE("Kernels of projected gradient cost what docs/metal.md says", "[metal][cost]") {
  const counts residual = run_residual(0).cost;
  CHECK(loaded(residual, kernels::step_buffer_columns) == listed * row_n * number);
  CHECK(loaded(residual, kernels::step_buffer_weights) == listed * row_n * number);
  CHECK(loaded(residual, kernels::step_buffer_target) == row_n * number);
  CHECK(stored_at(residual, kernels::step_buffer_residual) == row_n * number);
  CHECK(stored_at(residual, kernels::step_buffer_squares) == 2 * number);
  CHECK(residual.barriers == 2 * 2);
  CHECK(residual.threadgroup_bytes == 16);
  const counts step = run_projected_step(0).cost;
  CHECK(loaded(step, kernels::step_buffer_columns) == listed * row_n * number);
  CHECK(loaded(step, kernels::step_buffer_residual) == listed * row_n * number);
  CHECK(loaded(step, kernels::step_buffer_weights) == listed * number);
  CHECK(stored_at(step, kernels::step_buffer_weights) == listed * number);
  CHECK(step.barriers == 0);
  const counts power = run_power_step(0).cost;  // of n numbers
  CHECK(loaded(power, kernels::step_buffer_images) == 3 * row_n * number);
  CHECK(loaded(power, kernels::step_buffer_weights) == row_n * number);
  CHECK(stored_at(power, kernels::step_buffer_weights) == row_n * number);
  CHECK(power.barriers == 6);
  CHECK(power.threadgroup_bytes == 16);
}

TEST_CASE("gram and moments cost what docs/metal.md says", "[metal][cost]") {
  constexpr std::uint64_t rows = single_rows;
  constexpr std::uint64_t cols = single_cols;
  constexpr std::uint64_t chunks = (row_n + 31) / 32;
  for (const std::string& kind : both_tiles) {
    const counts gram = run_product("gram" + kind, 0).cost;
    // Two tiles of rows, 32 and 8, each with all columns.
    CHECK(loaded(gram, kernels::product_buffer_left) == (rows + 2 * rows) * row_n * number);
    CHECK(stored_at(gram, kernels::product_buffer_out) == rows * rows * number);
    CHECK(gram.barriers == 2 * 2 * chunks);
    CHECK(gram.threadgroup_bytes == 13824);
    const counts moments = run_product("moments" + kind, 0).cost;
    CHECK(loaded(moments, kernels::product_buffer_left) == 2 * rows * row_n * number);
    CHECK(loaded(moments, kernels::product_buffer_right) == 2 * row_n * cols * number);
    CHECK(loaded(moments, kernels::product_buffer_out) == rows * cols * number);  // subtracted
    CHECK(stored_at(moments, kernels::product_buffer_out) == rows * cols * number);
    CHECK(moments.barriers == 4 * 2 * chunks);
    CHECK(moments.threadgroup_bytes == 13824);
  }
}

TEST_CASE("Steps of the factor and its solves cost what docs/metal.md says", "[metal][cost]") {
  constexpr std::uint64_t block = kernels::factor_block_size;
  constexpr std::uint64_t triangle = block * (block + 1) / 2 * number;
  constexpr std::uint64_t below = single_size - 64;  // rows beneath the second block
  constexpr std::uint64_t right = single_right;
  const auto matrix = [](const counts& cost) {
    return loaded(cost, kernels::factor_buffer_matrix);
  };
  const auto sides = [](const counts& cost) { return loaded(cost, kernels::factor_buffer_right); };

  const counts factor = run_factor_step("factor_block", 32, 0).cost;
  CHECK(matrix(factor) == triangle);
  CHECK(stored_at(factor, kernels::factor_buffer_matrix) == triangle);
  CHECK(factor.barriers == 97);
  CHECK(factor.threadgroup_bytes == 4608);
  const counts panel = run_factor_step("solve_panel", 32, 0).cost;
  CHECK(matrix(panel) == triangle + below * block * number);
  CHECK(stored_at(panel, kernels::factor_buffer_matrix) == below * block * number);
  CHECK(panel.barriers == 1);
  CHECK(panel.threadgroup_bytes == 4608);
  for (const std::string name : {"solve_lower_block", "solve_upper_block"}) {
    const counts solve = run_factor_step(name, 32, 0).cost;
    CHECK(matrix(solve) == triangle);
    CHECK(sides(solve) == block * right * number);
    CHECK(stored_at(solve, kernels::factor_buffer_right) == block * right * number);
    CHECK(solve.barriers == 1);
    CHECK(solve.threadgroup_bytes == 4608);
  }
  for (const std::string& kind : both_tiles) {
    const counts trailing = run_factor_step("update_trailing" + kind, 32, 0).cost;
    // Two tiles of rows read their 32 columns and those of all rows beneath.
    constexpr std::uint64_t trailing_triangle = below * (below + 1) / 2 * number;
    CHECK(matrix(trailing) == (below + 2 * below) * block * number + trailing_triangle);
    CHECK(stored_at(trailing, kernels::factor_buffer_matrix) == trailing_triangle);
    CHECK(trailing.barriers == 2);
    CHECK(trailing.threadgroup_bytes == 13824);
    for (const auto& [name, first, rows] : {std::tuple{"update_below", 32, below},
                                            std::tuple{"update_above", 64, std::uint64_t{64}}}) {
      const counts update = run_factor_step(name + kind, first, 0).cost;
      CHECK(matrix(update) == 2 * rows * block * number);           // for each tile of columns
      CHECK(sides(update) == (2 * block + rows) * right * number);  // for each tile of rows
      CHECK(stored_at(update, kernels::factor_buffer_right) == rows * right * number);
      CHECK(update.barriers == 4);
      CHECK(update.threadgroup_bytes == 13312);
    }
  }
}

}  // namespace cost_of_kernels
}  // namespace
