// SPDX-License-Identifier: MIT
/// Full attention of a head, kept for a later call.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kvfit/attention/head_sizes.hpp"
#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/score_options.hpp"
#include "kvfit/attention/scores.hpp"
#include "kvfit/core/bytes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"

namespace kvfit {

/// `attention_scores` without exponentials, in memory that every file may free, whatever its
/// instruction set, and what they were computed by. Empty: nothing is known.
struct known_scores {
  logit_rule rule = {};
  score_options made = {};
  std::vector<float> max;         ///< n
  std::vector<float> mass;        ///< n
  std::vector<float> log_mass;    ///< n
  std::vector<float> output;      ///< n × d_v, row-major
  std::vector<float> importance;  ///< T

  /// Whether these are of n queries, values of d_v numbers.
  [[nodiscard]] bool are_of(index_t queries, index_t width) const noexcept {
    const auto n = static_cast<std::size_t>(queries);
    return max.size() == n && mass.size() == n && log_mass.size() == n &&
           output.size() == n * static_cast<std::size_t>(width);
  }
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

inline known_scores known_from(const attention_scores& scores, const logit_rule& rule,
                               const score_options& made) {
  const auto copied = [](const auto& of) {
    return std::vector<float>(of.data(), of.data() + of.size());
  };
  return {.rule = rule,
          .made = made,
          .max = copied(scores.max),
          .mass = copied(scores.mass),
          .log_mass = copied(scores.log_mass),
          .output = copied(scores.output),
          .importance = copied(scores.importance)};
}

/// The same the other way; `known.are_of(…, width)`.
inline attention_scores scores_from(const known_scores& known, index_t width) {
  const auto copy = [](const std::vector<float>& from, auto& to) {
    std::copy(from.begin(), from.end(), to.data());
  };
  attention_scores out;
  const auto n = static_cast<index_t>(known.max.size());
  out.max.resize(n);
  out.mass.resize(n);
  out.log_mass.resize(n);
  out.output.resize(n, width);
  out.importance.resize(static_cast<index_t>(known.importance.size()));
  copy(known.max, out.max);
  copy(known.mass, out.mass);
  copy(known.log_mass, out.log_mass);
  copy(known.output, out.output);
  copy(known.importance, out.importance);
  return out;
}

/// Bytes of a head's `known_scores`.
inline double known_scores_bytes(const head_sizes& sizes) noexcept {
  return float_bytes(sizes.queries, sizes.width + 3) + float_bytes(sizes.keys);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
