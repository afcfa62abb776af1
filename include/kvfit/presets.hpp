// SPDX-License-Identifier: MIT
/// Named compositions: the published methods, baselines, and kvfit's own.
#pragma once

#include <array>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

#include "kvfit/compact/options.hpp"

#if !defined(KVFIT_COMPILED)  // the library has all of these
#include "kvfit/bias/nnls.hpp"
#include "kvfit/bias/projected_gradient.hpp"
#include "kvfit/bias/zero.hpp"
#include "kvfit/refine/gradient_descent.hpp"
#include "kvfit/selection/expected_attention.hpp"
#include "kvfit/selection/fixed.hpp"
#include "kvfit/selection/highest_attention.hpp"
#include "kvfit/selection/joint.hpp"
#include "kvfit/selection/omp.hpp"
#include "kvfit/values/copy.hpp"
#include "kvfit/values/least_squares.hpp"
#include "kvfit/values/unpivoted_qr.hpp"
#endif

namespace kvfit::presets {

/// What the published methods share: no judging, no dead-key replacement, values by plain least
/// squares.
inline compact_options published(index_t budget) {
  compact_options options{.budget = budget};
  options.values = values::unpivoted_qr{};
  options.replace_dead_keys = false;
  options.queries.held_out = 0;
  options.queries.per_row = 0;
  options.keep_better_values = false;
  return options;
}

/// AM-HighestAttnKeys: rms scores; clipped least squares in [e⁻³, e³] and two projected steps.
inline compact_options highest_attention(index_t budget) {
  compact_options options = published(budget);
  options.selection = selection::highest_attention{};
  options.bias = bias::projected_gradient{.weighting = mass_weighting::absolute,
                                          .lower = std::exp(-3.0),
                                          .upper = std::exp(3.0),
                                          .iterations = 2};
  return options;
}

/// AM-OMP with k keys a round and a refit every τ rounds; weights in [1e-12, e⁷], cutoff −7.
inline compact_options omp_with(index_t budget, index_t keys_per_round, index_t refit_interval) {
  compact_options options = published(budget);
  options.selection = selection::omp{.keys_per_round = keys_per_round,
                                     .refit_interval = refit_interval,
                                     .norm_power = 0,
                                     .weighting = mass_weighting::absolute,
                                     .lower = 1e-12,
                                     .upper = std::exp(7.0),
                                     .drop_below = -7.0,
                                     .final_refit = false};
  options.bias = bias::from_selection{};
  return options;
}

/// AM-OMP: one key a round, refit every round.
inline compact_options omp(index_t budget) {
  return omp_with(budget, 1, 1);
}

/// AM-OMP-fast: four keys a round, refit every second round.
inline compact_options omp_fast(index_t budget) {
  return omp_with(budget, 4, 2);
}

/// AM-OMP on the paper's progressive schedule.
inline compact_options omp_progressive(index_t budget) {
  compact_options options = omp(budget);
  options.selection.get_if<selection::omp>()->schedule = selection::omp::progressive();
  return options;
}

/// Keys and biases moved from random rows under zero bias until their log-masses match, then values
/// fitted. Constant rate, as published; the published code leaves the number of steps to its
/// caller.
inline compact_options gradient_mass(index_t budget) {
  compact_options options = published(budget);
  options.selection = selection::random{};
  options.bias = bias::zero{};
  options.gradient = gradient_keys{.loss = gradient_loss::log_mass, .least_share = 1};
  return options;
}

/// Keys, biases and values moved together from random rows under zero bias and values fitted to
/// them: Adam at 0.02 with cosine decay, 2000 steps, mass weight 0.05.
inline compact_options gradient_joint(index_t budget) {
  compact_options options = gradient_mass(budget);
  options.gradient = gradient_keys{.loss = gradient_loss::joint};
  return options;
}

/// Rows kept as they are: zero bias, copied values. Safe for any attention kernel.
inline compact_options evicting(index_t budget, any_selection kept) {
  compact_options options{.budget = budget};
  options.selection = std::move(kept);
  options.bias = bias::zero{};
  options.values = values::copy{};
  options.replace_dead_keys = false;
  options.queries.held_out = 0;
  options.queries.per_row = 0;
  return options;
}

/// Eviction by rms attention, the baseline "top-k".
inline compact_options topk(index_t budget) {
  return evicting(budget, selection::highest_attention{});
}

/// H2O as the authors of Attention Matching emulate it: mean attention over all queries. (H2O
/// itself, arXiv:2306.14048, adds up attention while it decodes.)
inline compact_options h2o(index_t budget) {
  return evicting(budget, selection::highest_attention{.importance = importance_kind::mean});
}

/// SnapKV (arXiv:2404.14469): mean attention over an observation window, the last queries of every
/// query head, max-pooled along the keys; window and width within the ranges of its paper.
inline compact_options snapkv(index_t budget) {
  return evicting(budget, selection::highest_attention{.importance = importance_kind::mean,
                                                       .pooling = pooling_kind::max,
                                                       .pooling_width = 7,
                                                       .window = 32});
}

/// KVzip (arXiv:2505.23416), head by head: the largest attention that any query gives. Its queries
/// are those of a repetition of the text.
inline compact_options kvzip(index_t budget) {
  return evicting(budget, selection::highest_attention{.importance = importance_kind::max});
}

/// Expected Attention (arXiv:2510.00636), fitted to the queries given instead of rotated ones of
/// the future.
inline compact_options expected_attention(index_t budget) {
  return evicting(budget, selection::expected_attention{});
}

/// Prefix truncation; the newest rows; rows drawn at random: baselines.
inline compact_options first(index_t budget) {
  return evicting(budget, selection::first{});
}
inline compact_options last(index_t budget) {
  return evicting(budget, selection::last{});
}
inline compact_options random(index_t budget) {
  return evicting(budget, selection::random{});
}

/// kvfit's selection, nothing fitted: for kernels without a bias whose cache must hold original
/// values.
inline compact_options select_only(index_t budget) {
  return evicting(budget, selection::joint{});
}

/// Values fitted under zero bias: for fused kernels that take no bias per key.
inline compact_options zero_bias(index_t budget) {
  compact_options options{.budget = budget};
  options.selection = selection::highest_attention{};
  options.bias = bias::zero{};
  options.replace_dead_keys = false;
  return options;
}

/// Most of the rows by attention, the rest for mass and output together, then moved a
/// little: kvfit's own, and what `compact_options{.budget = budget}` says.
inline compact_options joint(index_t budget) {
  return {.budget = budget};
}

/// The same rows moved for sixty steps, or as many as take the time of 64 score passes: the most
/// faithful. Give `refine.rotation` where you can: queries moved to other positions keep it from
/// overfitting.
inline compact_options refined(index_t budget) {
  compact_options options = joint(budget);
  options.queries.per_row = 0;
  options.values = values::least_squares{.reweightings = 3};
  options.refine.steps = 60;
  options.refine.work = 64;
  options.refine.mass_weight = 0.5;
  options.refine.mass_softness = 0.025;
  options.refine.sets = 15;
  options.refine.sets_at_once = 3;
  options.refine.steps_a_batch = 12;
  return options;
}

/// `options` for fused kernels that take no bias per key.
inline compact_options without_bias(compact_options options) {
  options.bias = bias::zero{};
  options.replace_dead_keys = false;
  options.refine.fits_bias = false;
  return options;
}
inline compact_options joint_zero_bias(index_t budget) {
  return without_bias(joint(budget));
}
inline compact_options refined_zero_bias(index_t budget) {
  return without_bias(refined(budget));
}

/// `options` for caches whose values are columns of the keys from `first` on (MLA, K = V): key and
/// value stay one vector (`compact_options::tied_values_from`). Mass counts half as much as
/// elsewhere: what moves a value moves its logits, too, and outputs are what is short of freedom.
///
///     auto mla = kvfit::presets::tied(kvfit::presets::joint(512), 0);
inline compact_options tied(compact_options options, index_t first) {
  options.values = values::copy{};
  if (!options.tied_values_from) options.refine.mass_weight *= 0.5;
  options.tied_values_from = first;
  return options;
}

/// A preset by name, as tools and configuration files write it.
struct preset {
  std::string_view name;
  std::string_view summary;
  compact_options (*make)(index_t budget);
};

/// All presets, baselines first.
inline constexpr std::array<preset, 21> all = {{
    {"first", "keep the first rows, copied values, no bias", first},
    {"last", "keep the last rows, copied values, no bias", last},
    {"random", "keep random rows, copied values, no bias", random},
    {"topk", "keep the rows of highest rms attention, copied values, no bias", topk},
    {"h2o", "keep the rows of highest mean attention, copied values, no bias", h2o},
    {"snapkv", "keep the rows of highest pooled mean attention by the last 32 queries, no bias",
     snapkv},
    {"kvzip", "keep the rows of highest maximum attention, copied values, no bias", kvzip},
    {"expected_attention", "keep the rows of highest expected attention times value, no bias",
     expected_attention},
    {"highest_attention", "AM-HighestAttnKeys, as published", highest_attention},
    {"omp", "AM-OMP, as published", omp},
    {"omp_fast", "AM-OMP-fast, as published", omp_fast},
    {"omp_progressive", "AM-OMP on the progressive schedule, as published", omp_progressive},
    {"gradient_mass", "keys and biases moved by Adam to match log-masses, after the paper",
     gradient_mass},
    {"gradient_joint", "keys, biases and values moved by Adam together, after the paper",
     gradient_joint},
    {"select_only", "kvfit's selection, copied values, no bias", select_only},
    {"zero_bias", "highest attention, fitted values, no bias (flash-safe)", zero_bias},
    {"joint", "kvfit's own: rows by attention, and for mass and output, moved a little", joint},
    {"refined", "the same, moved for sixty steps: most faithful, slower", refined},
    {"joint_zero_bias", "joint without biases (flash-safe)", joint_zero_bias},
    {"refined_zero_bias", "refined without biases (flash-safe)", refined_zero_bias},
    {"default", "joint: the best at the price of OMP", joint},
}};

/// The preset of that name, if there is one.
inline std::optional<preset> find(std::string_view name) {
  for (const preset& candidate : all) {
    if (candidate.name == name) return candidate;
  }
  return std::nullopt;
}

}  // namespace kvfit::presets
