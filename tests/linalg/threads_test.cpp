// SPDX-License-Identifier: MIT
// Threads share products, factors and right-hand sides: same bytes, and nothing allocated on them.
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kvfit/linalg/bounded_nnls.hpp"
#include "kvfit/linalg/cross_validated_ridge.hpp"
#include "kvfit/linalg/detail/strip_qr.hpp"
#include "kvfit/linalg/gradient_start.hpp"
#include "kvfit/linalg/gram.hpp"
#include "kvfit/linalg/least_squares.hpp"
#include "kvfit/parallel/external_executor.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "support/catch.hpp"
#include "support/random_matrix.hpp"

namespace {

namespace la = kvfit::linalg;

/// Columns of attention weights: no entry negative, rows of very different scales, some columns
/// nearly alike.
kvfit::matrix shared_columns(kvfit::index_t n, kvfit::index_t t) {
  kvfit::matrix x = kvfit_test::random_matrix(n, t, 11, 2).array().exp();
  for (kvfit::index_t j = 40; j < t; j += 40) x.col(j) = x.col(j - 1) + 1e-3F * x.col(j);
  return x;
}

/// The bytes of some matrices, one after the other.
template <class... Matrices>
std::string bytes_of(const Matrices&... of) {
  std::string out;
  const auto append = [&out](const auto& one) {
    const auto size = static_cast<std::size_t>(one.size()) * sizeof(one.data()[0]);
    out.append(reinterpret_cast<const char*>(one.data()), size);
  };
  (append(of), ...);
  return out;
}

std::string bytes_of(const la::least_squares_fit& fit) {
  const Eigen::Vector3d numbers(static_cast<double>(fit.report.rank), fit.report.lambda,
                                fit.report.condition);
  return bytes_of(fit.coefficients, numbers);
}

/// `work(threads)` must give the same bytes for nobody, for threads, and for who takes items from
/// the last to the first; and must have shared something.
template <class Work>
void check_shared(Work work) {
  const std::string alone = work(kvfit::executor_ref());
  for (const int threads : {2, 3}) {
    kvfit::thread_pool pool(threads);
    CAPTURE(threads);
    CHECK(work(kvfit::executor_ref(pool)) == alone);
  }
  int loops = 0;
  kvfit::external_executor backwards{[&](kvfit::index_t count, const auto& body) {
    ++loops;
    for (kvfit::index_t i = count; i-- > 0;) body(i);
  }};
  CHECK(work(kvfit::executor_ref(backwards, 3)) == alone);
  CHECK(loops > 0);
}

}  // namespace

TEST_CASE("least squares gives the same bytes at any number of threads", "[linalg][threads]") {
  struct size {
    kvfit::index_t n;
    kvfit::index_t t;
  };
  for (const auto [n, t] : {size{700, 200}, size{150, 400}, size{900, 520}}) {
    const kvfit::matrix x = shared_columns(n, t);
    const kvfit::matrix y = kvfit_test::random_matrix(n, 100, 12);
    const kvfit::matrix toward = kvfit_test::random_matrix(t, 100, 13);
    CAPTURE(n, t);
    for (const auto method :
         {la::least_squares_method::ranked, la::least_squares_method::cholesky}) {
      CAPTURE(static_cast<int>(method));
      check_shared([&](const kvfit::executor_ref& threads) {
        return bytes_of(la::least_squares(x, y, {.method = method}, threads));
      });
    }
    check_shared([&](const kvfit::executor_ref& threads) {
      return bytes_of(la::published_least_squares(x, y, {}, threads));
    });
    const la::least_squares_options ridged{.method = la::least_squares_method::ranked,
                                           .mode = la::ridge_mode::frobenius,
                                           .ridge = 1e-3};
    check_shared([&](const kvfit::executor_ref& threads) {
      return bytes_of(la::least_squares(x, y, ridged, toward, threads));
    });
  }
}

TEST_CASE("a ridge is cross-validated to the same bytes at any number of threads",
          "[linalg][threads]") {
  for (const bool is_tall : {false, true}) {
    const kvfit::matrix x = shared_columns(is_tall ? 900 : 200, is_tall ? 200 : 500);
    const kvfit::matrix y = kvfit_test::random_matrix(x.rows(), 100, 12);
    check_shared([&](const kvfit::executor_ref& threads) {
      const double ridge = la::cross_validated_ridge(x, y, threads);
      return bytes_of(Eigen::VectorXd::Constant(1, ridge).eval());
    });
  }
}

TEST_CASE("bounded fits give the same bytes at any number of threads", "[linalg][threads]") {
  const kvfit::matrix x = shared_columns(600, 450);
  const kvfit::vector y = x.rowwise().sum();
  const std::vector<double> factors(600, 0.3);
  check_shared([&](const kvfit::executor_ref& threads) {
    const la::normal_equations equations = la::form_normal_equations(x, y, factors, threads);
    const auto fit = la::bounded_nnls(equations, {.bounds = {0.5, 2}}, Eigen::VectorXd(), threads);
    return bytes_of(equations.gram, equations.moment, fit.weights);
  });
  // Once by QR, once by the Gram matrix, which columns alike rule out.
  const kvfit::matrix apart = kvfit_test::random_matrix(700, 300, 15).cwiseAbs();
  la::gradient_start by_gram;
  REQUIRE_FALSE(la::detail::start_by_gram(x, y, {}, by_gram));
  REQUIRE(la::detail::start_by_gram(apart, apart.rowwise().sum(), {}, by_gram));
  for (const kvfit::matrix& columns : {x, apart}) {
    check_shared([&](const kvfit::executor_ref& threads) {
      const la::gradient_start start =
          la::find_gradient_start(columns, columns.rowwise().sum(), threads);
      return bytes_of(start.weights, Eigen::VectorXd::Constant(1, start.sigma).eval());
    });
  }
}

TEST_CASE("one bad number is found by whichever thread meets it", "[linalg][threads]") {
  kvfit::thread_pool pool(3);
  kvfit::matrix x = shared_columns(700, 120);
  const kvfit::matrix y = kvfit_test::random_matrix(700, 3, 14);
  CHECK(la::least_squares(x, y, {}, kvfit::executor_ref(pool)).report.finite);
  x(699, 119) = std::numeric_limits<float>::infinity();
  CHECK(la::least_squares(x, y, {}, kvfit::executor_ref(pool)).report.status ==
        la::least_squares_status::non_finite_input);
}
