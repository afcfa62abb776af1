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

/// What an `attention_panel` works in.
struct panel_buffers {
  /// A shift that was raised: exponentials of the keys before `key` are `factor` too large.
  struct raise {
    index_t query;
    index_t key;
    float factor;
  };

  matrix exponentials;  ///< unless the caller gives memory for them
  matrix output;
  matrix tile_output;
  vector max;
  vector shift;
  vector factors;  ///< of exponentials, by what was raised
  std::vector<double> sum;
  std::vector<raise> raised;
  std::vector<float> values;  ///< a tile

  void declare(workspace& space, const logit_sizes& of, index_t width, bool has_memory) {
    constexpr index_t tile = logit_source::key_tile;
    if (!has_memory) space.add(exponentials, of.keys, of.panel);
    space.add_matrices(of.panel, width, output, tile_output);
    space.add_vectors(of.panel, max, shift, factors, sum);
    space.grow(raised, of.panel, of.keys / tile);
    space.add(values, (std::min)(tile, of.keys), width);
  }
};

/// Bytes of an `attention_panel`; `has_memory`: the caller gives memory for E.
inline void declare_panel(workspace& space, const head_sizes& sizes, bool has_memory) {
  const logit_sizes of = logit_sizes_of(sizes, sizes.keys);
  declare_logits(space, of);
  packed_factors().declare(space, sizes.precision, of.panel,
                           (std::min)(logit_source::key_tile, sizes.keys), sizes.width);
  panel_buffers().declare(space, of, sizes.width, has_memory);
}

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
  /// `has_outputs`: false leaves them out, and values unread.
  attention_panel(const kv_block& cache, const query_set& queries, const logit_rule& rule,
                  precision_kind precision = precision_kind::fp32, bool has_outputs = true)
      : cache_(cache),
        logits_(cache, queries, rule, {}, precision),
        product_(precision),
        has_outputs_(has_outputs) {}

  /// Computes `part`. E goes to memory of the caller where given: key j's row to
  /// `memory + j · stride`. `non_finite` (row of the query) where a product of query and key, or a
  /// logit upwards, overflows fp32 (argument "logits"), or the values' weighted sum does (argument
  /// "output").
  result<void> compute(const query_panel& part, float* memory = nullptr, index_t stride = 0) {
    reserve(part.count, memory != nullptr);
    if (memory == nullptr) {
      memory = own_.exponentials.data();
      stride = part.count;
    }
    exponentials_ = {memory, stride};
    constexpr float lowest = -std::numeric_limits<float>::infinity();
    std::fill_n(own_.output.data(), part.count * width(), 0.0F);
    std::fill_n(own_.max.data(), part.count, lowest);
    std::fill_n(own_.shift.data(), part.count, lowest);
    std::fill_n(own_.sum.data(), part.count, 0.0);
    own_.raised.clear();
    logits_.begin(part);
    index_t overflow = part.count;
    for (index_t first = 0; first < logits_.keys(); first += logit_source::key_tile) {
      overflow = (std::min)(overflow, logits_.fill_tile(part, first, memory, stride,
                                                        has_outputs_ ? &cache_.values : nullptr));
      take_tile(first, (std::min)(logit_source::key_tile, logits_.keys() - first), part.count);
    }
    if (overflow < part.count) {
      return error{errc::non_finite, "logits", part.offset + overflow, error::none,
                   "a product of query and key overflows fp32; the row is the query's"};
    }
    lower_old_exponentials(part.count);
    return finish(part);
  }

  /// exp(s_ij − shift_i) of key j, for every query i of the panel.
  [[nodiscard]] const float* exponentials(index_t j) const noexcept {
    return exponentials_.data + j * exponentials_.stride;
  }
  /// max_i = max_j s_ij; −∞ where every key is hidden.
  [[nodiscard]] float largest(index_t i) const noexcept { return own_.max[i]; }
  /// At most max_i and within 16 of it; −∞ where every key is hidden.
  [[nodiscard]] float shift(index_t i) const noexcept { return own_.shift[i]; }
  /// Σ_j exp(s_ij − shift_i), or 0 where every key is hidden.
  [[nodiscard]] double sum(index_t i) const noexcept {
    return own_.sum[static_cast<std::size_t>(i)];
  }
  /// ln Σ_j exp(s_ij); −∞ where every key is hidden.
  [[nodiscard]] double log_mass(index_t i) const noexcept {
    return static_cast<double>(shift(i)) + std::log(sum(i));
  }
  /// Σ_j exp(s_ij − max_i): in [1, T], or 0 where every key is hidden.
  [[nodiscard]] double mass(index_t i) const noexcept {
    if (shift(i) == largest(i)) return sum(i);
    return sum(i) * std::exp(static_cast<double>(shift(i)) - static_cast<double>(largest(i)));
  }
  /// Row i of the attention output, d_v numbers (none without outputs); 0 where every key is
  /// hidden. Writable, for merging states.
  [[nodiscard]] float* output(index_t i) noexcept { return own_.output.data() + i * width(); }

 private:
  static constexpr float headroom = 16;  // e¹⁶ = 9e6 leaves fp32 enough for any T and sane values

  [[nodiscard]] index_t width() const noexcept { return has_outputs_ ? cache_.values.cols() : 0; }

  void reserve(index_t most, bool has_memory) {
    if (most <= reserved_ && (has_memory || has_own_)) return;
    const index_t keys = cache_.keys.rows();
    reserved_ = (std::max)(most, reserved_);
    has_own_ = has_own_ || !has_memory;
    allocate_buffers(own_, logit_sizes{.keys = keys, .panel = reserved_}, width(), !has_own_);
    product_.reserve(reserved_, (std::min)(logit_source::key_tile, keys), width());
  }

  /// Logits of some keys become exponentials, masses and output.
  void take_tile(index_t first, index_t count, index_t queries) {
    float* tile = exponentials_.data + first * exponentials_.stride;
    for (index_t j = 0; j < count; ++j) {
      simd::keep_larger(own_.max.data(), tile + j * exponentials_.stride, queries);
    }
    raise_shifts(first, queries);
    simd::exp_shifted_columns(tile, exponentials_.stride, count, queries, own_.shift.data(),
                              own_.sum.data());
    if (!has_outputs_) return;
    const float_tile v =
        detail::load_visible_rows(cache_.values, cache_.bias, first, count, own_.values.data());
    product_.take_right(v.data, v.stride, count, width());
    product_.by_columns(tile, exponentials_.stride, queries, {own_.tile_output.data(), width()},
                        memory_of_rows(cache_.keys, first + count, count));
    // Tile by tile: the error of a sum grows with its number of terms.
    simd::add_each(own_.output.data(), own_.tile_output.data(), queries * width());
  }

  void raise_shifts(index_t first_key, index_t queries) {
    constexpr float lowest = -std::numeric_limits<float>::infinity();
    for (index_t i = 0; i < queries; ++i) {
      if (!(largest(i) > shift(i) + headroom)) continue;
      const float old = std::exchange(own_.shift[i], largest(i));
      if (old == lowest) continue;  // nothing but zeros before
      const float factor = std::exp(old - largest(i));
      own_.raised.push_back({i, first_key, factor});
      own_.sum[static_cast<std::size_t>(i)] *= static_cast<double>(factor);
      scale_output(i, factor);
    }
  }

  void scale_output(index_t i, float factor) noexcept {
    float* const row = output(i);
    for (index_t k = 0; k < width(); ++k) row[k] *= factor;
  }

  /// Brings all keys to the last shift: from the last raise back, each reaching the keys before it.
  void lower_old_exponentials(index_t queries) {
    const std::vector<panel_buffers::raise>& raised = own_.raised;
    if (raised.empty()) return;
    float* const factors = own_.factors.data();
    std::fill_n(factors, queries, 1.0F);
    for (std::size_t k = raised.size(); k-- > 0;) {
      factors[raised[k].query] *= raised[k].factor;
      for (index_t j = k > 0 ? raised[k - 1].key : 0; j < raised[k].key; ++j) {
        simd::multiply_each(exponentials_.data + j * exponentials_.stride, factors, queries);
      }
    }
  }

  /// Divides by the sums; finds what overflowed.
  result<void> finish(const query_panel& part) {
    for (index_t i = 0; i < part.count; ++i) {
      const bool is_finite = detail::is_finite(static_cast<float>(sum(i)));
      if (largest(i) == std::numeric_limits<float>::infinity() || !is_finite) {
        return error{errc::non_finite, "logits", part.offset + i, error::none,
                     "product, bias and mask together overflow fp32; the row is the query's"};
      }
      if (sum(i) > 0) scale_output(i, static_cast<float>(1.0 / sum(i)));
      const index_t at = detail::first_non_finite(output(i), width());
      if (at < width()) {
        return error{errc::non_finite, "output", part.offset + i, at,
                     "the values' weighted sum overflows fp32; the row is the query's"};
      }
    }
    return {};
  }

  kv_block cache_;
  logit_source logits_;
  tile_product product_;
  bool has_outputs_;
  simd::row_target exponentials_;
  index_t reserved_ = 0;  // queries that there is memory for
  bool has_own_ = false;  // and for E
  panel_buffers own_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit
