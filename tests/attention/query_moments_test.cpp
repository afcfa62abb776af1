// SPDX-License-Identifier: MIT
#include "kvfit/attention/query_moments.hpp"

#include "attention/samples.hpp"
#include "support/dense.hpp"

namespace kvfit_test {

using kvfit::moments_of;
using kvfit::query_block;

TEST_CASE("Mean and covariance are those of the rows of all blocks together",
          "[attention][query_moments]") {
  const auto n = GENERATE(as<index_t>{}, 1, 2, 255, 257, 600);
  const auto depth = GENERATE(as<index_t>{}, 1, 7, 64);
  const auto offset = GENERATE(0.0F, 1000.0F);  // a large mean costs no digits
  CAPTURE(n, depth, offset);
  kvfit::matrix queries = random_matrix(n, depth, 3);
  queries.array() += offset;
  const kvfit::row_view rows(queries);
  const index_t cut = n / 3;
  std::vector<query_block> blocks;
  if (cut > 0) blocks.emplace_back(rows.middle_rows(0, cut));
  blocks.emplace_back(rows.middle_rows(cut, n - cut));
  const kvfit::query_moments found = moments_of(blocks);

  const MatrixXd q = to_double(rows);
  const VectorXd mean = q.colwise().mean();
  const MatrixXd centred = q.rowwise() - mean.transpose();
  const MatrixXd covariance = oracle::transposed_product(centred, centred) / static_cast<double>(n);
  CHECK(oracle::largest_difference(found.mean, mean) <= 1e-13 * (1 + static_cast<double>(offset)));
  CHECK(oracle::largest_difference(found.covariance, covariance) <=
        1e-12 * (1 + covariance.cwiseAbs().maxCoeff()));
  if (n == 1) CHECK(found.covariance.isZero(0.0));
}

TEST_CASE("Strided and half-precision queries have the moments of their numbers",
          "[attention][query_moments]") {
  const kvfit::matrix all = random_matrix(40, 6, 5);
  const Eigen::Matrix<Eigen::half, -1, -1> halves = all.cast<Eigen::half>();  // column by column
  const kvfit::matrix rounded = halves.cast<float>();
  const kvfit::matrix odd = kvfit::matrix(Eigen::Map<const kvfit::matrix, 0, Eigen::OuterStride<>>(
      rounded.data() + 6, 20, 6, Eigen::OuterStride<>(12)));
  const kvfit::row_view every_second(halves.data() + 1, 20, 6, 2, 40);
  const std::vector<query_block> strided = {every_second};
  const std::vector<query_block> plain = {kvfit::row_view(odd)};
  CHECK(moments_of(strided).mean == moments_of(plain).mean);
  CHECK(moments_of(strided).covariance == moments_of(plain).covariance);
}

}  // namespace kvfit_test
