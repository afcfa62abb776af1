// SPDX-License-Identifier: MIT
/// Softmax attention of one panel of queries over every key of a block: the loop that the score
/// pass and the reference kernel share.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kvfit/attention/logits.hpp"
#include "kvfit/attention/tile_product.hpp"
#include "kvfit/attention/visible_rows.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/simd/accumulate.hpp"
#include "kvfit/simd/softmax.hpp"
#include "kvfit/view/check.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// One panel at a time, in one sweep over the keys: exp(s_ij − shift_i), Σ_j of them, max_i and
/// output_i. Keys run down and queries across, so that neither product needs its factors
/// rearranged, and a tile of keys stays in cache from its logits to its share of the output:
///
///     S = K Qᵀ (keys × queries),   E = exp(S − shift),   output = Eᵀ V / Σ E
///
/// The shift is the largest logit of the first tile that has any, and follows the running maximum
/// only where that gets e¹⁶ ahead: so most queries have one shift for all keys, and equal logits
/// equal exponentials. Workspace: T × panel_rows(T) floats, unless the caller gives memory for E.
class attention_panel {
 public:
  attention_panel(const kv_block& cache, const query_set& queries, const logit_rule& rule,
                  precision_kind precision = precision_kind::fp32)
      : cache_(cache), logits_(cache, queries, rule, {}, precision), product_(precision) {}

  /// Computes `part`. `non_finite` (row of the query) where a product of query and key, or a logit
  /// upwards, overflows fp32 (argument "logits"), or the values' weighted sum does (argument
  /// "output").
  result<void> compute(const query_panel& part) {
    own_.resize(cache_.keys.rows(), part.count);
    return compute(part, own_.data(), part.count);
  }

  /// The same with E in memory of the caller: key j's row at `memory + j · stride`.
  result<void> compute(const query_panel& part, float* memory, index_t stride) {
    exponentials_ = {memory, stride};
    constexpr float lowest = -std::numeric_limits<float>::infinity();
    output_.resize(part.count, cache_.values.cols());
    std::fill_n(output_.data(), output_.size(), 0.0F);
    max_.resize(part.count);
    std::fill_n(max_.data(), part.count, lowest);
    shift_.resize(part.count);
    std::fill_n(shift_.data(), part.count, lowest);
    sum_.assign(static_cast<std::size_t>(part.count), 0.0);
    raised_.clear();
    value_buffer_.resize(static_cast<std::size_t>(logit_source::key_tile * output_.cols()));
    logits_.begin(part);
    index_t overflow = part.count;
    for (index_t first = 0; first < logits_.keys(); first += logit_source::key_tile) {
      overflow = std::min(overflow, logits_.fill_tile(part, first, memory, stride, &cache_.values));
      take_tile(first, std::min(logit_source::key_tile, logits_.keys() - first), part.count);
    }
    if (overflow < part.count) {
      return error{errc::non_finite, "logits", part.offset + overflow, error::none,
                   "a product of query and key overflows fp32; the row is the query's"};
    }
    lower_old_exponentials();
    return finish(part);
  }

  /// exp(s_ij − shift_i) of key j, for every query i of the panel.
  [[nodiscard]] const float* exponentials(index_t j) const noexcept {
    return exponentials_.data + j * exponentials_.stride;
  }
  /// −∞ where every key is hidden.
  [[nodiscard]] float max(index_t i) const noexcept { return max_[i]; }
  /// At most max_i and within 16 of it; −∞ where every key is hidden.
  [[nodiscard]] float shift(index_t i) const noexcept { return shift_[i]; }
  /// Σ_j exp(s_ij − shift_i), or 0 where every key is hidden.
  [[nodiscard]] double sum(index_t i) const noexcept { return sum_[static_cast<std::size_t>(i)]; }
  /// ln Σ_j exp(s_ij); −∞ where every key is hidden.
  [[nodiscard]] double log_mass(index_t i) const noexcept {
    return static_cast<double>(shift_[i]) + std::log(sum(i));
  }
  /// Σ_j exp(s_ij − max_i): in [1, T], or 0 where every key is hidden.
  [[nodiscard]] double mass(index_t i) const noexcept {
    if (shift_[i] == max_[i]) return sum(i);
    return sum(i) * std::exp(static_cast<double>(shift_[i]) - static_cast<double>(max_[i]));
  }
  /// Row i of the attention output, d_v numbers; 0 where every key is hidden. Writable, for merging
  /// states.
  [[nodiscard]] float* output(index_t i) noexcept { return output_.data() + i * output_.cols(); }

 private:
  static constexpr float headroom = 16;  // e¹⁶ = 9e6 leaves fp32 enough for any T and sane values

  /// A shift that was raised: exponentials of the keys before `key` are `factor` too large.
  struct raise {
    index_t query;
    index_t key;
    float factor;
  };

  /// Logits of some keys become exponentials, masses and output.
  void take_tile(index_t first, index_t count, index_t queries) {
    float* tile = exponentials_.data + first * exponentials_.stride;
    for (index_t j = 0; j < count; ++j) {
      simd::keep_larger(max_.data(), tile + j * exponentials_.stride, queries);
    }
    raise_shifts(first);
    simd::exp_shifted_columns(tile, exponentials_.stride, count, queries, shift_.data(),
                              sum_.data());
    const float_tile v =
        detail::load_visible_rows(cache_.values, cache_.bias, first, count, value_buffer_.data());
    const index_t width = output_.cols();
    tile_output_.resize(queries, width);
    product_.take_right(v.data, v.stride, count, width);
    product_.by_columns(tile, exponentials_.stride, queries, {tile_output_.data(), width},
                        memory_of_rows(cache_.keys, first + count, count));
    // Tile by tile: the error of a sum grows with its number of terms.
    simd::add_each(output_.data(), tile_output_.data(), output_.size());
  }

  void raise_shifts(index_t first_key) {
    constexpr float lowest = -std::numeric_limits<float>::infinity();
    for (index_t i = 0; i < shift_.size(); ++i) {
      if (!(max_[i] > shift_[i] + headroom)) continue;
      const float old = std::exchange(shift_[i], max_[i]);
      if (old == lowest) continue;  // nothing but zeros before
      const float factor = std::exp(old - max_[i]);
      raised_.push_back({i, first_key, factor});
      sum_[static_cast<std::size_t>(i)] *= static_cast<double>(factor);
      scale_output(i, factor);
    }
  }

  void scale_output(index_t i, float factor) noexcept {
    float* const row = output(i);
    for (index_t k = 0; k < output_.cols(); ++k) row[k] *= factor;
  }

  /// Brings all keys to the last shift: from the last raise back, each reaching the keys before it.
  void lower_old_exponentials() {
    if (raised_.empty()) return;
    std::vector<float> factors(static_cast<std::size_t>(shift_.size()), 1.0F);
    for (std::size_t k = raised_.size(); k-- > 0;) {
      factors[static_cast<std::size_t>(raised_[k].query)] *= raised_[k].factor;
      for (index_t j = k > 0 ? raised_[k - 1].key : 0; j < raised_[k].key; ++j) {
        simd::multiply_each(exponentials_.data + j * exponentials_.stride, factors.data(),
                            shift_.size());
      }
    }
  }

  /// Divides by the sums; finds what overflowed.
  result<void> finish(const query_panel& part) {
    for (index_t i = 0; i < part.count; ++i) {
      const bool is_finite = detail::is_finite(static_cast<float>(sum(i)));
      if (max_[i] == std::numeric_limits<float>::infinity() || !is_finite) {
        return error{errc::non_finite, "logits", part.offset + i, error::none,
                     "product, bias and mask together overflow fp32; the row is the query's"};
      }
      if (sum(i) > 0) scale_output(i, static_cast<float>(1.0 / sum(i)));
      const index_t at = detail::first_non_finite(output(i), output_.cols());
      if (at < output_.cols()) {
        return error{errc::non_finite, "output", part.offset + i, at,
                     "the values' weighted sum overflows fp32; the row is the query's"};
      }
    }
    return {};
  }

  kv_block cache_;
  logit_source logits_;
  tile_product product_;
  matrix own_;
  simd::row_target exponentials_;
  matrix output_;
  matrix tile_output_;
  vector max_;
  vector shift_;
  std::vector<double> sum_;
  std::vector<raise> raised_;
  std::vector<float> value_buffer_;

  friend double attention_panel_bytes(const head_sizes& sizes, bool has_memory) noexcept;
};

/// Bytes of an `attention_panel`; `has_memory`: the caller gives memory for E.
inline double attention_panel_bytes(const head_sizes& sizes, bool has_memory) noexcept {
  constexpr index_t tile = logit_source::key_tile;
  const index_t panel = largest_panel(sizes, sizes.keys);
  const double raises = static_cast<double>(sizeof(attention_panel::raise)) *
                        static_cast<double>(panel) * static_cast<double>(sizes.keys / tile);
  return logit_source_bytes(sizes, sizes.keys) +
         tile_product_bytes(sizes.precision, panel, std::min(tile, sizes.keys), sizes.width) +
         (has_memory ? 0 : float_bytes(panel, sizes.keys)) +
         float_bytes(2 * panel + tile, sizes.width) + float_bytes(3, panel) + double_bytes(panel) +
         grown_bytes(raises);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
