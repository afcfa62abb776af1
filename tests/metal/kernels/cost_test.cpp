// SPDX-License-Identifier: MIT
/// What docs/metal.md says that kernels read and write, counted.
#include <cstdint>
#include <string>
#include <vector>

#include "metal/kernels/column_runs.hpp"
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

}  // namespace cost_of_kernels
}  // namespace
