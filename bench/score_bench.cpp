// SPDX-License-Identifier: MIT
/// The score pass: output, mass and rms importance of full attention.
#include "fixture.hpp"
#include "kvfit/attention/compare.hpp"
#include "kvfit/attention/score_pass.hpp"

namespace kvfit::bench {
namespace {

struct plain_scores {
  baseline::attention full;
  baseline::vector importance;
};

/// Rounding errors on 64 of the queries, against the same in double.
quality rounding(const workload& work, const matrix& output, const vector& log_mass) {
  constexpr index_t count = 64;
  const Eigen::MatrixXd q = work.data.queries.topRows(count).cast<double>();
  const Eigen::MatrixXd k = work.data.keys.cast<double>();
  Eigen::MatrixXd x = q * k.transpose() / std::sqrt(static_cast<double>(k.cols()));
  vector exact_log_mass(count);
  for (index_t i = 0; i < count; ++i) {
    const double max = x.row(i).maxCoeff();
    x.row(i) = (x.row(i).array() - max).exp();
    const double mass = x.row(i).sum();
    x.row(i) /= mass;
    exact_log_mass[i] = static_cast<float>(max + std::log(mass));
  }
  const matrix exact = (x * work.data.values.cast<double>()).cast<float>();
  const fidelity found =
      compare(exact, exact_log_mass, output.topRows(count), log_mass.head(count));
  return {found.output_error, found.mass_error};
}

}  // namespace

void add_rows(bool /*is_full*/) {
  for_sizes([](index_t keys, index_t depth) {
    row what{.stage = "score", .method = "eigen", .keys = keys, .depth = depth};
    what.flops = 4.0 * static_cast<double>(fit_queries * keys * depth);
    add(
        what,
        [](const workload& work) {
          return [&work] {
            plain_scores out;
            out.full = baseline::attend(work.data.queries, work.data.keys, work.data.values);
            out.importance = baseline::rms_importance(out.full);
            return out;
          };
        },
        [](const workload& work, const plain_scores& got) {
          return rounding(work, got.full.output,
                          got.full.max.array() + got.full.mass.array().log());
        });
    what.method = "kvfit";
    add(
        what,
        [](const workload& work) {
          return [&work] {
            return score_pass({.keys = work.data.keys, .values = work.data.values},
                              work.data.queries);
          };
        },
        [](const workload& work, const result<attention_scores>& got) {
          return rounding(work, got->output, got->log_mass);
        });
  });
}

}  // namespace kvfit::bench
