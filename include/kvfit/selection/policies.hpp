// SPDX-License-Identifier: MIT
/// Ways to select rows. Plain settings; the code of each stands in a header of its own.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "kvfit/attention/mass_weighting.hpp"
#include "kvfit/attention/output_weighting.hpp"
#include "kvfit/attention/score_options.hpp"
#include "kvfit/core/index.hpp"

namespace kvfit::selection {

/// The ⌊attention_share · t⌋ keys of the largest rms attention, ties to the earlier row; then each
/// pick is the key that, fitted together with those before it, leaves least of
///
///     min_{w, U} Σ_i f_i² [ μ² (1 − Σ_{j∈S} A_ij w_j)² + ‖o_i − Σ_{j∈S} A_ij u_j‖² / σ² ]
///
/// A the attention weights of the full cache, o its outputs, f by `weighting`, σ the outputs' rms
/// norm: w explains the mass and u_j = w_j c_j (the weighted values) the output (docs/algorithm.md,
/// Joint selection). Orthogonal least squares over 1 + d_v targets.
struct joint {
  double mass_weight = 0.2;  ///< μ ≥ 0: 0 chooses for the output alone
  /// Share of the rows chosen by attention alone, in [0, 1]. Least squares give few rows to what
  /// few queries ask for; attention keeps the row that one query attends to.
  double attention_share = 0.85;
  /// f_i ∝ 1/‖o_i‖ (errors count relative to the outputs), or 1.
  output_weighting weighting = output_weighting::absolute;
  /// Keys that the search looks among, for each row it chooses, ≥ 0: half of them those that
  /// would explain most beside the rows by attention if nothing of their columns were explained
  /// yet, by a quarter of the queries; the others those of the highest attention. 2,048 at least;
  /// all where these come near all, and for 0. Among some, no n × T numbers are ever held.
  index_t candidates = 12;
  /// Keys whose columns are examined in one sweep, 1 … 256. Picks do not depend on it but for
  /// rounding; speed does.
  index_t sweep = 16;
  /// Rows that the n queries are folded onto for the choice alone (see `sketched_columns`):
  /// max(sketch, 5 t), all of them where that is n or more. 0: never fold.
  index_t sketch = 384;
  /// What the caller knows of rows (boilerplate, reasoning, a system prompt): a factor for each row
  /// of the cache, finite and ≥ 0, on every score it is ranked by. A row of 0 is kept only where
  /// the budget holds all others. Empty: 1 each. Chunks and rolling rounds refuse one: their rows
  /// are others. Budgets by a ranking of all heads, and positions that heads share, are ranked
  /// without it.
  std::vector<float> prior = {};
};

/// While fewer than `limit` rows are chosen: this many a round, refit every so many rounds.
struct omp_step {
  index_t limit = (std::numeric_limits<index_t>::max)();
  index_t keys_per_round = 1;
  index_t refit_interval = 1;
};

/// Each round adds the keys whose columns agree most with the mass not yet explained:
///
///     c = Φᵀ r,   r = y − Φ_S w,   w = clip(argmin ‖Φ_S w − y‖)
///
/// Between refits old weights stay and newcomers get the lower bound. Once nothing is left to
/// explain (‖r‖ ≤ 1e-6 ‖y‖, or as many independent keys as queries), the rest is filled by rms
/// importance instead of by noise.
struct omp {
  index_t keys_per_round = 1;           ///< k ≥ 1
  index_t refit_interval = 1;           ///< τ ≥ 1, in rounds
  std::vector<omp_step> schedule = {};  ///< if any: the first step whose limit exceeds |S| rules
  /// Rank by c_j / ‖Φ_:j‖^norm_power: 0 as published, 1 the cosine with the residual, between a
  /// compromise.
  double norm_power = 0.5;
  bool absolute = false;  ///< rank by |c_j|
  mass_weighting weighting = mass_weighting::relative;
  double lower = 1e-12;  ///< bounds of w, 0 < lower ≤ upper
  double upper = std::numeric_limits<double>::infinity();
  /// Once t keys stand: those with ln w below this are taken out for good and replaced,
  /// `drop_passes` times.
  std::optional<double> drop_below = {};
  int drop_passes = 3;
  /// Weights of the final set are always fitted on the final set. The published code leaves the
  /// last round unfitted after a schedule, or once the drop passes are spent; `false` does the
  /// same.
  bool final_refit = true;

  /// The paper's progressive schedule.
  static std::vector<omp_step> progressive() {
    return {{300, 1, 1}, {1500, 2, 2}, {(std::numeric_limits<index_t>::max)(), 4, 2}};
  }
};

/// The t keys of the largest importance, in descending order of it; ties go to the earlier row.
struct highest_attention {
  importance_kind importance = importance_kind::rms;
  pooling_kind pooling = pooling_kind::none;
  index_t pooling_width = 7;
  /// Only the last `window` queries of every query head, by position, have a say (those held out to
  /// judge a fit are passed over); 0: all.
  index_t window = 0;
};

/// The t keys of the largest expected attention times value (Expected Attention,
/// arXiv:2510.00636), with the queries of each query head taken for draws from a Gaussian of their
/// mean μ and covariance Σ:
///
///     ℓ_j = ln E exp(scale · q·k_j + b_j) = scale · μ·k_j + ½ scale² k_jᵀ Σ k_j + b_j
///     a_j = mean over query heads of exp(ℓ_j) / Σ_l exp(ℓ_l)
///     score_j = (a_j + epsilon) ‖v_j‖
///
/// b_j is the key's own bias and ALiBi term. All of it in double and as logarithms, so that neither
/// huge logits nor tiny shares lose the order; ties go to the earlier row. Hidden rows are no keys.
///
/// A Gaussian has no bounds and no places: a soft cap, a mask, or a causal rule or window that
/// hides any key from any query is refused (`invalid_option`).
struct expected_attention {
  double epsilon = 0;  ///< ≥ 0: share of attention that a key has in any case
};

/// The t rows at the smallest positions: prefix truncation. Of rows at one position the earlier
/// ones in memory.
struct first {};

/// The t rows at the largest positions: a sliding window. Of rows at one position the later ones in
/// memory.
struct last {};

/// t rows drawn without replacement; the same seed draws the same rows on every machine.
struct random {
  std::uint64_t seed = 0;
};

/// Exactly these rows, each in 0 … T − 1 and at most once, as many as the budget. Protected rows
/// stay without being named here, and take their share of the budget.
struct given {
  std::vector<index_t> positions;
};

}  // namespace kvfit::selection
