// SPDX-License-Identifier: MIT
/// A score pass by whoever a caller names, or by the CPU.
#pragma once

#include <span>

#include "kvfit/attention/score_pass.hpp"
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
    const index_t n = queries.rows();
    const index_t keys = cache.keys.rows();
    attention_scores scores;
    for (vector* of : {&scores.max, &scores.mass, &scores.log_mass}) of->resize(n);
    scores.output.resize(n, cache.values.cols());
    score_target to{.max = scores.max.data(),
                    .mass = scores.mass.data(),
                    .log_mass = scores.log_mass.data(),
                    .output = scores.output.data()};
    if (options.importance != importance_kind::none) {
      scores.importance.resize(keys);
      to.importance = scores.importance.data();
    }
    if (float_bytes(n, keys) <= static_cast<double>(options.keep_exponentials)) {
      scores.exponentials.resize(keys, n);
      scores.shift.resize(n);
      to.exponentials = scores.exponentials.data();
      to.shift = scores.shift.data();
    }
    const auto is_done =
        runner.run(runner.owner, {cache, queries, rule, options, origins, stop, to});
    if (!is_done) return is_done.error();
    if (*is_done) return scores;
  }
  return score_checked(cache, queries, rule, options, origins, stop, threads);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
