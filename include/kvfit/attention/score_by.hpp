// SPDX-License-Identifier: MIT
/// A score pass by whoever a caller names, or by the CPU.
#pragma once

#include <span>

#include "kvfit/attention/result_memory.hpp"
#include "kvfit/attention/score_panels.hpp"
#include "kvfit/attention/score_request.hpp"
#include "kvfit/core/config.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// `score_checked`, by `runner` where there is one that takes the pass. Exponentials are asked for
/// where they fit, as `score_checked` does.
inline result<attention_scores> score_by(const score_runner& runner, const kv_block& cache,
                                         const query_set& queries, const logit_rule& rule,
                                         const score_options& options,
                                         std::span<const block_origin> origins,
                                         const stop_when& stop, const executor_ref& threads) {
  if (runner.run != nullptr) {
    if (const auto go_on = check_stop(stop, "score pass"); !go_on) return go_on.error();
    attention_scores scores;
    const score_target to = allocate_scores(&scores, sizes_of_head(cache, queries), options);
    const auto is_done =
        runner.run(runner.owner, {cache, queries, rule, options, origins, stop, to});
    if (!is_done) return is_done.error();
    if (*is_done) return scores;
  }
  return score_checked(cache, queries, rule, options, origins, stop, threads);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
