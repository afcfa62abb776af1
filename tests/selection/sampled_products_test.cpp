// SPDX-License-Identifier: MIT
#include "kvfit/selection/sampled_products.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kvfit/parallel/thread_pool.hpp"
#include "selection/heads.hpp"
#include "support/catch.hpp"
#include "support/compact_oracle.hpp"
#include "support/dense.hpp"
#include "support/random_matrix.hpp"

using kvfit::index_t;

namespace {

/// Products over the queries at `places` alone, in double.
Eigen::MatrixXd products_in_double(const Eigen::MatrixXd& columns, const kvfit::vector& weights,
                                   const kvfit::matrix& of, const std::vector<index_t>& places) {
  Eigen::MatrixXd out = Eigen::MatrixXd::Zero(columns.cols(), of.cols());
  for (const index_t i : places) {
    for (index_t j = 0; j < columns.cols(); ++j) {
      for (index_t c = 0; c < of.cols(); ++c) {
        out(j, c) +=
            static_cast<double>(weights[i]) * columns(i, j) * static_cast<double>(of(i, c));
      }
    }
  }
  return out;
}

}  // namespace

TEST_CASE("sampled products are those of every s-th query of every block, in double",
          "[selection][sampled]") {
  // Two blocks of uneven lengths, masked: rows 0, s, 2 s, … of each.
  const auto made = kvfit_test::make_head(5, {.queries = 1300, .keys = 90, .depth = 8});
  const kvfit::matrix first = made.queries.topRows(701);
  const kvfit::matrix second = made.queries.bottomRows(599);
  kvfit::matrix mask = kvfit::matrix::Zero(1300, 90);
  for (index_t i = 0; i < 1300; ++i) mask(i, i % 90) = -std::numeric_limits<float>::infinity();
  const kvfit::matrix mask_first = mask.topRows(701);
  const kvfit::matrix mask_second = mask.bottomRows(599);
  const kvfit::row_view masks[] = {mask_first, mask_second};
  const kvfit::query_block blocks[] = {kvfit::row_view(first), kvfit::row_view(second)};
  kvfit::kv_block cache = made.cache();
  cache.masks = masks;
  const kvfit::query_set queries(blocks);
  const auto scores = kvfit::score_pass(cache, queries, {}, {});
  REQUIRE(scores);
  const kvfit::selection_problem problem{
      .cache = cache, .queries = queries, .rule = {}, .scores = &*scores, .budget = 10};
  REQUIRE(kvfit::detail::sampling_step(1300) == 4);
  std::vector<index_t> places;
  for (index_t i = 0; i < 701; i += 4) places.push_back(i);
  for (index_t i = 0; i < 599; i += 4) places.push_back(701 + i);

  const kvfit::vector weights = kvfit_test::random_matrix(1300, 1, 3).cwiseAbs();
  const kvfit::matrix of = kvfit_test::random_matrix(1300, 3, 4);
  const auto found = kvfit::detail::multiply_sampled(problem, &weights, of, true);
  const auto equation =
      kvfit_test::make_mass_equation(cache, queries, {}, kvfit::mass_weighting::relative);
  const Eigen::MatrixXd expected = products_in_double(equation.columns, weights, of, places);
  REQUIRE(found.products.rows() == 90);
  CHECK((found.products.cast<double>() - expected).norm() <= 1e-5 * expected.norm());
  for (index_t j = 0; j < 90; ++j) {
    double square = 0;
    for (const index_t i : places) {
      square += std::pow(static_cast<double>(weights[i]) * equation.columns(i, j), 2);
    }
    CHECK(std::abs(static_cast<double>(found.norm_sq[j]) - square) <= 1e-5 * square);
  }
  const auto bare = kvfit::detail::multiply_sampled(problem, nullptr, of, false);
  CHECK(bare.norm_sq.size() == 0);
  CHECK(bare.products != found.products);

  kvfit::selection_problem shared = problem;
  kvfit::thread_pool pool(3);
  shared.threads = kvfit::executor_ref(pool);
  const auto by_many = kvfit::detail::multiply_sampled(shared, &weights, of, true);
  CHECK(by_many.products == found.products);
  CHECK(by_many.norm_sq == found.norm_sq);
}

TEST_CASE("few queries are sampled whole, many by a quarter", "[selection][sampled]") {
  using kvfit::detail::sampling_step;
  CHECK(sampling_step(1) == 1);
  CHECK(sampling_step(511) == 1);
  CHECK(sampling_step(512) == 2);
  CHECK(sampling_step(1024) == 4);
  CHECK(sampling_step(1 << 20) == 4);
}
