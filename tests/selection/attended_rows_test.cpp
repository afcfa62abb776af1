// SPDX-License-Identifier: MIT
#include "kvfit/selection/attended_rows.hpp"

#include <Eigen/Core>
#include <Eigen/QR>
#include <numeric>
#include <vector>

#include "kvfit/parallel/thread_pool.hpp"
#include "selection/heads.hpp"
#include "support/catch.hpp"

namespace {

/// What rows explain of the columns' squared norms, and the basis they span.
struct explained {
  kvfit::vector left;
  kvfit::index_t spanned = 0;
  Eigen::MatrixXd columns;  ///< T × n
};

explained explain(const kvfit::selection_problem& problem, std::span<const kvfit::index_t> rows,
                  kvfit::index_t folded) {
  kvfit::mass_columns full(problem, kvfit::mass_weighting::relative);
  kvfit::sketched_columns columns(full, folded, problem.memory_cap);
  explained out;
  columns.squared_norms(out.left);
  kvfit::detail::picked_basis basis(static_cast<kvfit::index_t>(rows.size()), columns.rows());
  REQUIRE(kvfit::detail::span_columns(columns, rows, basis, {}));
  kvfit::detail::candidate_columns all(columns);
  REQUIRE(kvfit::detail::subtract_explained(all, basis, problem.threads, {}, out.left));
  out.spanned = basis.size();
  out.columns = columns.columns(kvfit_test::rows_up_to(columns.keys())).cast<double>();
  return out;
}

}  // namespace

TEST_CASE("what rows chosen beforehand leave of all others is what a projection in double leaves",
          "[selection][joint][attended]") {
  // More rows than are spanned at once, and more than are explained at once.
  const kvfit::index_t folded = GENERATE(kvfit::index_t{0}, kvfit::index_t{180});
  const bool is_stored = GENERATE(true, false);
  const kvfit::index_t count = GENERATE(kvfit::index_t{1}, kvfit::index_t{48}, kvfit::index_t{110});
  INFO(count << " rows, " << folded << " folded" << (is_stored ? ", stored" : ", made anew"));
  const kvfit_test::head made =
      kvfit_test::make_head(5, {.queries = 200, .keys = 300, .depth = 24});
  const kvfit_test::scored_head scored(made.cache(), made.queries);
  kvfit::selection_problem problem = scored.problem(10);
  if (!is_stored) problem.memory_cap = 4 * 300 * 180;
  std::vector<kvfit::index_t> rows(static_cast<std::size_t>(count));
  for (std::size_t k = 0; k < rows.size(); ++k) {
    rows[k] = static_cast<kvfit::index_t>((7 * k + 3) % 300);
  }
  const explained found = explain(problem, rows, folded);
  Eigen::MatrixXd chosen(found.columns.cols(), count);
  for (kvfit::index_t k = 0; k < count; ++k) {
    chosen.col(k) = found.columns.row(rows[static_cast<std::size_t>(k)]).transpose();
  }
  const Eigen::ColPivHouseholderQR<Eigen::MatrixXd> factors(chosen);
  const Eigen::MatrixXd q =
      factors.householderQ() * Eigen::MatrixXd::Identity(chosen.rows(), count);
  const Eigen::MatrixXd along = found.columns * q.leftCols(factors.rank());
  double worst = 0;
  for (kvfit::index_t j = 0; j < 300; ++j) {
    const double norm_sq = found.columns.row(j).squaredNorm();
    const double left = norm_sq - along.row(j).squaredNorm();
    worst = std::max(worst, std::abs(static_cast<double>(found.left[j]) - left) / norm_sq);
  }
  CHECK(found.spanned == factors.rank());
  CHECK(worst < 1e-4);
}

TEST_CASE("a row that others are already adds nothing to what they span",
          "[selection][joint][attended]") {
  kvfit_test::head made = kvfit_test::make_head(6, {.queries = 90, .keys = 70});
  for (const kvfit::index_t row : {9, 60}) made.keys.row(row) = made.keys.row(2);
  const kvfit_test::scored_head scored(made.cache(), made.queries);
  std::vector<kvfit::index_t> rows(60);  // 9 stands in the chunk of 2, 60 − 1 in a later one
  std::iota(rows.begin(), rows.end(), kvfit::index_t{0});
  rows.back() = 60;
  const explained found = explain(scored.problem(60), rows, 0);
  const explained without = explain(scored.problem(60), std::span(rows).first(9), 0);
  CHECK(without.spanned == 9);
  CHECK(found.spanned <= 58);
  CHECK(static_cast<double>(found.left[9]) < 1e-4 * found.columns.row(9).squaredNorm());
}

TEST_CASE("what rows explain is the same to the bit on several threads",
          "[selection][joint][attended][parallel]") {
  const kvfit_test::head made = kvfit_test::make_head(7, {.queries = 150, .keys = 1300});
  const kvfit_test::scored_head scored(made.cache(), made.queries);
  kvfit::selection_problem problem = scored.problem(100);
  std::vector<kvfit::index_t> rows(100);
  std::iota(rows.begin(), rows.end(), kvfit::index_t{20});
  const explained alone = explain(problem, rows, 0);
  kvfit::thread_pool pool(3);
  problem.threads = pool;
  const explained shared = explain(problem, rows, 0);
  CHECK(shared.spanned == alone.spanned);
  CHECK((shared.left.array() == alone.left.array()).all());
}
