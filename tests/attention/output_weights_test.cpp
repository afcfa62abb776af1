// SPDX-License-Identifier: MIT
#include "kvfit/attention/output_weights.hpp"

#include <limits>

#include "attention/samples.hpp"

namespace kvfit_test {

using kvfit::inverse_lengths;
using kvfit::output_weighting;
using kvfit::output_weights;

namespace {

/// The lengths that count: never below a hundredth of the root mean square of those above 0.
VectorXd counted_lengths(const kvfit::matrix& output) {
  VectorXd lengths(output.rows());
  double squares = 0;
  int seen = 0;
  for (index_t i = 0; i < output.rows(); ++i) {
    double square = 0;
    for (index_t j = 0; j < output.cols(); ++j) {
      square += static_cast<double>(output(i, j)) * static_cast<double>(output(i, j));
    }
    lengths[i] = std::sqrt(square);
    squares += square;
    if (square > 0) ++seen;
  }
  for (double& length : lengths) {
    if (length > 0) length = std::max(length, 0.01 * std::sqrt(squares / seen));
  }
  return lengths;
}

/// Outputs of lengths that differ by a factor of 1e6, some of them 0.
kvfit::matrix uneven_outputs() {
  kvfit::matrix output = random_matrix(40, 7, 11);
  for (index_t i = 0; i < 40; ++i) {
    output.row(i) *= std::pow(10.0F, static_cast<float>(i % 7 - 3));
  }
  output.row(5).setZero();
  output.row(39).setZero();
  return output;
}

}  // namespace

TEST_CASE("Inverse lengths are the oracle's, with a floor under short outputs",
          "[attention][output_weights]") {
  const kvfit::matrix output = uneven_outputs();
  const VectorXd lengths = counted_lengths(output);
  const kvfit::vector found = inverse_lengths(output);
  REQUIRE(found.size() == 40);
  int floored = 0;
  for (index_t i = 0; i < 40; ++i) {
    CAPTURE(i);
    if (lengths[i] == 0) {
      CHECK(found[i] == 0);
      continue;
    }
    CHECK(std::abs(static_cast<double>(found[i]) * lengths[i] - 1) <= 2 * fp32_rounding);
    if (found[i] == found.maxCoeff()) ++floored;
  }
  CHECK(found[5] == 0);
  CHECK(found[39] == 0);
  CHECK(floored > 5);  // the short ones share one weight
  CHECK(floored < 30);
}

TEST_CASE("The floor of inverse lengths is a hundredth of the root mean square of what is seen",
          "[attention][output_weights]") {
  kvfit::matrix output = kvfit::matrix::Zero(8, 2);
  output.row(0) << 3, 4;
  output.row(1) << 0, 5;
  output.row(2) << 1e-6F, 0;
  const double rms = std::sqrt(50.0 / 3);  // the five zero rows do not count
  const kvfit::vector found = inverse_lengths(output);
  CHECK(found[0] == Approx(0.2));
  CHECK(found[1] == Approx(0.2));
  CHECK(found[2] == Approx(100 / rms));
  CHECK(found.tail(5).isZero(0.0F));
}

TEST_CASE("Relative weights are inverse lengths of mean square 1", "[attention][output_weights]") {
  const auto scale = GENERATE(1.0F, 1e-12F, 1e12F);
  CAPTURE(scale);
  const kvfit::matrix output = scale * uneven_outputs();
  const VectorXd lengths = counted_lengths(output);
  const VectorXd weights = output_weights(output, output_weighting::relative).cast<double>();
  const auto seen = static_cast<double>((lengths.array() > 0).count());
  CHECK(seen == 38);
  CHECK(weights.squaredNorm() / seen == Approx(1).epsilon(1e-6));
  CHECK(weights[5] == 0);
  CHECK(weights[39] == 0);
  const double constant = weights[0] * lengths[0];
  for (index_t i = 0; i < 40; ++i) {
    CAPTURE(i);
    if (lengths[i] > 0) CHECK(weights[i] * lengths[i] == Approx(constant).epsilon(1e-6));
  }
}

TEST_CASE("Outputs of one length all weigh 1", "[attention][output_weights]") {
  kvfit::matrix output = random_matrix(20, 5, 12);
  output.rowwise().normalize();
  output *= 30;
  const kvfit::vector weights = output_weights(output, output_weighting::relative);
  CHECK((weights.array() - 1).abs().maxCoeff() <= 1e-6F);
}

TEST_CASE("Where no output is seen, every weight is 0", "[attention][output_weights]") {
  const auto rows = GENERATE(as<index_t>{}, 0, 1, 6);
  const kvfit::matrix nothing = kvfit::matrix::Zero(rows, 3);
  REQUIRE(inverse_lengths(nothing).size() == rows);
  REQUIRE(output_weights(nothing, output_weighting::relative).size() == rows);
  CHECK(inverse_lengths(nothing).isZero(0.0F));
  CHECK(output_weights(nothing, output_weighting::relative).isZero(0.0F));
}

TEST_CASE("§9.10 outputs at the ends of fp32 have finite weights of the same mean square",
          "[attention][output_weights]") {
  const auto scale = GENERATE(1e-42F, 1e-38F, 3e38F);
  CAPTURE(scale);
  const kvfit::matrix output = kvfit::matrix::Constant(4, 128, scale);
  CHECK(inverse_lengths(output).allFinite());
  const kvfit::vector weights = output_weights(output, output_weighting::relative);
  REQUIRE(weights.allFinite());
  CHECK((weights.array() - 1).abs().maxCoeff() <= 1e-6F);
}

}  // namespace kvfit_test
