// SPDX-License-Identifier: MIT
/// Where attention is written. The code that computes it gets plain memory and never resizes a
/// matrix: it may be compiled for another instruction set, and Eigen frees memory by the register
/// width that its code was compiled for.
#pragma once

#include "kvfit/attention/output.hpp"
#include "kvfit/attention/scores.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"

namespace kvfit {

/// An `attention_output` that is sized by the code that owns it, once its sizes are known.
struct output_target {
  /// n × d_v and n numbers, unset.
  struct memory {
    float* output = nullptr;
    float* log_mass = nullptr;
  };
  void* owner = nullptr;
  memory (*resize)(void* owner, index_t queries, index_t width) = nullptr;
};

/// Which numbers a score pass returns, and how many.
struct scores_shape {
  index_t queries = 0;
  index_t keys = 0;
  index_t width = 0;
  bool has_importance = false;
  bool has_exponentials = false;
};

/// The same for `attention_scores`.
struct scores_target {
  /// Unset; null where the shape has none.
  struct memory {
    float* max = nullptr;
    float* mass = nullptr;
    float* log_mass = nullptr;
    float* output = nullptr;        ///< n × d_v
    float* importance = nullptr;    ///< T
    float* exponentials = nullptr;  ///< T × n
    float* shift = nullptr;
  };
  void* owner = nullptr;
  memory (*resize)(void* owner, const scores_shape& shape) = nullptr;
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

inline output_target::memory resize_output(void* owner, index_t queries, index_t width) {
  auto& out = *static_cast<attention_output*>(owner);
  out.output.resize(queries, width);
  out.log_mass.resize(queries);
  return {.output = out.output.data(), .log_mass = out.log_mass.data()};
}

inline output_target target_of(attention_output& out) noexcept {
  return {.owner = &out, .resize = &resize_output};
}

inline scores_target::memory resize_scores(void* owner, const scores_shape& shape) {
  auto& out = *static_cast<attention_scores*>(owner);
  out.max.resize(shape.queries);
  out.mass.resize(shape.queries);
  out.log_mass.resize(shape.queries);
  out.output.resize(shape.queries, shape.width);
  scores_target::memory at{.max = out.max.data(),
                           .mass = out.mass.data(),
                           .log_mass = out.log_mass.data(),
                           .output = out.output.data()};
  if (shape.has_importance) {
    out.importance.resize(shape.keys);
    at.importance = out.importance.data();
  }
  if (shape.has_exponentials) {
    out.exponentials.resize(shape.keys, shape.queries);
    out.shift.resize(shape.queries);
    at.exponentials = out.exponentials.data();
    at.shift = out.shift.data();
  }
  return at;
}

inline scores_target target_of(attention_scores& out) noexcept {
  return {.owner = &out, .resize = &resize_scores};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
