// SPDX-License-Identifier: MIT
/// Settings of the published gradient methods, and their report.
#pragma once

#include <cstdint>
#include <utility>

#include "kvfit/core/config.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {

/// What a gradient method lowers. LSE_i is the log-mass of query i over all keys, LSE'_i over the
/// compact ones; means go over the queries that see a key, and over the d_v numbers of each output:
///
///     log_mass   mean_i (LSE_i − LSE'_i)²  +  λ (‖C1‖² + ‖β‖²)
///     joint      mean_ik (o_ik − ô_ik)²  +  μ mean_i (LSE_i − LSE'_i)²
///                  +  λ (‖C1‖² + ‖β‖² + ‖C2‖²)
///
/// with C1 the compact keys, β their biases as stored, C2 the values.
enum class gradient_loss : std::uint8_t {
  log_mass,  ///< over (C1, β); values are fitted afterwards
  joint,     ///< over (C1, β, C2), values fitted to begin with and never again
};

/// What takes the steps.
enum class gradient_optimiser : std::uint8_t {
  adam,   ///< `linalg/adam.hpp`
  lbfgs,  ///< `linalg/lbfgs.hpp`, for which `learning_rate` and `least_share` mean nothing
};

/// The gradient methods of Attention Matching (arXiv:2602.16284), which start from rows and move
/// keys and biases in the keys' own metric, on all queries fitted on at once. The point of the
/// least loss seen is what they leave, nothing judging it: what to compare `refinement` with.
struct gradient_keys {
  gradient_loss loss = gradient_loss::joint;
  gradient_optimiser optimiser = gradient_optimiser::adam;
  int steps = 2000;             ///< at most, ≥ 0
  double learning_rate = 0.02;  ///< of Adam, in (0, 1e6]
  double least_share = 0;       ///< of the rate, which a cosine decay ends at, in [0, 1]; 1: none
  double mass_weight = 0.05;    ///< μ in [0, 1e6]
  double penalty = 0;           ///< λ in [0, 1e6]
  int patience = 2000;          ///< ends after as many steps that improve too little, ≥ 1
  double improvement = 1e-6;    ///< of the loss: what is not more is too little, in [0, 1e6]
};

/// What a gradient method did.
struct gradient_report {
  int steps = 0;          ///< taken
  int evaluations = 0;    ///< of the loss and its gradient
  int kept_steps = 0;     ///< after which the returned point stood
  double start_loss = 0;  ///< where it started; not finite: nothing was moved
  double loss = 0;        ///< of the returned point, before rounding to storage: never above it
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// `invalid_option` for settings outside the ranges above.
inline result<void> check_gradient_keys(const gradient_keys& settings) {
  const auto is_weight = [](double weight) { return weight >= 0 && weight <= 1e6; };
  if (settings.steps < 0) {
    return error{errc::invalid_option, "gradient.steps", settings.steps, 0, "must not be negative"};
  }
  if (settings.patience < 1) {
    return error{errc::invalid_option, "gradient.patience", settings.patience, 1,
                 "must be at least 1"};
  }
  if (!(settings.learning_rate > 0 && settings.learning_rate <= 1e6)) {
    return kvfit::detail::refuse_number("gradient.learning_rate", settings.learning_rate,
                                        "must be in (0, 1e6]");
  }
  if (!(settings.least_share >= 0 && settings.least_share <= 1)) {
    return kvfit::detail::refuse_number("gradient.least_share", settings.least_share,
                                        "must be in [0, 1]");
  }
  for (const auto& [field, weight] : {std::pair{"gradient.mass_weight", settings.mass_weight},
                                      std::pair{"gradient.penalty", settings.penalty},
                                      std::pair{"gradient.improvement", settings.improvement}}) {
    if (!is_weight(weight)) {
      return kvfit::detail::refuse_number(field, weight, "must be in [0, 1e6]");
    }
  }
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
