// SPDX-License-Identifier: MIT
/// Bias fits over the same chosen columns.
#include "fixture.hpp"
#include "kvfit/attention/score_pass.hpp"
#include "kvfit/bias/nnls.hpp"
#include "kvfit/bias/projected_gradient.hpp"
#include "kvfit/compact/policy_functions.hpp"

namespace kvfit::bench {
namespace {

/// What the fit is given, laid out as each side wants it.
struct mass_problem {
  baseline::columns plain;
  matrix ours;
  attention_scores scores;
};

std::shared_ptr<mass_problem> prepare(const workload& work) {
  const baseline::attention& full = plain_attention(work);
  auto out = std::make_shared<mass_problem>();
  out->plain = baseline::gather_columns(full.exponentials, common_positions(work));
  out->ours = out->plain;
  out->scores.max = full.max;
  out->scores.mass = full.mass;
  out->scores.log_mass = full.max.array() + full.mass.array().log();
  return out;
}

void add_kvfit(row what, const std::string& method, const any_bias& policy) {
  what.method = method;
  add(
      what,
      [policy](const workload& work) {
        return [problem = prepare(work), policy] {
          return *fit_bias(policy, {.columns = &problem->ours, .scores = &problem->scores});
        };
      },
      [](const workload& work, const bias_fit& got) {
        const auto t = static_cast<Eigen::Index>(got.weights.size());
        const Eigen::Map<const Eigen::VectorXd> weights(got.weights.data(), t);
        return judge_weights(work, common_positions(work), weights.cast<float>());
      });
}

}  // namespace

void add_rows(bool /*is_full*/) {
  for_sizes([](index_t keys, index_t depth) {
    row what{.stage = "bias", .method = "eigen", .keys = keys, .depth = depth};
    const auto t = static_cast<double>(keys / compaction_ratio);
    const auto n = static_cast<double>(fit_queries);
    what.flops = 2 * n * t * t - 2 * t * t * t / 3 + 24 * n * t;  // QR, power rounds, two steps
    add(
        what,
        [](const workload& work) {
          return [problem = prepare(work), &mass = plain_attention(work).mass] {
            return baseline::fit_weights(problem->plain, mass, {std::exp(-3.0F), std::exp(3.0F)},
                                         2);
          };
        },
        [](const workload& work, const baseline::vector& got) {
          return judge_weights(work, common_positions(work), got);
        });
    add_kvfit(what, "kvfit_projected_gradient", bias::projected_gradient{});
    add_kvfit(what, "kvfit_exact",
              bias::nnls{.weighting = mass_weighting::absolute,
                         .lower = std::exp(-3.0),
                         .upper = std::exp(3.0)});
    add_kvfit(what, "kvfit_default", bias::nnls{});
  });
}

}  // namespace kvfit::bench
