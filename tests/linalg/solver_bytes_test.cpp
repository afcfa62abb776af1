// SPDX-License-Identifier: MIT
// What solvers say they hold, against what they ask of malloc.
#include <cstddef>

#include "kvfit/linalg/bounded_nnls.hpp"
#include "kvfit/linalg/cross_validated_ridge.hpp"
#include "kvfit/linalg/gradient_start.hpp"
#include "kvfit/linalg/growing_cholesky.hpp"
#include "kvfit/linalg/least_squares.hpp"
#include "kvfit/parallel/external_executor.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/random_matrix.hpp"

namespace {

namespace la = kvfit::linalg;
using la_index = kvfit::index_t;

constexpr double solver_change = 16384;  // what an allocator adds to some dozens of blocks

template <class Work>
double solver_peak(Work&& work) {
  return static_cast<double>(kvfit_test::count_allocations(work).peak_bytes);
}

/// Bytes of what `declare` lists.
template <class Declare>
double solver_estimate(Declare&& declare) {
  kvfit::workspace space;
  declare(space);
  return space.most();
}

/// n × t, every other column the one before it where `is_dependent`.
kvfit::matrix solver_columns(la_index n, la_index t, bool is_dependent) {
  kvfit::matrix x = kvfit_test::random_matrix(n, t, 7);
  for (la_index j = 1; is_dependent && j < t; j += 2) x.col(j) = x.col(j - 1);
  return x;
}

}  // namespace

TEST_CASE("least squares holds no more than it says, whichever way it takes", "[linalg][memory]") {
  if (!can_count) return;
  struct size {
    la_index n;
    la_index t;
  };
  for (const auto [n, t] :
       {size{1, 1}, size{300, 20}, size{60, 200}, size{700, 300}, size{280, 600}, size{800, 560}}) {
    for (const bool is_dependent : {false, true}) {
      const kvfit::matrix x = solver_columns(n, t, is_dependent);
      const kvfit::matrix y = kvfit_test::random_matrix(n, 12, 8);
      const kvfit::matrix toward = kvfit_test::random_matrix(t, 12, 9);
      struct solver {
        bool is_published;
        la::least_squares_method method;
      };
      for (const solver how :
           {solver{false, la::least_squares_method::ranked},
            solver{false, la::least_squares_method::cholesky}, solver{true, {}}}) {
        const bool is_published = how.is_published;
        const la::least_squares_method method = how.method;
        for (const bool has_ridge : {false, true}) {
          const la::least_squares_options options{
              .method = method,
              .mode = has_ridge ? la::ridge_mode::fixed : la::ridge_mode::none,
              .ridge = 1e-12};
          la::least_squares_report report;
          const double peak = solver_peak([&] {
            report = (is_published ? la::published_least_squares(x, y, options, toward)
                                   : la::least_squares(x, y, options, toward))
                         .report;
          });
          kvfit::workspace space;
          if (is_published) {
            la::declare_published_least_squares(space, n, t, 12, has_ridge);
          } else {
            la::declare_least_squares(space, n, t, 12, method, has_ridge);
          }
          const double estimate = space.most();
          CAPTURE(n, t, is_dependent, is_published, static_cast<int>(method), has_ridge, peak,
                  estimate, la::name(report.tier));
          CHECK(peak <= estimate + solver_change);
          CHECK(peak > 0);
        }
      }
      const double ridge = solver_peak([&] { (void)la::cross_validated_ridge(x, y); });
      kvfit::workspace space;
      la::declare_cross_validated_ridge(space, n, t, 12);
      CAPTURE(n, t, is_dependent, ridge, space.most());
      CHECK(ridge <= space.most() + solver_change);
    }
  }
}

TEST_CASE("bounded fits and greedy factors hold no more than they say", "[linalg][memory]") {
  if (!can_count) return;
  for (const la_index t : {la_index{1}, la_index{90}, la_index{300}}) {
    const la_index n = 400;
    const kvfit::matrix x = solver_columns(n, t, true).cwiseAbs();
    const kvfit::vector y = x.rowwise().sum();
    la::normal_equations equations;
    const double forming = solver_peak([&] { equations = la::form_normal_equations(x, y); });
    CHECK(forming <= solver_estimate([&](auto& space) {
                       la::declare_normal_equations(space, n, t);
                     }) + solver_change);
    const double solving = solver_peak([&] {
      (void)la::bounded_nnls(equations, {.bounds = {0.5, 2}});
    });
    CHECK(solving <= solver_estimate([&](auto& space) { la::declare_bounded_nnls(space, t); }) +
                         solver_change);
    const double starting = solver_peak([&] { (void)la::find_gradient_start(x, y); });
    CHECK(starting <= solver_estimate([&](auto& space) {
                        la::declare_gradient_start(space, n, t);
                      }) + solver_change);
    const Eigen::VectorXd target = y.cast<double>();
    Eigen::VectorXd weights(t);
    const double growing = solver_peak([&] {
      la::growing_cholesky factor(n, t);
      factor.set_target(target);
      const kvfit::vector column = x.col(0);
      for (la_index j = 0; j < t; ++j) factor.append(column.data());
      factor.solve_into(weights);
    });
    CHECK(growing <=
          solver_estimate([&](auto& space) { la::growing_cholesky().declare(space, n, t); }) +
              4.0 * static_cast<double>(n) + solver_change);
    CAPTURE(t, forming, solving, starting, growing);
    CHECK(growing > 4.0 * static_cast<double>(n * t));
  }
}

TEST_CASE("what threads share allocates nothing on them", "[linalg][memory][threads]") {
  if (!can_count) return;
  const kvfit::matrix x = solver_columns(700, 300, false).cwiseAbs();
  const kvfit::matrix y = kvfit_test::random_matrix(700, 40, 8);
  const kvfit::vector target = x.rowwise().sum();
  int bodies = 0;
  std::ptrdiff_t calls = 0;
  kvfit::external_executor counting{[&](la_index count, const auto& body) {
    for (la_index i = 0; i < count; ++i, ++bodies) {
      calls += kvfit_test::count_allocations([&] { body(i); }).calls;
    }
  }};
  const kvfit::executor_ref threads(counting, 4);
  CHECK(la::published_least_squares(x, y, {}, y.topRows(300), threads).report.finite);
  for (const auto method : {la::least_squares_method::ranked, la::least_squares_method::cholesky}) {
    CHECK(la::least_squares(x, y, {.method = method}, y.topRows(300), threads).report.finite);
  }
  CHECK(la::cross_validated_ridge(x, y, threads) >= 0);
  CHECK(la::find_gradient_start(x, target, threads).sigma > 0);
  const auto equations = la::form_normal_equations(x, target, {}, threads);
  CHECK(la::bounded_nnls(equations, {.bounds = {0.5, 2}}, Eigen::VectorXd(), threads)
            .weights.allFinite());
  CHECK(bodies > 100);
  CHECK(calls == 0);
}
