// SPDX-License-Identifier: MIT
#include "kvfit/selection/correlation_bounds.hpp"

#include <cmath>

#include "kvfit/core/random.hpp"
#include "support/catch.hpp"
#include "support/random_matrix.hpp"

namespace {

constexpr kvfit::index_t keys = 90;
constexpr kvfit::index_t queries = 40;

struct walk {
  kvfit::matrix columns = kvfit_test::random_matrix(keys, queries, 3);
  kvfit::vector norms = columns.rowwise().norm();
  kvfit::vector residual = kvfit_test::random_matrix(queries, 1, 4);
  kvfit::random_source draw{5};

  /// Mostly a small step; now and then a turn, a stretch, or nothing.
  void move(int round) {
    if (round % 17 == 16) residual = -residual;
    if (round % 11 == 10) residual *= 3;
    if (round % 7 == 6) return;
    for (float& r : residual) r += 0.05F * static_cast<float>(draw.uniform() - 0.5);
  }
};

}  // namespace

TEST_CASE("no product exceeds its bound, however the residual moves and whenever it was taken",
          "[selection][correlation_bounds]") {
  const bool is_absolute = GENERATE(false, true);
  walk now;
  kvfit::correlation_bounds bounds(keys, queries);
  int violations = 0;
  int within = 0;
  for (int round = 0; round < 5 * kvfit::correlation_bounds::depth; ++round) {
    bounds.move_to(now.residual, now.norms, 1e-6F);
    for (kvfit::index_t j = 0; j < keys; ++j) {
      double product =
          now.columns.row(j).cast<double>().dot(now.residual.transpose().cast<double>());
      if (is_absolute) product = std::abs(product);
      const auto bound = static_cast<double>(bounds.bounds()[j]);
      violations += product > bound + 1e-6 ? 1 : 0;
      within += bound < product + 0.2 * static_cast<double>(now.norms[j] * now.residual.norm());
      // Some keys every round, some rarely, the last ones never.
      if (j % 10 == 0 || (round % 50 == 0 && j < 60)) bounds.set(j, static_cast<float>(product));
    }
    now.move(round);
  }
  CHECK(violations == 0);
  CHECK(within > 1000);  // bounds of what is looked at often are near
}

TEST_CASE("a bound is the straight distance from where it was taken, not the way gone",
          "[selection][correlation_bounds]") {
  walk now;
  kvfit::correlation_bounds bounds(keys, queries);
  bounds.move_to(now.residual, now.norms, 0);
  const kvfit::vector products = now.columns * now.residual;
  for (kvfit::index_t j = 0; j < keys; ++j) bounds.set(j, products[j]);
  const kvfit::vector start = now.residual;
  for (int round = 0; round < 20; ++round) {  // there and back
    const float way = round % 2 == 0 ? 0.5F : 0.0F;
    now.residual = start;
    now.residual[3] += way;
    bounds.move_to(now.residual, now.norms, 0);
  }
  for (kvfit::index_t j = 0; j < keys; ++j) {
    CHECK(bounds.bounds()[j] <= products[j] + 1e-4F * now.norms[j] * start.norm());
  }
}
