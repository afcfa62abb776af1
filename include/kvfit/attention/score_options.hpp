// SPDX-License-Identifier: MIT
/// What a score pass is asked.
#pragma once

#include <cstdint>
#include <optional>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/precision.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {

/// How a key's attention weights A_ij over the queries i become one number.
enum class importance_kind : std::uint8_t {
  none,  ///< not asked for
  mean,  ///< (1/n) Σ_i A_ij
  rms,   ///< √((1/n) Σ_i A_ij²)
  max,   ///< max_i A_ij
};

/// One-dimensional pooling of importance along the keys as they lie in memory, stride 1; hidden
/// rows count as zeros.
enum class pooling_kind : std::uint8_t { none, average, max };

/// What a score pass computes beside mass and output, and in how much memory.
struct score_options {
  importance_kind importance = importance_kind::rms;
  pooling_kind pooling = pooling_kind::none;
  /// Width of the pooling window: odd and ≥ 1. (An even one can't be centred: the published code
  /// then yields T + 1 scores.)
  index_t pooling_width = 7;
  /// Bytes: `attention_scores::exponentials` is kept where its n · T floats take no more. A
  /// selection that needs them all then need not make them again.
  index_t keep_exponentials = 0;
  /// Whether outputs are computed; without them `attention_scores::output` is empty, no value is
  /// read, and the pass costs n · T · d_k. All else is the same to the bit.
  bool outputs = true;
  /// Importance counts the `window` queries of every query block at the largest positions, its
  /// observation window, of those at one position the later rows; 0: all of them.
  index_t window = 0;
  /// Of both products, K Qᵀ and exp(S)ᵀ V. By AMX, AVX-512 BF16 or BFMMLA where the compiler was
  /// told of them; elsewhere bf16 is slower than fp32. Numbers beyond 3.39e38 are taken for that.
  precision_kind precision = precision_kind::fp32;
  /// Queries taken together at most, ≥ 0; 0: as many as have 16 MB of logits, from 8 to 96
  /// (`panel_rows`). Fewer take less memory and more time, and change what rounding decides.
  index_t panel = 0;
  /// Panels computed at the same time, ≥ 1, where the pass is given an executor; each takes its own
  /// workspace. Results do not depend on it.
  index_t panels_at_once = 1;
  /// Bytes, ≥ 0, that `score_pass` may hold at once beyond its inputs, its result included; none:
  /// as many as it takes (`score_pass_bytes`). Where that is more, panels come one after the other,
  /// then exponentials are not kept, then panels are halved, down to one query.
  std::optional<index_t> memory = {};
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// `invalid_option` where the pooling window has no centre, or a size is negative.
inline result<void> check_score_options(const score_options& options) {
  if (options.pooling_width < 1 || options.pooling_width % 2 == 0) {
    return error{errc::invalid_option, "pooling_width", options.pooling_width, error::none,
                 "must be odd and at least 1"};
  }
  if (options.precision > precision_kind::bf16) {
    return error{errc::invalid_option, "precision", static_cast<index_t>(options.precision),
                 error::none, "no such precision"};
  }
  if (options.window < 0) {
    return error{errc::invalid_option, "window", options.window, 0, "must not be negative"};
  }
  if (options.panel < 0) {
    return error{errc::invalid_option, "panel", options.panel, 0, "must not be negative"};
  }
  if (options.panels_at_once < 1) {
    return error{errc::invalid_option, "panels_at_once", options.panels_at_once, 1,
                 "must be at least 1"};
  }
  if (options.memory.value_or(0) < 0) {
    return error{errc::invalid_option, "memory", *options.memory, 0, "must not be negative"};
  }
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
