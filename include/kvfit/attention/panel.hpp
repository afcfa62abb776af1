// SPDX-License-Identifier: MIT
/// Softmax attention of one panel of queries over every key of a block: the loop that the score
/// pass and the reference kernel share.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "kvfit/attention/logits.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/simd/softmax.hpp"
#include "kvfit/view/check.hpp"

namespace kvfit::inline KVFIT_ISA {

/// One panel at a time: exp(s_ij − max_i), max_i, mass_i and output_i. Workspace: panel_rows(T) × T
/// floats.
class attention_panel {
 public:
  attention_panel(const kv_block& cache, const query_set& queries, const logit_rule& rule)
      : cache_(cache), logits_(cache, queries, rule) {}

  /// Computes `part`. `non_finite` (row of the query) where a product of query and key, or a logit,
  /// overflows fp32 (argument "logits"), or the values' weighted sum does (argument "output").
  result<void> compute(const query_panel& part) {
    const index keys = cache_.keys.rows();
    const index width = cache_.values.cols();
    exponentials_.resize(part.count, keys);
    output_.resize(part.count, width);
    max_.resize(part.count);
    mass_.resize(static_cast<std::size_t>(part.count));
    value_buffer_.resize(static_cast<std::size_t>(value_tile * width));
    const index overflow = logits_.fill(part, exponentials_.data(), keys);
    if (overflow < part.count) {
      return error{errc::non_finite, "logits", part.offset + overflow, error::none,
                   "a product of query and key overflows fp32; the row is the query's"};
    }
    for (index i = 0; i < part.count; ++i) {
      float* row = exponentials_.row(i).data();
      max_[i] = simd::max_value(row, keys);
      const double mass = simd::exp_shifted_sum(row, keys, max_[i]);
      mass_[static_cast<std::size_t>(i)] = mass;
      if (max_[i] == std::numeric_limits<float>::infinity() ||
          !detail::is_finite(static_cast<float>(mass))) {
        return error{errc::non_finite, "logits", part.offset + i, error::none,
                     "product, bias and mask together overflow fp32; the row is the query's"};
      }
    }
    output_.setZero();
    for (index first = 0; first < keys; first += value_tile) {
      const index count = std::min(value_tile, keys - first);
      const float_tile v = load_rows(cache_.values, first, count, value_buffer_.data());
      const Eigen::Map<const matrix, 0, Eigen::OuterStride<>> values(
          v.data, count, width, Eigen::OuterStride<>(v.stride));
      output_.noalias() += exponentials_.middleCols(first, count) * values;
    }
    for (index i = 0; i < part.count; ++i) {
      if (mass(i) > 0) output_.row(i) *= static_cast<float>(1.0 / mass(i));
      const index at = detail::first_non_finite(output_.row(i).data(), width);
      if (at < width) {
        return error{errc::non_finite, "output", part.offset + i, at,
                     "the values' weighted sum overflows fp32; the row is the query's"};
      }
    }
    return {};
  }

  /// exp(s_ij − max_i) for all keys j.
  [[nodiscard]] const float* exponentials(index i) const noexcept {
    return exponentials_.row(i).data();
  }
  /// −∞ where every key is hidden.
  [[nodiscard]] float max(index i) const noexcept { return max_[i]; }
  /// Σ_j exp(s_ij − max_i): in [1, T], or 0 where every key is hidden.
  [[nodiscard]] double mass(index i) const noexcept { return mass_[static_cast<std::size_t>(i)]; }
  /// Row i of the attention output; 0 where every key is hidden. Writable, for merging states.
  [[nodiscard]] auto output(index i) noexcept { return output_.row(i); }

 private:
  static constexpr index value_tile = 256;

  kv_block cache_;
  logit_source logits_;
  matrix exponentials_;
  matrix output_;
  vector max_;
  std::vector<double> mass_;
  std::vector<float> value_buffer_;
};

}  // namespace kvfit::inline KVFIT_ISA
