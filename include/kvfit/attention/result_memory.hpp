// SPDX-License-Identifier: MIT
/// Where attention is written. The code that computes it gets plain memory and never resizes a
/// matrix: it may be compiled for another instruction set, and Eigen frees memory by the register
/// width that its code was compiled for.
#pragma once

#include "kvfit/attention/head_sizes.hpp"
#include "kvfit/attention/output.hpp"
#include "kvfit/attention/score_options.hpp"
#include "kvfit/attention/score_target.hpp"
#include "kvfit/attention/scores.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/workspace.hpp"

namespace kvfit {

/// Where the numbers of an `attention_output` are to be written, row-major.
struct output_target {
  float* output = nullptr;    ///< n × d_v
  float* log_mass = nullptr;  ///< n
};

/// Allocates an `attention_output` once its sizes are known.
struct output_owner {
  void* owner = nullptr;
  output_target (*allocate)(void* owner, index_t queries, index_t width) = nullptr;
};

/// Allocates `attention_scores` once their sizes are known.
struct scores_owner {
  void* owner = nullptr;
  score_target (*allocate)(void* owner, const head_sizes& sizes,
                           const score_options& options) = nullptr;
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// Whether a score pass of these sizes keeps the exponentials.
inline bool keeps_exponentials(const head_sizes& sizes, const score_options& options) noexcept {
  return float_bytes(sizes.queries, sizes.keys) <= static_cast<double>(options.keep_exponentials);
}

/// What a score pass returns.
inline void declare_scores(workspace& space, attention_scores& scores, const head_sizes& sizes,
                           const score_options& options) {
  space.add_vectors(sizes.queries, scores.max, scores.mass, scores.log_mass);
  if (options.outputs) space.add(scores.output, sizes.queries, sizes.width);
  if (options.importance != importance_kind::none) space.add(scores.importance, sizes.keys);
  if (!keeps_exponentials(sizes, options)) return;
  space.add(scores.exponentials, sizes.keys, sizes.queries);
  space.add(scores.shift, sizes.queries);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

inline output_target allocate_output(void* owner, index_t queries, index_t width) {
  auto& out = *static_cast<attention_output*>(owner);
  out.output.resize(queries, width);
  out.log_mass.resize(queries);
  return {.output = out.output.data(), .log_mass = out.log_mass.data()};
}

inline output_owner owner_of(attention_output& out) noexcept {
  return {.owner = &out, .allocate = &allocate_output};
}

inline score_target allocate_scores(void* owner, const head_sizes& sizes,
                                    const score_options& options) {
  auto& out = *static_cast<attention_scores*>(owner);
  workspace space(workspace::purpose::allocate);
  declare_scores(space, out, sizes, options);
  const bool is_ranked = options.importance != importance_kind::none;
  const bool is_kept = keeps_exponentials(sizes, options);
  return {.max = out.max.data(),
          .mass = out.mass.data(),
          .log_mass = out.log_mass.data(),
          .output = options.outputs ? out.output.data() : nullptr,
          .importance = is_ranked ? out.importance.data() : nullptr,
          .exponentials = is_kept ? out.exponentials.data() : nullptr,
          .shift = is_kept ? out.shift.data() : nullptr};
}

inline scores_owner owner_of(attention_scores& out) noexcept {
  return {.owner = &out, .allocate = &allocate_scores};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
