// SPDX-License-Identifier: MIT
/// How models stretch the frequencies of a rotary embedding beyond the length they were trained on.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit::rope_scaling {

/// Frequencies by base alone. "NTK-aware" scaling is no more than another base.
struct none {};

/// Position interpolation (Chen et al., arXiv:2306.15595): every frequency divided by `factor`.
struct linear {
  double factor = 1;  ///< > 0
};

/// YaRN's frequencies (Peng et al., arXiv:2309.00071, "NTK-by-parts"), as engines compute them:
/// pair i turns by
///
///     θ_i · ((1 − r_i) + r_i / factor),   r_i = clamp((i − low) / (high − low), 0, 1)
///     low, high = dims · ln(original_positions / (2π β)) / (2 ln base)   for β = fast, slow
///
/// with low rounded down and high up, kept within [0, dims − 1]. YaRN also multiplies queries and
/// keys by a factor of attention, once, when they are made. That is no part of a rotation: turning
/// a key again must not multiply it again.
struct yarn {
  double factor = 1;              ///< > 0
  double original_positions = 0;  ///< trained length, > 0
  double fast = 32;               ///< turns over the trained length above which nothing changes
  double slow = 1;                ///< turns below which everything is interpolated, < fast, > 0
  bool rounds = true;             ///< false: low and high as they are (GPT-OSS)
};

/// Llama 3.1's: with λ_i = 2π / θ_i the wavelength and L the trained length, pairs with λ < L /
/// high keep their frequency, those with λ > L / low have it divided by `factor`, and between
///
///     θ_i · ((1 − u) / factor + u),   u = (L / λ_i − low) / (high − low)
struct llama3 {
  double factor = 8;                 ///< > 0
  double low = 1;                    ///< "low_freq_factor", > 0
  double high = 4;                   ///< "high_freq_factor", > low
  double original_positions = 8192;  ///< > 0
};

/// Frequencies in radians a position, one per pair, in place of those of the base: LongRoPE and
/// whatever else is fixed once. All 0: rows that are not turned at all.
struct given {
  std::vector<double> frequencies;  ///< finite
};

}  // namespace kvfit::rope_scaling

namespace kvfit {

/// Any of them; the first is the default. A scaling that changes as the text grows ("dynamic") is
/// none: its keys were turned at different frequencies, and nothing tells which.
using any_rope_scaling = std::variant<rope_scaling::none, rope_scaling::linear, rope_scaling::yarn,
                                      rope_scaling::llama3, rope_scaling::given>;

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

inline bool is_positive(double x) noexcept {
  return x > 0 && std::isfinite(x);
}

/// `invalid_option` where a scaling of `pairs` pairs is outside its documented ranges.
inline result<void> check_scaling(const any_rope_scaling& scaling, double base, index_t pairs) {
  const auto refuse = [](const char* field, double found, const std::string& rule) {
    return refuse_number(std::string("rope.scaling.") + field, found, rule);
  };
  constexpr const char* positive = "must be finite and above 0";
  if (const auto* by = std::get_if<rope_scaling::linear>(&scaling)) {
    if (!is_positive(by->factor)) return refuse("factor", by->factor, positive);
  } else if (const auto* parts = std::get_if<rope_scaling::yarn>(&scaling)) {
    if (!is_positive(parts->factor)) return refuse("factor", parts->factor, positive);
    if (!is_positive(parts->original_positions))
      return refuse("original_positions", parts->original_positions, positive);
    if (!is_positive(parts->slow)) return refuse("slow", parts->slow, positive);
    if (!(std::isfinite(parts->fast) && parts->fast > parts->slow)) {
      return refuse("fast", parts->fast,
                    "must be finite and above slow, " + number_text(parts->slow));
    }
    if (!(base > 1)) {
      return refuse_number("rope.base", base, "must be above 1 under YaRN");
    }
  } else if (const auto* llama = std::get_if<rope_scaling::llama3>(&scaling)) {
    if (!is_positive(llama->factor)) return refuse("factor", llama->factor, positive);
    if (!is_positive(llama->original_positions))
      return refuse("original_positions", llama->original_positions, positive);
    if (!is_positive(llama->low)) return refuse("low", llama->low, positive);
    if (!(std::isfinite(llama->high) && llama->high > llama->low)) {
      return refuse("high", llama->high,
                    "must be finite and above low, " + number_text(llama->low));
    }
  } else if (const auto* own = std::get_if<rope_scaling::given>(&scaling)) {
    const auto count = static_cast<index_t>(own->frequencies.size());
    if (count != pairs) {
      return error{errc::shape_mismatch, "rope.scaling.frequencies", count, pairs,
                   "one for each pair of elements that turn"};
    }
    for (std::size_t i = 0; i < own->frequencies.size(); ++i) {
      if (!std::isfinite(own->frequencies[i])) {
        return error{
            errc::invalid_option, "rope.scaling.frequencies", static_cast<index_t>(i), error::none,
            "the one at this place must be finite, is " + number_text(own->frequencies[i])};
      }
    }
  }
  return {};
}

/// Radians a position of each of `pairs` pairs; `check_scaling` must have passed.
inline std::vector<double> scaled_frequencies(const any_rope_scaling& scaling, double base,
                                              index_t pairs) {
  if (const auto* own = std::get_if<rope_scaling::given>(&scaling)) return own->frequencies;
  std::vector<double> frequencies(static_cast<std::size_t>(pairs));
  for (index_t i = 0; i < pairs; ++i) {
    const double share = static_cast<double>(i) / static_cast<double>(pairs);
    frequencies[static_cast<std::size_t>(i)] = std::pow(base, -share);
  }
  if (const auto* by = std::get_if<rope_scaling::linear>(&scaling)) {
    for (double& f : frequencies) f /= by->factor;
  } else if (const auto* parts = std::get_if<rope_scaling::yarn>(&scaling)) {
    const auto dims = static_cast<double>(2 * pairs);
    const auto pair_of = [&](double turns) {
      return dims * std::log(parts->original_positions / (2 * std::numbers::pi * turns)) /
             (2 * std::log(base));
    };
    double low = pair_of(parts->fast);
    double high = pair_of(parts->slow);
    if (parts->rounds) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = (std::max)(low, 0.0);
    high = (std::min)(high, dims - 1);
    const double width = high == low ? 0.001 : high - low;
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
      const double ramp = std::clamp((static_cast<double>(i) - low) / width, 0.0, 1.0);
      frequencies[i] *= (1 - ramp) + ramp / parts->factor;
    }
  } else if (const auto* llama = std::get_if<rope_scaling::llama3>(&scaling)) {
    for (double& f : frequencies) {
      const double turns = llama->original_positions * f / (2 * std::numbers::pi);
      const double kept = std::clamp((turns - llama->low) / (llama->high - llama->low), 0.0, 1.0);
      f *= (1 - kept) / llama->factor + kept;
    }
  }
  return frequencies;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
