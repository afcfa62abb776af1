// SPDX-License-Identifier: MIT
/// The entry points of the compiled library (target kvfit::compiled) behind `attend`, `score_pass`
/// and `compare`.
///
/// No Eigen matrix is made or resized behind them: results are written into memory of the caller
/// (attention/result_memory.hpp), and matrices that are handed over are only read.
#pragma once

#include <span>

#include "kvfit/attention/attend_options.hpp"
#include "kvfit/attention/fidelity.hpp"
#include "kvfit/attention/head_sizes.hpp"
#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/result_memory.hpp"
#include "kvfit/attention/score_options.hpp"
#include "kvfit/core/compiled_entry_points.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/parallel/stop.hpp"

namespace kvfit::compiled {

/// One instruction set's `attend()`, `score_pass()` and `compare()`.
struct attention_entry_points {
  result<void> (*attend)(const query_set& queries, std::span<const kv_block> blocks,
                         const logit_rule& rule, const attend_options& options,
                         const output_owner& into);
  double (*attend_bytes)(const query_set& queries, std::span<const kv_block> blocks,
                         const attend_options& options);
  result<void> (*score_pass)(const kv_block& cache, const query_set& queries,
                             const logit_rule& rule, const score_options& options,
                             const stop_when& stop, const executor_ref& threads,
                             const scores_owner& into);
  double (*score_pass_bytes)(const head_sizes& sizes, const score_options& options);
  fidelity (*compare)(const matrix& output, const vector& log_mass, const matrix& fitted,
                      const vector& fitted_log_mass) noexcept;
};

/// Those of the best of the instruction sets compiled.
inline const attention_entry_points& best_attention() noexcept {
  return *available().front().attention;
}

}  // namespace kvfit::compiled
