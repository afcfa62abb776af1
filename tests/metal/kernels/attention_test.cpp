// SPDX-License-Identifier: MIT
#include <string>
#include <vector>

#include "metal/kernels/attention_runs.hpp"
#include "support/catch.hpp"

namespace {

using namespace kernel_tests;

void check_attention(const std::vector<head*>& blocks, int keys_per_part,
                     const std::vector<float>& sinks = {}) {
  for (const std::string& kind : both_tiles) {
    INFO("tiles " << (kind.empty() ? "of simdgroup matrices" : "plain"));
    check_results(run_attention(blocks, kind, keys_per_part, sinks), truth_of(blocks, sinks), true);
  }
}

void check_attention(const head_spec& spec, int keys_per_part) {
  head on(spec);
  check_attention({&on}, keys_per_part);
}

TEST_CASE("attention equals the oracle for all types of queries and keys", "[metal][attention]") {
  for (const dtype query_type : all_types) {
    for (const dtype key_type : all_types) {
      INFO(name_of(query_type) << " queries, " << name_of(key_type) << " keys");
      check_attention({.block_rows = 34,
                       .keys = 130,
                       .depth = 40,
                       .width = 24,
                       .query_type = query_type,
                       .key_type = key_type},
                      64);
    }
  }
}

TEST_CASE("attention takes odd sizes", "[metal][attention]") {
  for (const int depth : {1, 7, 33, 65}) {
    for (const int width : {1, 9, 130}) {
      INFO("d_k = " << depth << ", d_v = " << width);
      check_attention({.block_rows = 2, .keys = 67, .depth = depth, .width = width}, 4096);
    }
  }
  check_attention({.block_rows = 1, .keys = 1, .depth = 3, .width = 2}, 64);
  check_attention({.block_rows = 65, .keys = 31, .depth = 16, .width = 16}, 64);
}

TEST_CASE("attention of a decode step: one query of each head of a GQA group",
          "[metal][attention]") {
  check_attention({.blocks = 8,
                   .block_rows = 1,
                   .keys = 300,
                   .depth = 64,
                   .width = 64,
                   .query_type = dtype::fp16,
                   .key_type = dtype::fp16,
                   .has_slopes = true,
                   .causal = true,
                   .first_query_position = 250},
                  64);
}

TEST_CASE("attention over a compact prefix with its bias, a live suffix and sinks",
          "[metal][attention]") {
  const head_spec prefix{.blocks = 4,
                         .block_rows = 5,
                         .keys = 50,
                         .depth = 32,
                         .width = 20,
                         .query_type = dtype::fp16,
                         .key_type = dtype::bf16,
                         .has_bias = true,
                         .has_key_positions = true,
                         .causal = true,
                         .first_query_position = 200,
                         .soft_cap = 15,
                         .seed = 3};
  head_spec suffix = prefix;
  suffix.has_bias = suffix.has_key_positions = false;
  suffix.keys = 70;
  suffix.first_key_position = 140;
  suffix.seed = 4;
  head old(prefix);
  head live(suffix);
  check_attention({&old, &live}, 64);
  check_attention({&old, &live}, 64, {0.5F, -std::numeric_limits<float>::infinity(), 3.0F, 20.0F});
}

TEST_CASE("attention: sinks alone where all keys are hidden", "[metal][attention]") {
  head on({.blocks = 2,
           .block_rows = 3,
           .keys = 20,
           .depth = 8,
           .width = 8,
           .causal = true,
           .first_key_position = 2});
  check_attention({&on}, 64, {1.5F, -std::numeric_limits<float>::infinity()});
}

TEST_CASE("attention applies windows, masks and a bias in prefill", "[metal][attention]") {
  check_attention({.blocks = 2,
                   .block_rows = 70,
                   .keys = 200,
                   .depth = 16,
                   .width = 16,
                   .has_bias = true,
                   .has_mask = true,
                   .causal = true,
                   .window = 40,
                   .first_query_position = 100},
                  128);
  check_attention({.blocks = 1,
                   .block_rows = 70,
                   .keys = 200,
                   .depth = 16,
                   .width = 16,
                   .causal = true,
                   .window = 40,
                   .first_query_position = 199,
                   .query_position_step = -1},
                  64);
  check_attention({.blocks = 2,
                   .block_rows = 20,
                   .keys = 130,
                   .depth = 16,
                   .width = 16,
                   .has_key_positions = true,
                   .has_query_positions = true,
                   .causal = true,
                   .window = 50,
                   .first_query_position = 60},
                  64);
}

TEST_CASE("attention does not read keys that no query of a tile can see", "[metal][attention]") {
  for (const std::string& kind : both_tiles) {
    // Queries at 256 … 287 see keys 224 … 287 at most: the tiles from 192 on.
    head on({.block_rows = 32,
             .keys = 640,
             .depth = 16,
             .width = 16,
             .causal = true,
             .window = 33,
             .first_query_position = 256});
    const query_results got = run_attention({&on}, kind, 128);
    check_results(got, truth_of({&on}), true);
    const std::uint64_t row = 16 * sizeof(float);
    CHECK(got.cost.buffers.at(kernels::buffer_keys).loaded_bytes == (288 - 192) * row);
    CHECK(got.cost.buffers.at(kernels::attention_buffer_values).loaded_bytes == (288 - 192) * row);
  }
}

TEST_CASE("attention reads keys and values once for each tile of queries", "[metal][attention]") {
  for (const std::string& kind : both_tiles) {
    head on({.blocks = 8,
             .block_rows = 4,
             .keys = 300,
             .depth = 64,
             .width = 128,
             .query_type = dtype::fp16,
             .key_type = dtype::fp16});
    const counts cost = run_attention({&on}, kind, 128).cost;
    CHECK(cost.buffers.at(kernels::buffer_keys).loaded_bytes == 300 * 64 * 2);
    CHECK(cost.buffers.at(kernels::attention_buffer_values).loaded_bytes == 300 * 128 * 2);
  }
}

TEST_CASE("attention: values that are not finite are a fault of the output", "[metal][attention]") {
  for (const std::string& kind : both_tiles) {
    head on({.block_rows = 3, .keys = 70, .depth = 8, .width = 9});
    put(*on.value_memory, dtype::fp32, on.value_rule.offset + 66 * on.value_rule.row_stride + 4,
        infinity);
    for (const std::uint32_t faults : run_attention({&on}, kind, 64).faults) {
      CHECK(faults == kernels::fault_output);
    }
  }
}

TEST_CASE("attention: outputs that overflow are a fault", "[metal][attention]") {
  for (const std::string& kind : both_tiles) {
    head on({.block_rows = 2, .keys = 3, .depth = 4, .width = 2});
    for (int j = 0; j < 3; ++j) {
      put(*on.value_memory, dtype::fp32, on.value_rule.offset + j * on.value_rule.row_stride, 3e38);
    }
    for (const std::uint32_t faults : run_attention({&on}, kind, 64).faults) {
      CHECK(faults == kernels::fault_output);
    }
  }
}

TEST_CASE("attention gives the same bytes in any order of threads", "[metal][attention]") {
  head on({.blocks = 2,
           .block_rows = 20,
           .keys = 140,
           .depth = 36,
           .width = 17,
           .has_bias = true,
           .causal = true,
           .first_query_position = 100});
  for (const std::string& kind : both_tiles) {
    const query_results first = run_attention({&on}, kind, 64);
    for (const order& how : metal_emulator::orders()) {
      const query_results again = run_attention({&on}, kind, 64, {}, how);
      CHECK((again.log_mass == first.log_mass));
      CHECK((again.output == first.output));
    }
  }
}

TEST_CASE("attention takes several heads of different lengths in one dispatch",
          "[metal][attention]") {
  // Both heads lie in the same buffers, the second one behind the first: its own numbers of keys.
  head one({.blocks = 2, .block_rows = 3, .keys = 90, .depth = 8, .width = 6, .seed = 1});
  head two({.blocks = 2,
            .block_rows = 3,
            .keys = 20,
            .depth = 8,
            .width = 6,
            .seed = 2,
            .query_seed = 9});
  const auto joined = [](buffer& a, buffer& b) {
    buffer out(a.size_bytes() + b.size_bytes());
    const auto to = out.as<std::byte>();
    std::copy(a.as<std::byte>().begin(), a.as<std::byte>().end(), to.begin());
    std::copy(b.as<std::byte>().begin(), b.as<std::byte>().end(),
              to.begin() + static_cast<std::ptrdiff_t>(a.size_bytes()));
    return out;
  };
  buffer queries = joined(*one.query_memory, *two.query_memory);
  buffer keys = joined(*one.key_memory, *two.key_memory);
  buffer values = joined(*one.value_memory, *two.value_memory);
  struct both {
    kernels::attention_arguments heads[2];
  } rule{};
  rule.heads[0] = {one.logits, one.value_rule, 0, 0, 64, 1};
  rule.heads[1] = {two.logits, two.value_rule, 2 * 6, 2 * 6 * 6, 64, 1};
  const auto floats = [](buffer& b) { return static_cast<std::int64_t>(b.size_bytes() / 4); };
  rule.heads[1].logits.query_offset += floats(*one.query_memory);
  rule.heads[1].logits.key_offset += floats(*one.key_memory);
  rule.heads[1].values.offset += floats(*one.value_memory);
  for (const std::string& kind : both_tiles) {
    buffer states = buffer::output<kernels::query_state>(6 * 4);
    buffer part_outputs = buffer::output<float>(6 * 6 * 4);
    call kernel(one.kernel("attention", kind));
    one.bind(kernel);
    kernel.memory(kernels::buffer_queries, queries)
        .memory(kernels::buffer_keys, keys)
        .memory(kernels::attention_buffer_values, values)
        .memory(kernels::attention_buffer_states, states)
        .memory(kernels::attention_buffer_part_outputs, part_outputs)
        .bytes(kernels::buffer_arguments, rule);
    checked(kernel.groups({1, 2, 2}, {threads, 1, 1}));
    for (int h = 0; h < 2; ++h) {
      query_results got;
      kernels::merge_arguments merged{};
      merged.state_offset = h * 12;
      merged.part_output_offset = h * 72;
      merged.queries = 6;
      merged.block_rows = 3;
      merged.parts = merged.output_parts = 2;
      merged.width = 6;
      merge(got, states, &part_outputs, merged, {}, {});
      check_results(got, truth_of({h == 0 ? &one : &two}), true);
    }
  }
}

TEST_CASE("attention reaches rows beyond 2^32 elements", "[metal][attention]") {
  // Three keys, each 2^32 elements from the one before, in memory that is mapped but for them.
  head near({.block_rows = 4,
             .keys = 3,
             .depth = 8,
             .width = 8,
             .query_type = dtype::fp16,
             .key_type = dtype::fp16});
  constexpr std::int64_t stride = (std::int64_t{1} << 32) + 8;
  constexpr std::int64_t offset = (std::int64_t{1} << 32) - 4;
  buffer keys(static_cast<std::size_t>(2 * (offset + 2 * stride + 8)));
  for (int j = 0; j < 3; ++j) {
    for (int c = 0; c < 8; ++c) {
      put(keys, dtype::fp16, offset + j * stride + c, near.keys(j, c));
    }
  }
  const query_truth truth = truth_of({&near});
  for (const std::string& kind : both_tiles) {
    buffer states = buffer::output<kernels::query_state>(4);
    buffer part_outputs = buffer::output<float>(4 * 8);
    kernels::attention_arguments rule{near.logits, near.value_rule, 0, 0, 64, 1};
    rule.logits.key_offset = offset;
    rule.logits.key_row_stride = stride;
    call kernel(near.kernel("attention", kind));
    near.bind(kernel);
    kernel.memory(kernels::buffer_keys, keys)
        .memory(kernels::attention_buffer_values, *near.value_memory)
        .memory(kernels::attention_buffer_states, states)
        .memory(kernels::attention_buffer_part_outputs, part_outputs)
        .bytes(kernels::buffer_arguments, rule);
    checked(kernel.groups({1, 1, 1}, {threads, 1, 1}));
    query_results got;
    kernels::merge_arguments merged{};
    merged.queries = 4;
    merged.block_rows = 4;
    merged.parts = merged.output_parts = 1;
    merged.width = 8;
    merge(got, states, &part_outputs, merged, {}, {});
    check_results(got, truth, true);
  }
}

}  // namespace
