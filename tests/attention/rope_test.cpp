// SPDX-License-Identifier: MIT
#include "kvfit/attention/rope.hpp"

#include <complex>
#include <limits>
#include <span>
#include <vector>

#include "attention/samples.hpp"

namespace kvfit_test {

using kvfit::check_rope;
using kvfit::rope;
using kvfit::rope_pairing;
using kvfit::row_rotation;

namespace {

/// A row turned by `distance` positions, in double: pair i is a complex number, times
/// exp(i · distance · θ_i) with θ_i = base^(−2i / dims).
VectorXd turned_in_double(const rope& rotation, const VectorXd& row, index_t distance) {
  VectorXd out = row;
  const index_t dims = rotation.dims == 0 ? row.size() : rotation.dims;
  for (index_t i = 0; 2 * i < dims; ++i) {
    const bool is_split = rotation.pairing == rope_pairing::half_split;
    const index_t real = is_split ? i : 2 * i;
    const index_t imaginary = is_split ? i + dims / 2 : 2 * i + 1;
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(dims);
    const double theta = std::exp(exponent * std::log(rotation.base));
    const std::complex<double> pair(row[real], row[imaginary]);
    const auto moved = pair * std::polar(1.0, static_cast<double>(distance) * theta);
    out[real] = moved.real();
    out[imaginary] = moved.imag();
  }
  return out;
}

/// The row as the library turns it.
kvfit::matrix turned(const rope& rotation, const kvfit::matrix& row, index_t distance) {
  REQUIRE(check_rope(rotation, row.cols()));
  kvfit::matrix out = row;
  row_rotation(rotation, row.cols(), distance).turn(out.data());
  return out;
}

VectorXd in_double(const kvfit::matrix& row) {
  return row.row(0).transpose().cast<double>();
}

}  // namespace

TEST_CASE("A turned row is the oracle's, in both pairings and with some of the elements",
          "[attention][rope]") {
  const auto pairing = GENERATE(rope_pairing::half_split, rope_pairing::interleaved);
  const auto dims = GENERATE(as<index_t>{}, 0, 2, 6, 32, 64);
  const auto base = GENERATE(10000.0, 500000.0, 1.0, 0.5);
  const auto distance = GENERATE(as<index_t>{}, 0, 1, -1, 77, -4096, 100000);
  CAPTURE(dims, base, distance);
  const rope rotation{.base = base, .dims = dims, .pairing = pairing};
  const kvfit::matrix row = random_matrix(1, 64, 3);
  const kvfit::matrix found = turned(rotation, row, distance);
  const VectorXd expected = turned_in_double(rotation, in_double(row), distance);
  // Cosine, sine and two products a number are rounded; angles have some 1e-16 of their size.
  const double allowed = 4 * fp32_rounding * in_double(row).cwiseAbs().maxCoeff() * 2;
  const double error = (in_double(found) - expected).cwiseAbs().maxCoeff();
  INFO("off by " << error << ", allowed " << allowed);
  CHECK(error <= allowed);
  if (dims > 0) CHECK(found.rightCols(64 - dims) == row.rightCols(64 - dims));
  if (distance == 1) CHECK(found != row);
}

TEST_CASE("The fastest pair turns by one radian a position, the others slower",
          "[attention][rope]") {
  const auto pairing = GENERATE(rope_pairing::half_split, rope_pairing::interleaved);
  const bool is_split = pairing == rope_pairing::half_split;
  const rope rotation{.base = 10000, .pairing = pairing};
  kvfit::matrix row = kvfit::matrix::Zero(1, 4);
  row(0, 0) = 1;  // angle 0 in pair 0
  row(0, is_split ? 1 : 2) = 1;
  const kvfit::matrix moved = turned(rotation, row, 3);
  CHECK(moved(0, 0) == Approx(std::cos(3.0)));
  CHECK(moved(0, is_split ? 2 : 1) == Approx(std::sin(3.0)));
  CHECK(moved(0, is_split ? 1 : 2) == Approx(std::cos(0.03)));
  CHECK(moved(0, 3) == Approx(std::sin(0.03)));
}

TEST_CASE("The logit of a turned query and a turned key depends on their distance alone",
          "[attention][rope]") {
  const auto pairing = GENERATE(rope_pairing::half_split, rope_pairing::interleaved);
  const auto dims = GENERATE(as<index_t>{}, 0, 12);
  CAPTURE(dims);
  const rope rotation{.base = 10000, .dims = dims, .pairing = pairing};
  const kvfit::matrix query = random_matrix(1, 32, 5);
  const kvfit::matrix key = random_matrix(1, 32, 6);
  const auto logit = [&](index_t query_at, index_t key_at) {
    return in_double(turned(rotation, query, query_at))
        .dot(in_double(turned(rotation, key, key_at)));
  };
  const double allowed = 16 * fp32_rounding * in_double(query).norm() * in_double(key).norm();
  for (const index_t distance : {0, 1, 9, -40}) {
    const double near = logit(distance, 0);
    for (const index_t shift : {1, 100, 5000, -300}) {
      CAPTURE(distance, shift);
      CHECK(std::abs(logit(shift + distance, shift) - near) <= allowed);
    }
  }
  CHECK(std::abs(logit(1, 0) - logit(9, 0)) > 1e3 * allowed);
}

TEST_CASE("Turning on and back gives the row back, and turns add up", "[attention][rope]") {
  const auto pairing = GENERATE(rope_pairing::half_split, rope_pairing::interleaved);
  const rope rotation{.base = 10000, .dims = 48, .pairing = pairing};
  const kvfit::matrix row = random_matrix(1, 64, 7);
  const double allowed = 16 * fp32_rounding * in_double(row).cwiseAbs().maxCoeff();
  for (const index_t distance : {1, 300, 70000}) {
    CAPTURE(distance);
    const kvfit::matrix there = turned(rotation, row, distance);
    CHECK((in_double(there) - in_double(row)).cwiseAbs().maxCoeff() > 0.01);
    const kvfit::matrix back = turned(rotation, there, -distance);
    CHECK((in_double(back) - in_double(row)).cwiseAbs().maxCoeff() <= allowed);
    const kvfit::matrix on = turned(rotation, there, 23);
    const kvfit::matrix at_once = turned(rotation, row, distance + 23);
    CHECK((in_double(on) - in_double(at_once)).cwiseAbs().maxCoeff() <= allowed);
  }
  CHECK(same_bytes(turned(rotation, row, 0), row));
}

TEST_CASE("Rows turned each by a distance of its own are those turned one by one",
          "[attention][rope]") {
  const auto pairing = GENERATE(rope_pairing::half_split, rope_pairing::interleaved);
  const rope rotation{.base = 10000, .dims = 48, .pairing = pairing};
  const kvfit::matrix rows = random_matrix(7, 64, 8);
  const std::vector<index_t> distances = {0, 5, 5, -300, 70000, 0, 5};
  kvfit::matrix found = rows;
  REQUIRE(kvfit::turn_rows(found, rotation, distances));
  kvfit::matrix wanted = rows;
  for (index_t i = 0; i < 7; ++i) {
    row_rotation(rotation, 64, distances[static_cast<std::size_t>(i)]).turn(wanted.row(i).data());
  }
  CHECK(same_bytes(found, wanted));

  kvfit::matrix still = rows;
  const auto fewer = kvfit::turn_rows(still, rotation, std::span(distances).first(6));
  REQUIRE_FALSE(fewer);
  CHECK(fewer.error().code == kvfit::errc::shape_mismatch);
  CHECK(fewer.error().actual == 6);
  CHECK(fewer.error().expected == 7);
  CHECK_FALSE(kvfit::turn_rows(still, {.dims = 7}, distances));
  CHECK(same_bytes(still, rows));
}

TEST_CASE("A rotation with an unusable base is refused", "[attention][rope]") {
  const auto base = GENERATE(0.0, -1.0, std::numeric_limits<double>::quiet_NaN(),
                             std::numeric_limits<double>::infinity());
  CAPTURE(base);
  const auto checked = check_rope({.base = base}, 64);
  REQUIRE_FALSE(checked);
  CHECK(checked.error().code == kvfit::errc::invalid_option);
  CHECK(checked.error().argument == "rope.base");
}

TEST_CASE("A rotation of elements that aren't pairs within the row is refused",
          "[attention][rope]") {
  struct wrong {
    index_t dims;
    index_t width;
  };
  for (const wrong one : {wrong{-2, 64}, {66, 64}, {7, 64}, {63, 64}, {0, 63}, {2, 0}}) {
    CAPTURE(one.dims, one.width);
    const auto checked = check_rope({.dims = one.dims}, one.width);
    REQUIRE_FALSE(checked);
    CHECK(checked.error().code == kvfit::errc::invalid_option);
    CHECK(checked.error().argument == "rope.dims");
    CHECK(checked.error().actual == (one.dims == 0 ? one.width : one.dims));
    CHECK(checked.error().expected == one.width);
  }
  CHECK(check_rope({}, 64));
  CHECK(check_rope({.dims = 64}, 64));
  CHECK(check_rope({.dims = 2}, 63));
}

}  // namespace kvfit_test
