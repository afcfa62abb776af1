// SPDX-License-Identifier: MIT
/// Policies whose costly stages run on the GPU. `metal::compact` puts them in the place of those
/// that options name; results differ from theirs by rounding.
#pragma once

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "kvfit/bias/nnls.hpp"
#include "kvfit/bias/projected_gradient.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/metal/guarded_device.hpp"
#include "kvfit/metal/least_squares.hpp"
#include "kvfit/metal/pursuit.hpp"
#include "kvfit/selection/omp.hpp"
#include "kvfit/values/unpivoted_qr.hpp"

namespace kvfit::metal {

/// `selection::omp` with its columns on the GPU.
struct omp_on_device {
  selection::omp settings;
  guarded_device* on = nullptr;
};

/// `bias::projected_gradient` whose start is found on the GPU.
struct projected_gradient_on_device {
  bias::projected_gradient settings;
  guarded_device* on = nullptr;
};

/// `bias::nnls` whose products are made on the GPU.
struct nnls_on_device {
  bias::nnls settings;
  guarded_device* on = nullptr;
};

/// `values::unpivoted_qr` without a ridge, by the Gram matrix on the GPU.
struct values_on_device {
  values::unpivoted_qr settings;
  guarded_device* on = nullptr;
};

}  // namespace kvfit::metal

namespace kvfit::metal {
inline namespace KVFIT_ISA {

// ---- Selection ----------------------------------------------------------------------------------

/// Importance alone: the columns are made on the GPU and stay there.
inline score_options wanted_scores(const omp_on_device&) {
  return {.importance = importance_kind::rms};
}
inline result<void> check_settings(const omp_on_device& policy) {
  return check_settings(policy.settings);
}
inline bool may_replace(const omp_on_device& policy) {
  return may_replace(policy.settings);
}

/// On the GPU where n · T numbers fit `memory_cap`, else as the CPU does without them.
inline result<selected_rows> select(const omp_on_device& policy, const selection_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  if (const auto ok = check_ranked_problem(problem); !ok) return ok.error();
  const double bytes = float_bytes(problem.queries.rows(), problem.cache.keys.rows());
  const bool fits = bytes <= static_cast<double>(problem.memory_cap) &&
                    problem.queries.rows() < largest_count &&
                    problem.cache.keys.rows() < largest_count;
  if (!fits) return select(policy.settings, problem);
  auto columns = device_columns::make(*policy.on, policy.settings, problem);
  if (!columns) return columns.error();
  {
    const std::lock_guard<std::mutex> guard(policy.on->mutex);
    ++policy.on->counts.selections;
  }
  return kvfit::detail::omp_search(policy.settings, problem, *columns).run();
}

/// Bytes that `select` holds at most, those of the device included.
inline double select_bytes(const omp_on_device& policy, const head_sizes& sizes) {
  const double columns = float_bytes(sizes.keys, sizes.queries);
  if (columns > static_cast<double>(sizes.memory_cap)) return select_bytes(policy.settings, sizes);
  const double device = columns + float_bytes(sizes.keys, sizes.depth + 7) +
                        float_bytes(sizes.queries, sizes.depth + 7) +
                        (sizes.has_masks ? float_bytes(sizes.keys, sizes.queries) : 0);
  return select_bytes(policy.settings, sizes) + device;
}

static_assert(selection_policy<omp_on_device>);

// ---- Weights ------------------------------------------------------------------------------------

/// `x` with row i times `factors[i]`, and y alike.
inline std::pair<matrix, matrix> scaled_system(const matrix& x, const vector& y,
                                               std::span<const double> factors) {
  std::pair<matrix, matrix> out{x, matrix(x.rows(), 1)};
  for (index_t i = 0; i < x.rows(); ++i) {
    const auto factor = static_cast<float>(factors[static_cast<std::size_t>(i)]);
    float* const row = out.first.data() + i * x.cols();
    for (index_t j = 0; j < x.cols(); ++j) row[j] *= factor;
    out.second.data()[i] = y[i] * factor;
  }
  return out;
}

/// Whether the GPU takes a fit of n × t; what it does not take is the CPU's.
inline bool takes_fit(const guarded_device& on, index_t n, index_t t) noexcept {
  const double work = static_cast<double>(n) * static_cast<double>(t) * static_cast<double>(t);
  return n >= t && t >= 1 && t <= largest_factor && n < largest_count && work >= on.from.fit_from;
}

inline result<void> check_settings(const projected_gradient_on_device& policy) {
  return check_settings(policy.settings);
}

inline result<bias_fit> fit_bias(const projected_gradient_on_device& policy,
                                 const bias_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  const matrix& columns = *problem.columns;
  if (!takes_fit(*policy.on, columns.rows(), columns.cols())) {
    return fit_bias(policy.settings, problem);
  }
  const auto mass =
      kvfit::detail::mass_target_of(*problem.scores, columns.rows(), policy.settings.weighting);
  const auto [x, y] = scaled_system(columns, mass.target, mass.factors);
  std::optional<device_solution> start;
  {
    const std::lock_guard<std::mutex> guard(policy.on->mutex);
    auto solved = solve_least_squares(*policy.on->gpu, x, y);
    if (!solved) return solved.error();
    start = std::move(*solved);
    ++(start ? policy.on->counts.fits : policy.on->counts.handed_over);
  }
  if (!start) return fit_bias(policy.settings, problem);
  const Eigen::MatrixXd gram = start->gram.cast<double>();
  const double sigma = linalg::largest_singular_value_of_gram(
                           gram, {.rounds = 100, .tolerance = 1e-8, .from_ones = true})
                           .sigma;
  const vector target = Eigen::Map<const vector>(y.data(), y.rows());
  const Eigen::VectorXd weights =
      Eigen::Map<const vector>(start->coefficients.data(), columns.cols()).cast<double>();
  const linalg::bounded_fit fit =
      linalg::projected_gradient(x, target, weights,
                                 {.bounds = {policy.settings.lower, policy.settings.upper},
                                  .iterations = policy.settings.iterations,
                                  .power = {},
                                  .sigma = sigma});
  return bias_fit{
      .weights = {fit.weights.data(), fit.weights.data() + fit.weights.size()},
      .floor = policy.settings.lower < policy.settings.upper ? policy.settings.lower : 0,
      .report = fit.report,
      .is_fitted = true};
}

inline double fit_bias_bytes(const projected_gradient_on_device& policy, const head_sizes& sizes) {
  return fit_bias_bytes(policy.settings, sizes) + float_bytes(sizes.queries, sizes.budget) +
         double_bytes(sizes.budget, sizes.budget) +
         solve_least_squares_bytes(sizes.queries, sizes.budget, 1);
}

static_assert(bias_policy<projected_gradient_on_device>);

inline result<void> check_settings(const nnls_on_device& policy) {
  return check_settings(policy.settings);
}

inline result<bias_fit> fit_bias(const nnls_on_device& policy, const bias_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  const matrix& columns = *problem.columns;
  const index_t t = columns.cols();
  if (!takes_fit(*policy.on, columns.rows(), t)) return fit_bias(policy.settings, problem);
  const auto mass =
      kvfit::detail::mass_target_of(*problem.scores, columns.rows(), policy.settings.weighting);
  const auto [x, y] = scaled_system(columns, mass.target, mass.factors);
  linalg::normal_equations products;
  {
    const std::lock_guard<std::mutex> guard(policy.on->mutex);
    auto system = device_system::make(*policy.on->gpu, x, y);
    if (!system) return system.error();
    if (const auto ok = system->form(*policy.on->gpu); !ok) return ok.error();
    products.gram = Eigen::Map<const matrix>(system->gram(), t, t).cast<double>();
    products.moment = Eigen::Map<const vector>(system->right(), t).cast<double>();
    ++policy.on->counts.fits;
  }
  for (index_t i = 0; i < y.rows(); ++i) {
    const auto target = static_cast<double>(y.data()[i]);
    products.target_sq += target * target;
  }
  const linalg::bounded_fit fit =
      linalg::bounded_nnls(products, {.bounds = {policy.settings.lower, policy.settings.upper}},
                           Eigen::VectorXd(), problem.threads);
  return bias_fit{
      .weights = {fit.weights.data(), fit.weights.data() + fit.weights.size()},
      .floor = policy.settings.lower < policy.settings.upper ? policy.settings.lower : 0,
      .report = fit.report,
      .is_fitted = true};
}

inline double fit_bias_bytes(const nnls_on_device& policy, const head_sizes& sizes) {
  return fit_bias_bytes(policy.settings, sizes) + float_bytes(sizes.queries, sizes.budget) +
         solve_least_squares_bytes(sizes.queries, sizes.budget, 1);
}

static_assert(bias_policy<nnls_on_device>);

// ---- Values -------------------------------------------------------------------------------------

inline result<void> check_settings(const values_on_device& policy) {
  return check_settings(policy.settings);
}

inline result<values_fit> fit_values(const values_on_device& policy,
                                     const values_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  const matrix& x = *problem.weights;
  if (policy.settings.ridge_scaling != linalg::ridge_mode::none ||
      !takes_fit(*policy.on, x.rows(), x.cols())) {
    return fit_values(policy.settings, problem);
  }
  std::optional<device_solution> found;
  {
    const std::lock_guard<std::mutex> guard(policy.on->mutex);
    auto solved = solve_least_squares(*policy.on->gpu, x, *problem.output);
    if (!solved) return solved.error();
    found = std::move(*solved);
    ++(found ? policy.on->counts.fits : policy.on->counts.handed_over);
  }
  if (!found) return fit_values(policy.settings, problem);
  linalg::least_squares_report report;
  report.tier = linalg::least_squares_tier::cholesky;
  report.rank = x.cols();
  return values_fit{std::move(found->coefficients), report, true};
}

inline double fit_values_bytes(const values_on_device& policy, const head_sizes& sizes) {
  return fit_values_bytes(policy.settings, sizes) + float_bytes(sizes.budget, sizes.budget) +
         solve_least_squares_bytes(sizes.queries, sizes.budget, sizes.width);
}

static_assert(values_policy<values_on_device>);

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
