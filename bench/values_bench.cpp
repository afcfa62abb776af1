// SPDX-License-Identifier: MIT
/// Value fits under the same rows and weights.
#include "fixture.hpp"
#include "kvfit/compact/policy_functions.hpp"
#include "kvfit/values/least_squares.hpp"
#include "kvfit/values/unpivoted_qr.hpp"

namespace kvfit::bench {
namespace {

/// What the fit is given, laid out as each side wants it.
struct output_problem {
  baseline::columns plain;
  matrix ours;
  matrix original;
};

std::shared_ptr<output_problem> prepare(const workload& work) {
  auto out = std::make_shared<output_problem>();
  const auto& positions = common_positions(work);
  const vector bias = common_weights(work).array().log();
  out->plain = baseline::softmax_weights(work.data.queries,
                                         baseline::gather_rows(work.data.keys, positions), bias);
  out->ours = out->plain;
  out->original = baseline::gather_rows(work.data.values, positions);
  return out;
}

template <class Solve>
void add_eigen(row what, const std::string& method, Solve solve) {
  what.method = method;
  add(
      what,
      [solve](const workload& work) {
        return [problem = prepare(work), solve, &output = plain_attention(work).output] {
          return solve(problem->plain, output);
        };
      },
      [](const workload& work, const Eigen::MatrixXf& got) { return judge_values(work, got); });
}

void add_kvfit(row what, const std::string& method, const any_values& policy) {
  what.method = method;
  add(
      what,
      [policy](const workload& work) {
        return [problem = prepare(work), policy, &output = plain_attention(work).output] {
          return *fit_values(
              policy,
              {.weights = &problem->ours, .output = &output, .original = &problem->original});
        };
      },
      [](const workload& work, const values_fit& got) { return judge_values(work, got.values); });
}

}  // namespace

void add_rows(bool /*is_full*/) {
  using linalg::least_squares_method;
  for_sizes([](index_t keys, index_t depth) {
    row what{.stage = "values_qr", .method = {}, .keys = keys, .depth = depth};
    const auto t = static_cast<double>(keys / compaction_ratio);
    const auto n = static_cast<double>(fit_queries);
    const auto d = static_cast<double>(depth);
    what.flops = 2 * n * t * t - 2 * t * t * t / 3 + 4 * n * t * d;
    add_eigen(what, "eigen", [](const baseline::columns& x, const baseline::rows& y) {
      return baseline::least_squares(x, y);
    });
    // The baseline's problem: plain least squares, no ridge sought.
    const auto plain = [](least_squares_method method) {
      return values::least_squares{.method = method,
                                   .cross_validate_below = 0,
                                   .toward_original = false,
                                   .weighting = output_weighting::absolute};
    };
    add_kvfit(what, "kvfit_unpivoted", values::unpivoted_qr{});
    add_kvfit(what, "kvfit_qr", plain(least_squares_method::ranked));
    add_kvfit(what, "kvfit_default", values::least_squares{});

    what.stage = "values_cholesky";
    what.flops = n * t * t + t * t * t / 3 + 2 * n * t * d;
    add_eigen(what, "eigen", [](const baseline::columns& x, const baseline::rows& y) {
      return baseline::least_squares_cholesky(x, y);
    });
    add_kvfit(what, "kvfit", plain(least_squares_method::cholesky));
  });
}

}  // namespace kvfit::bench
