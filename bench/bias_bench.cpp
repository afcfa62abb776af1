// SPDX-License-Identifier: MIT
/// Bias fits over the same chosen columns.
#include "fixture.hpp"
#include "kvfit/attention/score_pass.hpp"
#include "kvfit/bias/nnls.hpp"

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

void add_kvfit(row what, const std::string& method, const bias::nnls& policy) {
  what.method = method;
  add(
      what,
      [policy](const workload& work) {
        return [problem = prepare(work), policy] {
          return *fit_bias(policy, {.columns = &problem->ours, .scores = &problem->scores});
        };
      },
      [](const workload& work, const bias_fit& got) {
        return judge_weights(work, common_positions(work), got.weights.cast<float>());
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
    bias::nnls policy{.solver = nnls_solver::projected_gradient,
                      .weighting = mass_weighting::absolute,
                      .lower = std::exp(-3.0),
                      .upper = std::exp(3.0),
                      .iterations = 2};
    add_kvfit(what, "kvfit_projected_gradient", policy);
    policy.solver = nnls_solver::exact;
    add_kvfit(what, "kvfit_exact", policy);
    add_kvfit(what, "kvfit_default", {});
  });
}

}  // namespace kvfit::bench
