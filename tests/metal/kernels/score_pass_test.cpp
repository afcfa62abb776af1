// SPDX-License-Identifier: MIT
#include <string>
#include <vector>

#include "metal/kernels/attention_runs.hpp"
#include "support/catch.hpp"

namespace {

using namespace kernel_tests;

/// Masses of the score pass, and outputs where asked, against the oracle.
void check_score(const head_spec& spec, int keys_per_part, bool has_output = false) {
  head on(spec);
  for (const std::string& kind : both_tiles) {
    INFO("tiles " << (kind.empty() ? "of simdgroup matrices" : "plain"));
    check_results(run_score(on, kind, keys_per_part, has_output), truth_of({&on}), has_output);
  }
}

TEST_CASE("score_pass equals the oracle for all types of queries and keys", "[metal][score_pass]") {
  for (const dtype query_type : all_types) {
    for (const dtype key_type : all_types) {
      INFO(name_of(query_type) << " queries, " << name_of(key_type) << " keys");
      check_score({.block_rows = 37,
                   .keys = 150,
                   .depth = 40,
                   .query_type = query_type,
                   .key_type = key_type},
                  64);
    }
  }
}

TEST_CASE("score_pass takes odd sizes, one key, one query, and more parts than need be",
          "[metal][score_pass]") {
  for (const int depth : {1, 7, 33, 64, 80}) {
    INFO("d = " << depth);
    check_score({.block_rows = 3, .keys = 65, .depth = depth}, 128);
  }
  for (const int keys : {1, 2, 63, 64, 65, 129}) {
    INFO("T = " << keys);
    check_score({.block_rows = 1, .keys = keys, .depth = 12}, 64);
  }
  for (const int queries : {1, 31, 32, 33}) {
    INFO("n = " << queries);
    check_score({.block_rows = queries, .keys = 40, .depth = 20}, 4096);
  }
}

TEST_CASE("score_pass applies bias, masks, positions, slopes, windows and soft caps",
          "[metal][score_pass]") {
  const head_spec base{.blocks = 3, .block_rows = 13, .keys = 90, .depth = 24};
  const auto with = [&](auto change) {
    head_spec spec = base;
    change(spec);
    check_score(spec, 64);
  };
  SECTION("a bias, which hides rows") {
    with([](head_spec& s) { s.has_bias = true; });
  }
  SECTION("masks") {
    with([](head_spec& s) { s.has_mask = true; });
  }
  SECTION("masks beside a bias") {
    with([](head_spec& s) { s.has_mask = s.has_bias = true; });
  }
  SECTION("causality by even positions, some queries before every key") {
    with([](head_spec& s) {
      s.causal = true;
      s.first_key_position = 4;
    });
  }
  SECTION("causality and a window by tables of positions") {
    with([](head_spec& s) {
      s.causal = true;
      s.window = 17;
      s.has_key_positions = s.has_query_positions = true;
    });
  }
  SECTION("a window without causality, queries that step backwards") {
    with([](head_spec& s) {
      s.window = 30;
      s.first_query_position = 80;
      s.query_position_step = -3;
    });
  }
  SECTION("ALiBi slopes and a soft cap") {
    with([](head_spec& s) {
      s.has_slopes = true;
      s.first_query_position = 90;
      s.soft_cap = 5;
      s.size = 3;
    });
  }
  SECTION("a given scale, and everything together") {
    with([](head_spec& s) {
      s.scale = 0.3F;
      s.soft_cap = 20;
      s.causal = s.has_bias = s.has_mask = s.has_slopes = true;
      s.has_key_positions = true;
      s.first_query_position = 40;
      s.window = 60;
    });
  }
}

TEST_CASE("score_pass: positions beyond 2^32 lose nothing", "[metal][score_pass]") {
  check_score({.block_rows = 20,
               .keys = 70,
               .depth = 8,
               .causal = true,
               .window = 25,
               .first_query_position = (std::int64_t{1} << 40) + 30,
               .first_key_position = std::int64_t{1} << 40},
              64);
}

TEST_CASE("score_pass: queries that see nothing have mass 0 and log mass of minus infinity",
          "[metal][score_pass]") {
  check_score({.block_rows = 9,
               .keys = 70,
               .depth = 8,
               .causal = true,
               .first_query_position = 0,
               .first_key_position = 5},
              64, true);
  head_spec spec{.block_rows = 5, .keys = 66, .depth = 8, .has_mask = true};
  head on(spec);
  for (int r = 0; r < 5; r += 2) {
    for (int j = 0; j < spec.keys; ++j) {
      on.mask(r, j) = -infinity;
      put(*on.mask_memory, dtype::fp32, on.logits.mask_offset + on.logits.mask_row_stride * r + j,
          -infinity);
    }
  }
  for (const std::string& kind : both_tiles) {
    check_results(run_score(on, kind, 64, true), truth_of({&on}), true);
  }
}

TEST_CASE("score_pass: logits of several hundred keep their masses", "[metal][score_pass]") {
  // The errors are those of fp32 products of this size, 1e-7 of them.
  head on({.block_rows = 8, .keys = 200, .depth = 32, .scale = 2.0F, .size = 2});
  const query_truth truth = truth_of({&on});
  for (const std::string& kind : both_tiles) {
    const query_results got = run_score(on, kind, 64);
    for (std::size_t r = 0; r < truth.max.size(); ++r) {
      CHECK(got.faults[r] == 0);
      CHECK(std::abs(static_cast<double>(got.log_mass[r]) - truth.log_mass[r]) <=
            1e-6 * std::abs(truth.log_mass[r]));
    }
  }
}

TEST_CASE("score_pass: a product that is not finite is a fault of its query alone",
          "[metal][score_pass]") {
  const float bad[] = {std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity(),
                       std::numeric_limits<float>::quiet_NaN()};
  for (const float x : bad) {
    for (const std::string& kind : both_tiles) {
      INFO(x << kind);
      head on({.block_rows = 40, .keys = 70, .depth = 10, .soft_cap = 8});
      put(*on.query_memory, dtype::fp32, on.logits.query_offset + 33 * on.logits.query_row_stride,
          static_cast<double>(x));
      const query_results got = run_score(on, kind, 64);
      for (std::size_t r = 0; r < 40; ++r) {
        CHECK((got.faults[r] & kernels::fault_product) == (r == 33 ? kernels::fault_product : 0U));
      }
    }
  }
}

TEST_CASE("score_pass: a key that is not finite is a fault of every query, hidden from it or not",
          "[metal][score_pass]") {
  for (const std::string& kind : both_tiles) {
    head on({.block_rows = 6, .keys = 70, .depth = 10, .causal = true, .first_key_position = 0});
    put(*on.key_memory, dtype::fp32, on.logits.key_offset + 68 * on.logits.key_row_stride + 3,
        infinity);
    for (const std::uint32_t faults : run_score(on, kind, 64).faults) {
      CHECK((faults & kernels::fault_product) != 0);
    }
  }
}

TEST_CASE("score_pass: an overflow upwards is a fault, one downwards hides the key",
          "[metal][score_pass]") {
  for (const std::string& kind : both_tiles) {
    head on({.block_rows = 4, .keys = 30, .depth = 8, .has_bias = true, .has_mask = true});
    const auto mask_at = [&](int r, int j, double x) {
      on.mask(r, j) = x;
      put(*on.mask_memory, dtype::fp32, on.logits.mask_offset + on.logits.mask_row_stride * r + j,
          x);
    };
    on.bias[5] = -3e38F;
    on.bias_memory->as<float>()[7] = -3e38F;
    on.bias[6] = 3e38F;
    on.bias_memory->as<float>()[8] = 3e38F;
    for (int r = 0; r < 4; ++r) mask_at(r, 6, -3e38);  // they cancel
    mask_at(1, 5, -3e38);                              // to −∞
    mask_at(2, 6, 3e38);                               // to +∞
    const query_results got = run_score(on, kind, 64);
    CHECK(got.faults[0] == 0);
    CHECK(got.faults[1] == 0);
    CHECK(got.faults[2] == kernels::fault_logit);
    CHECK(got.faults[3] == 0);
  }
}

TEST_CASE("score_pass gives the same bytes in any order of threads", "[metal][score_pass]") {
  head on({.blocks = 2,
           .block_rows = 20,
           .keys = 140,
           .depth = 36,
           .has_bias = true,
           .has_mask = true,
           .causal = true,
           .first_query_position = 100});
  for (const std::string& kind : both_tiles) {
    const query_results first = run_score(on, kind, 64, true);
    for (const order& how : metal_emulator::orders()) {
      const query_results again = run_score(on, kind, 64, true, how);
      CHECK((again.log_mass == first.log_mass));
      CHECK((again.output == first.output));
    }
  }
}

TEST_CASE("score_pass reads keys once for each tile of queries", "[metal][score_pass]") {
  for (const std::string& kind : both_tiles) {
    head on({.block_rows = 70, .keys = 130, .depth = 40, .key_type = dtype::fp16});
    const counts cost = run_score(on, kind, 4096).cost;
    CHECK(cost.buffers.at(kernels::buffer_keys).loaded_bytes == 3 * 130 * 40 * 2);
    CHECK(cost.buffers.at(kernels::buffer_queries).loaded_bytes == 3 * 70 * 40 * 4);
  }
}

TEST_CASE("output equals the oracle for all types, wide values and values wider than keys",
          "[metal][output]") {
  for (const dtype key_type : all_types) {
    INFO(name_of(key_type));
    check_score({.block_rows = 35,
                 .keys = 100,
                 .depth = 20,
                 .width = 24,
                 .query_type = key_type,
                 .key_type = key_type,
                 .has_bias = true},
                64, true);
  }
  for (const int width : {1, 7, 127, 129, 300}) {
    INFO("d_v = " << width);
    check_score({.block_rows = 3, .keys = 70, .depth = 9, .width = width}, 64, true);
  }
  check_score({.block_rows = 3, .keys = 1, .depth = 9, .width = 5}, 64, true);
}

TEST_CASE("output: keys and values whose columns lie in one piece", "[metal][output]") {
  check_score({.block_rows = 33,
               .keys = 70,
               .depth = 18,
               .width = 21,
               .key_type = dtype::fp16,
               .has_bias = true,
               .keys_transposed = true},
              64, true);
}

TEST_CASE("output reads values once for each tile of queries", "[metal][output]") {
  for (const std::string& kind : both_tiles) {
    head on({.block_rows = 40, .keys = 130, .depth = 16, .width = 150, .key_type = dtype::bf16});
    const counts cost = run_score(on, kind, 4096, true).cost;
    CHECK(cost.buffers.at(kernels::output_buffer_values).loaded_bytes == 2 * 130 * 150 * 2);
    CHECK(cost.buffers.at(kernels::buffer_keys).loaded_bytes == 2 * 2 * 130 * 16 * 2);
  }
}

}  // namespace
