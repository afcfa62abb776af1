// SPDX-License-Identifier: MIT
#include "kvfit/attention/compare.hpp"

#include "attention/samples.hpp"

namespace kvfit_test {

using kvfit::compare;
using kvfit::fidelity;
using kvfit::matrix;
using kvfit::vector;

TEST_CASE("compare by hand", "[attention][fidelity]") {
  matrix full(3, 2);
  matrix fitted(3, 2);
  vector mass(3);
  vector fitted_mass(3);
  full << 3, 4,  // ‖o‖ = 5
      1, 0,      //
      0, 2;
  fitted << 3, 4.5F,  // off by 0.5: 0.1 relative
      0, 1,           // off by √2; at right angles
      0, -2;          // off by 4: 2 relative; opposite
  mass << 10, -3, 100;
  fitted_mass << 10, -2, 98;
  const fidelity f = compare(full, mass, fitted, fitted_mass);
  constexpr double rounding = 1e-12;  // all in double
  CHECK(f.queries == 3);
  CHECK(f.output_error == Approx((0.1 + std::sqrt(2.0) + 2) / 3).epsilon(rounding));
  CHECK(f.output_error_max == Approx(2).epsilon(rounding));
  const double squares = full.cast<double>().squaredNorm();
  CHECK(f.rms_output_error == Approx(std::sqrt((0.25 + 2 + 16) / squares)).epsilon(1e-6));
  CHECK(f.mass_error ==
        Approx((0 + (std::exp(1.0) - 1) + (1 - std::exp(-2.0))) / 3).epsilon(rounding));
  CHECK(f.mass_error_max == Approx(std::exp(1.0) - 1).epsilon(rounding));
  const double first_cosine = (9 + 18) / (5 * std::sqrt(9 + 20.25));
  CHECK(f.cosine == Approx((first_cosine + 0 - 1) / 3).epsilon(rounding));
  CHECK(f.cosine_min == Approx(-1).epsilon(rounding));
}

TEST_CASE("A result compared with itself has no error", "[attention][fidelity]") {
  const matrix y = random_matrix(9, 5, 1);
  const vector mass = random_matrix(9, 1, 2).col(0);
  const fidelity f = compare(y, mass, y, mass);
  CHECK(f.queries == 9);
  CHECK(f.output_error == 0.0);
  CHECK(f.output_error_max == 0.0);
  CHECK(f.rms_output_error == 0.0);
  CHECK(f.mass_error == 0.0);
  CHECK(f.mass_error_max == 0.0);
  CHECK(f.cosine == Approx(1).epsilon(1e-12));
  CHECK(f.cosine_min == Approx(1).epsilon(1e-12));
}

TEST_CASE("The worst query is found in any row", "[attention][fidelity]") {
  const auto at = GENERATE(as<index_t>{}, 0, 1, 7, 8);
  CAPTURE(at);
  const matrix y = random_matrix(9, 5, 1);
  const vector mass = vector::Zero(9);
  matrix off = y;
  off.row(at) *= -1;
  vector off_mass = mass;
  off_mass[at] = -1;
  const fidelity f = compare(y, mass, off, off_mass);
  CHECK(f.output_error_max == Approx(2).epsilon(1e-9));
  CHECK(f.output_error == Approx(2.0 / 9).epsilon(1e-9));
  CHECK(f.mass_error_max == Approx(1 - std::exp(-1.0)).epsilon(1e-12));
  CHECK(f.mass_error == Approx((1 - std::exp(-1.0)) / 9).epsilon(1e-12));
  CHECK(f.cosine_min == Approx(-1).epsilon(1e-9));
  CHECK(f.cosine == Approx((8.0 - 1) / 9).epsilon(1e-9));
}

TEST_CASE("Queries that see no key on both sides are left out", "[attention][fidelity]") {
  matrix y = random_matrix(3, 4, 1);
  matrix off = y;
  vector mass(3);
  mass << 0, hidden, 0;
  y.row(1).setZero();
  off.row(1).setZero();
  off.row(2) *= 2;
  const fidelity f = compare(y, mass, off, mass);
  CHECK(f.queries == 2);
  CHECK(f.output_error == Approx(0.5).epsilon(1e-9));
  CHECK(f.cosine_min == Approx(1).epsilon(1e-12));
}

TEST_CASE("A query that lost all of its mass has mass error 1, never NaN",
          "[attention][fidelity]") {
  const matrix y = random_matrix(1, 2, 1);
  const matrix nothing = matrix::Zero(1, 2);
  vector mass(1);
  vector none(1);
  mass << 5;
  none << hidden;
  const fidelity lost = compare(y, mass, nothing, none);
  CHECK(lost.queries == 1);
  CHECK(lost.mass_error == 1.0);
  CHECK(lost.output_error == Approx(1).epsilon(1e-9));
  CHECK(lost.cosine == 0.0);
  const fidelity found = compare(nothing, none, y, mass);
  CHECK(found.queries == 1);
  CHECK(found.output_error == 1.0);
  CHECK(found.rms_output_error == 1.0);
  CHECK(found.cosine == 0.0);
  CHECK(found.mass_error == infinity);
}

TEST_CASE("Small mass errors keep their digits", "[attention][fidelity]") {
  // exp(x) − 1 computed as such would leave none of them
  const matrix y = matrix::Ones(1, 1);
  vector mass(1);
  vector near_mass(1);
  mass << 0;
  near_mass << 1e-12F;
  CHECK(compare(y, mass, y, near_mass).mass_error == Approx(1e-12).epsilon(1e-6));
}

TEST_CASE("§9.27 no queries, no error", "[attention][fidelity]") {
  const fidelity f = compare(matrix(0, 4), vector(0), matrix(0, 4), vector(0));
  CHECK(f.queries == 0);
  CHECK(f.output_error == 0.0);
  CHECK(f.mass_error == 0.0);
  CHECK(f.cosine == 1.0);
  CHECK(f.cosine_min == 1.0);
}

TEST_CASE("K: errors are relative to what is there, however small", "[attention][fidelity]") {
  const matrix y = random_matrix(9, 5, 1);
  const matrix fitted = y + 0.3F * random_matrix(9, 5, 2);
  const vector mass = vector::Zero(9);
  const fidelity f = compare(y, mass, fitted, mass);
  for (const float scale : {0x1p-126F, 0x1p-100F, 0x1p-40F, 0x1p40F, 0x1p100F}) {  // exact factors
    CAPTURE(scale);
    const matrix small_y = y * scale;
    const matrix small_fitted = fitted * scale;
    const fidelity scaled = compare(small_y, mass, small_fitted, mass);
    const double lost = scale < 0x1p-120F ? 1e-5 : 1e-12;  // numbers below 2⁻¹²⁶ lose digits
    CHECK(scaled.output_error == Approx(f.output_error).epsilon(lost));
    CHECK(scaled.output_error_max == Approx(f.output_error_max).epsilon(lost));
    CHECK(scaled.rms_output_error == Approx(f.rms_output_error).epsilon(lost));
    CHECK(scaled.cosine == Approx(f.cosine).epsilon(lost));
    CHECK(scaled.cosine_min == Approx(f.cosine_min).epsilon(lost));
  }
}

TEST_CASE("NaN in a result is not taken for agreement", "[attention][fidelity]") {
  matrix y = random_matrix(2, 3, 1);
  matrix bad = y;
  bad(1, 2) = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(compare(y, vector::Zero(2), bad, vector::Zero(2)).output_error));
  y.row(1).setZero();
  CHECK(std::isnan(compare(y, vector::Zero(2), bad, vector::Zero(2)).output_error));
}

TEST_CASE("Two outputs of zero agree", "[attention][fidelity]") {
  const matrix zero = matrix::Zero(2, 3);
  const vector mass = vector::Zero(2);
  const fidelity f = compare(zero, mass, zero, mass);
  CHECK(f.queries == 2);
  CHECK(f.output_error == 0.0);
  CHECK(f.rms_output_error == 0.0);
  CHECK(f.cosine == 1.0);
  CHECK(f.cosine_min == 1.0);
}

}  // namespace kvfit_test
