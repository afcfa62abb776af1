// SPDX-License-Identifier: MIT
/// How the next token is drawn from logits: a caller's own callable, or one of two here.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/random.hpp"
#include "kvfit/queries/engine.hpp"

namespace kvfit {

/// Draws the next token from one row of logits (a number per token of the vocabulary, natural log),
/// or ends the text with `nullopt`. Whatever is random in it comes from `random`.
using sampler =
    std::function<std::optional<token>(std::span<const float> logits, random_source& random)>;

/// The likeliest token; of equal ones the first.
struct greedy {};

/// A draw from the likeliest tokens alone: at most `top_k` of them, and no more than it takes to
/// reach a probability of `top_p`, after logits are divided by `temperature`. The defaults are the
/// method's own for models that think (arXiv:2602.16284, self-study).
struct nucleus {
  double temperature = 0.6;  ///< above 0; what is not is greedy
  double top_p = 0.95;       ///< (0, 1]
  index_t top_k = 20;        ///< ≥ 1; 0: no limit
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// `nullopt` only where no logit is a number.
inline std::optional<token> sample(const greedy&, std::span<const float> logits, random_source&) {
  std::optional<std::size_t> best;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (!std::isnan(logits[i]) && (!best || logits[i] > logits[*best])) best = i;
  }
  if (!best) return std::nullopt;
  return static_cast<token>(*best);
}

/// One uniform number a draw. Cost: O(V log V); allocates 12 bytes a token of the vocabulary.
inline std::optional<token> sample(const nucleus& settings, std::span<const float> logits,
                                   random_source& random) {
  const double draw = random.uniform();  // always one, so that draws stay in step
  const auto likeliest = sample(greedy{}, logits, random);
  if (!likeliest || !(settings.temperature > 0)) return likeliest;
  const auto top = static_cast<double>(logits[static_cast<std::size_t>(*likeliest)]);
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::erase_if(order, [&](std::size_t i) { return std::isnan(logits[i]); });
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  const auto odds = [&](std::size_t i) {
    const auto below = static_cast<double>(logits[i]) - top;
    return std::isfinite(below) ? std::exp(below / settings.temperature)
                                : (logits[i] == logits[order.front()] ? 1.0 : 0.0);
  };
  if (settings.top_k > 0 && settings.top_k < static_cast<index_t>(order.size())) {
    order.resize(static_cast<std::size_t>(settings.top_k));
  }
  double all = 0;
  for (const std::size_t i : order) all += odds(i);
  double mass = 0;
  std::size_t kept = 0;
  while (kept < order.size() && (kept == 0 || mass < settings.top_p * all)) {
    mass += odds(order[kept++]);
  }
  double rest = draw * mass;
  for (std::size_t i = 0; i < kept; ++i) {
    rest -= odds(order[i]);
    if (rest < 0) return static_cast<token>(order[i]);
  }
  return likeliest;  // the last bit of a sum
}

/// Either of them as a `sampler`.
template <class Settings>
sampler make_sampler(const Settings& settings) {
  return [settings](std::span<const float> logits, random_source& random) {
    return sample(settings, logits, random);
  };
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
