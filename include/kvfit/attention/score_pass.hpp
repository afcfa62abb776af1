// SPDX-License-Identifier: MIT
/// The score pass: everything compaction must know of full attention, in one streaming sweep.
#pragma once

#include "kvfit/attention/head_sizes.hpp"
#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/result_memory.hpp"
#include "kvfit/attention/score_options.hpp"
#include "kvfit/attention/scores.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/parallel/stop.hpp"

#if defined(KVFIT_COMPILED)
#include "kvfit/attention/compiled.hpp"
#else
#include "kvfit/attention/score_panels.hpp"
#endif

namespace kvfit {
inline namespace KVFIT_ISA {

/// Bytes that `score_pass` holds at most, its result included; `options.memory` is not used.
inline double score_pass_bytes(const head_sizes& sizes, const score_options& options) {
#if defined(KVFIT_COMPILED)
  return compiled::best_attention().score_pass_bytes(sizes, options);
#else
  return detail::checked_scores_bytes(sizes, options);
#endif
}

/// Sweeps all keys once for every panel of queries: log-mass, output and importance.
///
/// Never holds n × T numbers, unless `keep_exponentials` asks for them: the workspace is a panel
/// of at most max(16 MB, 8 · T · 4 bytes) for each of `panels_at_once` plus the results
/// (`score_pass_bytes`). Cost n · T · (d_k
/// + d_v) multiply-adds and n · T exponentials, pooling T · width. Errors: everything that
/// `check_cache` and `check_queries` refuse, `invalid_option`, `memory_cap_exceeded` before
/// anything is computed, `cancelled` where `stop` is due before a panel or a group of them, and
/// `non_finite` where fp32 overflows in a product of query and key or a logit (argument "logits"),
/// or in the values' weighted sum ("output"); the row is the query's. A bias and a mask that
/// overflow downwards together hide the key. A query that sees no key at all is no error here.
/// `threads` runs `panels_at_once` panels of queries at the same time: same bytes.
inline result<attention_scores> score_pass(const kv_block& cache, const query_set& queries,
                                           const logit_rule& rule = {},
                                           const score_options& options = {},
                                           const stop_when& stop = {},
                                           const executor_ref& threads = {}) {
  return detail::catch_bad_alloc("score_pass", [&]() -> result<attention_scores> {
    attention_scores scores;
    const scores_owner into = detail::owner_of(scores);
#if defined(KVFIT_COMPILED)
    const auto ok =
        compiled::best_attention().score_pass(cache, queries, rule, options, stop, threads, into);
#else
    const auto ok = detail::check_and_score(cache, queries, rule, options, stop, threads, into);
#endif
    if (!ok) return ok.error();
    return scores;
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
