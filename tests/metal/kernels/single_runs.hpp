// SPDX-License-Identifier: MIT
/// One dispatch of each kernel that takes no tiles of logits, at sizes that divide nothing, its
/// numbers as far from the beginning of their buffers as is wanted.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/metal/kernels/shared/factor_arguments.h"
#include "kvfit/metal/kernels/shared/gather_arguments.h"
#include "kvfit/metal/kernels/shared/importance_arguments.h"
#include "kvfit/metal/kernels/shared/product_arguments.h"
#include "kvfit/metal/kernels/shared/pursuit_arguments.h"
#include "kvfit/metal/kernels/shared/step_arguments.h"
#include "metal/kernels/attention_runs.hpp"

namespace kernel_tests {

/// A call whose numbers begin `before` elements into their buffers.
class placed_call {
 public:
  placed_call(const std::string& kernel, std::int64_t before) : kernel_(kernel), before_(before) {}

  /// Numbers that the kernel reads, and may write.
  template <class T>
  placed_call& in(int index, const std::vector<T>& numbers) {
    buffer& memory = place(index, numbers.size() * sizeof(T), sizeof(T), true);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      memory.as<T>()[static_cast<std::size_t>(before_) + i] = numbers[i];
    }
    return *this;
  }
  /// Numbers that the kernel is to write.
  template <class T>
  placed_call& out(int index, int count) {
    place(index, static_cast<std::size_t>(count) * sizeof(T), sizeof(T), false);
    return *this;
  }
  placed_call& absent(int index) {
    kernel_.absent(static_cast<unsigned>(index));
    return *this;
  }
  template <class Arguments>
  placed_call& bytes(int index, const Arguments& rule) {
    kernel_.bytes(static_cast<unsigned>(index), rule);
    return *this;
  }
  [[nodiscard]] call& raw() { return kernel_; }

  counts run(const metal_emulator::extent& groups) {
    return checked(kernel_.groups(groups, {threads, 1, 1})).cost;
  }
  /// What stands in a buffer after a run, from `before` on.
  [[nodiscard]] std::vector<std::byte> found(int index) {
    placed& at = memory_.at(index);
    const auto all = at.memory->as<std::byte>();
    return {all.begin() + static_cast<std::ptrdiff_t>(before_) * at.size, all.end()};
  }

 private:
  struct placed {
    std::unique_ptr<buffer> memory;
    std::ptrdiff_t size;  // of an element
  };
  buffer& place(int index, std::size_t bytes, std::size_t size, bool initialised) {
    auto memory =
        std::make_unique<buffer>(static_cast<std::size_t>(before_) * size + bytes, initialised);
    kernel_.memory(static_cast<unsigned>(index), *memory);
    auto& to = memory_[index];
    to = {std::move(memory), static_cast<std::ptrdiff_t>(size)};
    return *to.memory;
  }

  call kernel_;
  std::int64_t before_;
  std::map<int, placed> memory_;
};

/// What a dispatch wrote, and what it cost.
struct single_run {
  std::vector<std::vector<std::byte>> results;
  counts cost;
};

inline std::vector<float> some_numbers(int count, unsigned seed = 1, double low = 0.1) {
  std::mt19937 draw(seed);
  std::vector<float> out;
  for (int k = 0; k < count; ++k) {
    out.push_back(static_cast<float>(low + static_cast<double>(draw()) * 0x1p-32));
  }
  return out;
}

// Sizes, as docs/metal.md names them.
constexpr int single_n = 150;      ///< n: queries
constexpr int single_keys = 21;    ///< T
constexpr int single_listed = 9;   ///< t
constexpr int single_parts = 3;    ///< p
constexpr int single_width = 130;  ///< d_v

inline single_run run_merge_states(std::int64_t before) {
  constexpr int queries = 5;
  kernels::merge_arguments rule{};
  rule.state_offset = rule.part_output_offset = rule.sink_offset = before;
  rule.result_offset = rule.output_offset = before;
  rule.output_row_stride = rule.width = single_width;
  rule.queries = queries;
  rule.block_rows = 3;
  rule.parts = rule.output_parts = single_parts;
  rule.flags = kernels::merge_sinks | kernels::merge_outputs;
  std::vector<kernels::query_state> states;
  for (const float x : some_numbers(queries * single_parts)) states.push_back({x, 1 + x, 0, 0});
  placed_call on("merge_states", before);
  on.in(kernels::merge_buffer_states, states)
      .in(kernels::merge_buffer_part_outputs, some_numbers(queries * single_parts * single_width))
      .in(kernels::merge_buffer_sinks, std::vector<float>{0.5F, 1.5F})
      .out<float>(kernels::merge_buffer_max, queries)
      .out<float>(kernels::merge_buffer_mass, queries)
      .out<float>(kernels::merge_buffer_log_mass, queries)
      .out<std::uint32_t>(kernels::merge_buffer_faults, queries)
      .out<float>(kernels::merge_buffer_outputs, queries * single_width)
      .bytes(kernels::merge_buffer_arguments, rule);
  const counts cost = on.run({queries, 1, 1});
  return {{on.found(kernels::merge_buffer_log_mass), on.found(kernels::merge_buffer_mass),
           on.found(kernels::merge_buffer_faults), on.found(kernels::merge_buffer_outputs)},
          cost};
}

constexpr int single_pooling = 5;

inline single_run run_finish_importance(std::int64_t before) {
  const kernels::finish_importance_arguments rule{before,
                                                  before,
                                                  single_n,
                                                  single_parts,
                                                  70,
                                                  kernels::importance_rms,
                                                  kernels::pooling_average,
                                                  single_pooling};
  placed_call on("finish_importance", before);
  on.in(kernels::finish_importance_buffer_parts, some_numbers(single_n * single_parts))
      .out<float>(kernels::finish_importance_buffer_importance, single_n)
      .bytes(kernels::finish_importance_buffer_arguments, rule);
  const counts cost = on.run({tiles(single_n, kernels::group_threads), 1, 1});
  return {{on.found(kernels::finish_importance_buffer_importance)}, cost};
}

inline single_run run_correlate(std::int64_t before) {
  kernels::correlation_arguments rule{};
  rule.column_offset = rule.residual_offset = rule.key_offset = rule.rows_offset = before;
  rule.column_stride = rule.queries = single_n;
  rule.keys = single_keys;
  rule.flags = kernels::correlation_divisors | kernels::correlation_open |
               kernels::correlation_rows | kernels::correlation_absolute;
  std::vector<std::uint8_t> open(single_keys, 1);
  open[4] = 0;
  std::vector<std::int32_t> rows;
  for (int k = 0; k < single_keys; ++k) rows.push_back(single_keys - 1 - k);
  placed_call on("correlate", before);
  on.in(kernels::correlation_buffer_columns, some_numbers(single_keys * single_n))
      .in(kernels::correlation_buffer_residual, some_numbers(single_n, 2))
      .in(kernels::correlation_buffer_divisors, some_numbers(single_keys, 3))
      .in(kernels::correlation_buffer_open, open)
      .in(kernels::correlation_buffer_rows, rows)
      .out<float>(kernels::correlation_buffer_correlations, single_keys)
      .out<float>(kernels::correlation_buffer_scores, single_keys)
      .bytes(kernels::correlation_buffer_arguments, rule);
  const counts cost = on.run({tiles(single_keys, kernels::keys_per_group), 1, 1});
  return {{on.found(kernels::correlation_buffer_correlations),
           on.found(kernels::correlation_buffer_scores)},
          cost};
}

constexpr int single_best = 4;  ///< rows asked for, of each part

inline single_run run_best_rows(std::int64_t before) {
  kernels::best_arguments rule{};
  rule.candidate_offset = rule.best_offset = before;
  rule.candidates = single_n;
  rule.candidates_per_part = single_n / single_parts;
  rule.count = single_best;
  placed_call on("best_rows", before);
  on.in(kernels::best_buffer_candidates, some_numbers(single_n))
      .out<kernels::ranked_key>(kernels::best_buffer_best, single_parts * single_best)
      .absent(kernels::best_buffer_open)
      .bytes(kernels::best_buffer_arguments, rule);
  const counts cost = on.run({single_parts, 1, 1});
  return {{on.found(kernels::best_buffer_best)}, cost};
}

inline single_run run_best_of_parts(std::int64_t before) {
  kernels::best_arguments rule{};
  rule.candidate_offset = rule.best_offset = rule.open_offset = before;
  rule.candidates = rule.candidates_per_part = single_parts * single_best;
  rule.count = single_best;
  rule.flags = kernels::best_close;
  std::vector<kernels::ranked_key> ranked;
  for (const float x : some_numbers(single_parts * single_best)) {
    ranked.push_back({x, static_cast<std::int32_t>(ranked.size())});
  }
  placed_call on("best_of_parts", before);
  on.in(kernels::best_buffer_candidates, ranked)
      .out<kernels::ranked_key>(kernels::best_buffer_best, single_best)
      .in(kernels::best_buffer_open, std::vector<std::uint8_t>(single_n, 1))
      .bytes(kernels::best_buffer_arguments, rule);
  const counts cost = on.run({1, 1, 1});
  return {{on.found(kernels::best_buffer_best), on.found(kernels::best_buffer_open)}, cost};
}

constexpr int single_slots = 8;

inline single_run run_joint_update(std::int64_t before) {
  kernels::joint_arguments rule{};
  rule.product_offset = rule.waiting_offset = rule.key_offset = rule.slot_offset = before;
  rule.waiting_stride = 2;
  rule.keys = single_keys;
  rule.slots = single_slots;
  rule.slot = 3;
  rule.pending = 1;
  rule.scale = 0.25F;
  rule.squares = 0.5F;
  rule.dependent = 1e-5F;
  placed_call on("joint_update", before);
  on.in(kernels::joint_buffer_products, some_numbers(single_keys * single_slots, 1))
      .in(kernels::joint_buffer_shared, some_numbers(single_keys * single_slots, 2))
      .in(kernels::joint_buffer_waiting, std::vector<float>(2 * single_keys, 0.0F))
      .in(kernels::joint_buffer_scores, some_numbers(single_keys, 3))
      .in(kernels::joint_buffer_left, some_numbers(single_keys, 4, 1))
      .in(kernels::joint_buffer_norms, some_numbers(single_keys, 5, 1))
      .in(kernels::joint_buffer_open, std::vector<std::uint8_t>(single_keys, 1))
      .in(kernels::joint_buffer_along, some_numbers(single_slots, 6))
      .in(kernels::joint_buffer_change, some_numbers(single_slots, 7))
      .out<float>(kernels::joint_buffer_gains, single_keys)
      .bytes(kernels::joint_buffer_arguments, rule);
  const counts cost = on.run({tiles(single_keys, kernels::keys_per_group), 1, 1});
  return {{on.found(kernels::joint_buffer_products), on.found(kernels::joint_buffer_shared),
           on.found(kernels::joint_buffer_waiting), on.found(kernels::joint_buffer_scores),
           on.found(kernels::joint_buffer_left), on.found(kernels::joint_buffer_gains)},
          cost};
}

inline single_run run_squared_lengths(std::int64_t before) {
  placed_call on("squared_lengths", before);
  on.in(kernels::length_buffer_rows, some_numbers(single_keys * single_n))
      .out<float>(kernels::length_buffer_lengths, single_keys)
      .bytes(kernels::length_buffer_arguments,
             kernels::length_arguments{before, single_n, before, single_keys, single_n});
  const counts cost = on.run({tiles(single_keys, kernels::keys_per_group), 1, 1});
  return {{on.found(kernels::length_buffer_lengths)}, cost};
}

inline kernels::step_arguments step_rule(std::int64_t before) {
  kernels::step_arguments rule{};
  rule.column_offset = rule.rows_offset = rule.weight_offset = rule.query_offset = before;
  rule.part_offset = rule.step_offset = before;
  rule.column_stride = rule.queries = single_n;
  rule.keys = single_listed;
  rule.lower = 0.05F;
  rule.upper = 20;
  rule.flags = kernels::step_rows | kernels::step_target;
  return rule;
}
inline std::vector<std::int32_t> listed_rows() {
  std::vector<std::int32_t> rows;
  for (int k = 0; k < single_listed; ++k) rows.push_back(2 * k);
  return rows;
}

inline single_run run_residual(std::int64_t before) {
  placed_call on("residual", before);
  on.in(kernels::step_buffer_columns, some_numbers(single_keys * single_n))
      .in(kernels::step_buffer_rows, listed_rows())
      .in(kernels::step_buffer_weights, some_numbers(single_listed, 2))
      .in(kernels::step_buffer_target, some_numbers(single_n, 3))
      .out<float>(kernels::step_buffer_residual, single_n)
      .out<float>(kernels::step_buffer_squares, 2)
      .bytes(kernels::step_buffer_arguments, step_rule(before));
  const counts cost = on.run({tiles(single_n, kernels::group_threads), 1, 1});
  return {{on.found(kernels::step_buffer_residual), on.found(kernels::step_buffer_squares)}, cost};
}

inline single_run run_projected_step(std::int64_t before) {
  placed_call on("projected_step", before);
  on.in(kernels::step_buffer_columns, some_numbers(single_keys * single_n))
      .in(kernels::step_buffer_rows, listed_rows())
      .in(kernels::step_buffer_weights, some_numbers(single_listed, 2, 5))
      .in(kernels::step_buffer_residual, some_numbers(single_n, 3))
      .in(kernels::step_buffer_steps, std::vector<float>{0.01F})
      .bytes(kernels::step_buffer_arguments, step_rule(before));
  const counts cost = on.run({tiles(single_listed, kernels::keys_per_group), 1, 1});
  return {{on.found(kernels::step_buffer_weights)}, cost};
}

inline single_run run_power_step(std::int64_t before) {
  kernels::step_arguments rule = step_rule(before);
  rule.keys = single_n;
  placed_call on("power_step", before);
  on.in(kernels::step_buffer_weights, some_numbers(single_n, 1))
      .in(kernels::step_buffer_images, some_numbers(single_n, 2))
      .out<float>(kernels::step_buffer_steps, 1)
      .out<float>(kernels::step_buffer_squared_sigmas, 1)
      .bytes(kernels::step_buffer_arguments, rule);
  const counts cost = on.run({1, 1, 1});
  return {{on.found(kernels::step_buffer_weights), on.found(kernels::step_buffer_steps),
           on.found(kernels::step_buffer_squared_sigmas)},
          cost};
}

constexpr int single_rows = 40;  ///< of A
constexpr int single_cols = 70;  ///< of B

inline single_run run_product(const std::string& kernel, std::int64_t before) {
  const bool is_gram = kernel.rfind("gram", 0) == 0;
  kernels::product_arguments rule{};
  rule.left_offset = rule.right_offset = rule.factor_offset = rule.out_offset = before;
  rule.left_row_stride = rule.depth = single_n;
  rule.right_row_stride = rule.cols = single_cols;
  rule.rows = single_rows;
  rule.out_row_stride = is_gram ? single_rows : single_cols;
  rule.flags = kernels::product_scaled | (is_gram ? 0U : kernels::product_subtract);
  const int across = is_gram ? single_rows : single_cols;
  placed_call on(kernel, before);
  on.in(kernels::product_buffer_left, some_numbers(single_rows * single_n, 1))
      .in(kernels::product_buffer_factors, some_numbers(single_n, 2))
      .bytes(kernels::product_buffer_arguments, rule);
  if (is_gram) {
    on.out<float>(kernels::product_buffer_out, single_rows * across);
  } else {
    on.in(kernels::product_buffer_right, some_numbers(single_n * single_cols, 3))
        .in(kernels::product_buffer_out, some_numbers(single_rows * across, 4));
  }
  const counts cost =
      on.run({tiles(across, kernels::key_tile), tiles(single_rows, kernels::query_tile), 1});
  return {{on.found(kernels::product_buffer_out)}, cost};
}

constexpr int single_size = 105;  ///< t of a factor: three blocks of 32 and one of 9
constexpr int single_right = 70;  ///< right sides

/// The step of the block that begins at `first`.
inline single_run run_factor_step(const std::string& kernel, int first, std::int64_t before) {
  const bool has_right = kernel.rfind("solve_panel", 0) != 0 &&
                         (kernel.rfind("solve", 0) == 0 || kernel.rfind("update_below", 0) == 0 ||
                          kernel.rfind("update_above", 0) == 0);
  kernels::factor_arguments rule{};
  rule.matrix_offset = rule.right_offset = rule.failed_offset = before;
  rule.matrix_row_stride = rule.size = single_size;
  rule.right_row_stride = rule.cols = single_right;
  std::vector<float> matrix = some_numbers(single_size * single_size);
  for (int j = 0; j < single_size; ++j) {
    matrix[static_cast<std::size_t>(j * single_size + j)] = single_size;  // dominates its row
  }
  placed_call on(kernel, before);
  on.in(kernels::factor_buffer_matrix, matrix)
      .in(kernels::factor_buffer_failed, std::vector<std::int32_t>{-1})
      .bytes(kernels::factor_buffer_arguments, rule)
      .bytes(kernels::factor_buffer_first, std::int32_t{first});
  if (has_right) on.in(kernels::factor_buffer_right, some_numbers(single_size * single_right, 2));
  const int below = single_size - first - kernels::factor_block_size;
  metal_emulator::extent groups{1, 1, 1};
  if (kernel.rfind("update_trailing", 0) == 0) {
    groups = {tiles(below, kernels::key_tile), tiles(below, kernels::query_tile), 1};
  } else if (kernel.rfind("update", 0) == 0) {
    const int rows = kernel.rfind("update_above", 0) == 0 ? first : below;
    groups = {tiles(single_right, kernels::key_tile), tiles(rows, kernels::query_tile), 1};
  }
  const counts cost = on.run(groups);
  return {{on.found(has_right ? kernels::factor_buffer_right : kernels::factor_buffer_matrix)},
          cost};
}

/// `score_pass`, `output`, `importance` or `gather` of a head whose results lie far on.
inline single_run run_tiled(const std::string& name, const std::string& tile_kind,
                            std::int64_t before) {
  head on({.block_rows = 35, .keys = 70, .depth = 9, .width = 5});
  const int n = on.rows();
  placed_call made(on.kernel(name, tile_kind), before);
  on.bind(made.raw());
  const std::vector<float> largest(static_cast<std::size_t>(n), 1.0F);
  if (name == "score_pass") {
    made.out<kernels::query_state>(kernels::score_buffer_states, n)
        .bytes(kernels::buffer_arguments, kernels::score_arguments{on.logits, before, 128, 0});
    const counts cost = made.run({2, 1, 1});
    return {{made.found(kernels::score_buffer_states)}, cost};
  }
  if (name == "output") {
    made.raw().memory(kernels::output_buffer_values, *on.value_memory);
    made.in(kernels::output_buffer_max, largest)
        .out<float>(kernels::output_buffer_part_outputs, n * 5)
        .bytes(kernels::buffer_arguments,
               kernels::output_arguments{on.logits, on.value_rule, before, before, 128, 1});
    const counts cost = made.run({2, 1, 1});
    return {{made.found(kernels::output_buffer_part_outputs)}, cost};
  }
  if (name == "attention") {
    made.raw().memory(kernels::attention_buffer_values, *on.value_memory);
    made.out<kernels::query_state>(kernels::attention_buffer_states, n)
        .out<float>(kernels::attention_buffer_part_outputs, n * 5)
        .bytes(kernels::buffer_arguments,
               kernels::attention_arguments{on.logits, on.value_rule, before, before, 128, 1});
    const counts cost = made.run({2, 1, 1});
    return {{made.found(kernels::attention_buffer_states),
             made.found(kernels::attention_buffer_part_outputs)},
            cost};
  }
  if (name == "importance") {
    std::vector<std::uint8_t> observed(static_cast<std::size_t>(n), 1);
    observed[7] = 0;
    made.in(kernels::importance_buffer_max, largest)
        .in(kernels::importance_buffer_mass, largest)
        .in(kernels::importance_buffer_observed, observed)
        .out<float>(kernels::importance_buffer_parts, 70)
        .bytes(kernels::buffer_arguments,
               kernels::importance_arguments{on.logits, before, before, before, 64,
                                             kernels::importance_rms, 1, 0});
    const counts cost = made.run({2, 1, 1});
    return {{made.found(kernels::importance_buffer_parts)}, cost};
  }
  made.in(kernels::gather_buffer_shifts, largest)
      .in(kernels::gather_buffer_factors, largest)
      .out<float>(kernels::gather_buffer_columns, 70 * n)
      .bytes(kernels::buffer_arguments, kernels::gather_arguments{on.logits, before, before, n});
  const counts cost = made.run({2, 2, 1});
  return {{made.found(kernels::gather_buffer_columns)}, cost};
}

/// All kernels of the library, each with its name.
inline std::vector<std::pair<std::string, std::function<single_run(std::int64_t)>>> all_kernels() {
  std::vector<std::pair<std::string, std::function<single_run(std::int64_t)>>> out = {
      {"merge_states", run_merge_states},
      {"finish_importance", run_finish_importance},
      {"correlate", run_correlate},
      {"best_rows", run_best_rows},
      {"best_of_parts", run_best_of_parts},
      {"joint_update", run_joint_update},
      {"squared_lengths", run_squared_lengths},
      {"residual", run_residual},
      {"projected_step", run_projected_step},
      {"power_step", run_power_step}};
  const auto add_step = [&](const std::string& name, int first) {
    out.emplace_back(name,
                     [=](std::int64_t before) { return run_factor_step(name, first, before); });
  };
  add_step("factor_block", 32);
  add_step("solve_panel", 32);
  add_step("solve_lower_block", 32);
  add_step("solve_upper_block", 32);
  for (const std::string& kind : both_tiles) {
    for (const std::string name : {"gram", "moments"}) {
      out.emplace_back(name + kind,
                       [=](std::int64_t before) { return run_product(name + kind, before); });
    }
    add_step("update_trailing" + kind, 32);
    add_step("update_below" + kind, 32);
    add_step("update_above" + kind, 64);
    for (const std::string name : {"score_pass", "output", "attention", "importance", "gather"}) {
      out.emplace_back(name + "_fp32_fp32" + kind,
                       [=](std::int64_t before) { return run_tiled(name, kind, before); });
    }
  }
  return out;
}

}  // namespace kernel_tests
