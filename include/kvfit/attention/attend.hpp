// SPDX-License-Identifier: MIT
/// The reference attention kernel with a bias per key: what an engine must compute over a compact
/// prefix and its live suffix.
#pragma once

#include <initializer_list>
#include <span>

#include "kvfit/attention/attend_options.hpp"
#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/output.hpp"
#include "kvfit/attention/result_memory.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

#if defined(KVFIT_COMPILED)
#include "kvfit/attention/compiled.hpp"
#else
#include "kvfit/attention/attend_blocks.hpp"
#endif

namespace kvfit {
inline namespace KVFIT_ISA {

/// Bytes that `attend` holds at most, its result included; `options.memory` is not used.
inline double attend_bytes(const query_set& queries, std::span<const kv_block> blocks,
                           const attend_options& options = {}) {
#if defined(KVFIT_COMPILED)
  return compiled::best_attention().attend_bytes(queries, blocks, options);
#else
  return detail::attend_blocks_bytes(queries, blocks, options);
#endif
}

/// softmax(logits + bias) · values over all `blocks` together, block by block, merged exactly:
///
///     log_mass_i = ln Σ_b Σ_j exp(s_ij),   output_i = Σ_b Σ_j exp(s_ij − log_mass_i) v_j
///
/// The query blocks are the heads of one GQA group. A compact prefix is a block with its bias and
/// original positions (`compacted::block()`); the live suffix is another.
///
///     auto y = attend(queries, {fitted.block(), {.keys = live_keys, .values = live_values}});
///
/// Errors as for `score_pass`; all values must have the same width. A block without rows adds
/// nothing. A query that sees nothing gets
/// output 0 and log-mass −∞. Workspace: one panel of at most max(16 MB, 8 · T · 4 bytes) a block
/// (`attend_bytes`), or less by `options.memory`.
inline result<attention_output> attend(const query_set& queries, std::span<const kv_block> blocks,
                                       const logit_rule& rule = {},
                                       const attend_options& options = {}) {
  return detail::catch_bad_alloc("attend", [&]() -> result<attention_output> {
    attention_output out;
    const output_owner into = detail::owner_of(out);
#if defined(KVFIT_COMPILED)
    const auto ok = compiled::best_attention().attend(queries, blocks, rule, options, into);
#else
    const auto ok = detail::attend_blocks(queries, blocks, rule, options, into);
#endif
    if (!ok) return ok.error();
    return out;
  });
}

/// The same for blocks written in place.
inline result<attention_output> attend(const query_set& queries,
                                       std::initializer_list<kv_block> blocks,
                                       const logit_rule& rule = {},
                                       const attend_options& options = {}) {
  return attend(queries, std::span<const kv_block>(blocks.begin(), blocks.size()), rule, options);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
