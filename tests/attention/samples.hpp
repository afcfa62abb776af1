// SPDX-License-Identifier: MIT
/// What the tests of attention/ share: random inputs, and results compared with the oracle.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "kvfit/attention/attend.hpp"
#include "kvfit/attention/row_logits.hpp"
#include "kvfit/attention/score_pass.hpp"
#include "support/attention_oracle.hpp"
#include "support/catch.hpp"
#include "support/random_matrix.hpp"

namespace kvfit_test {

inline constexpr float hidden = -std::numeric_limits<float>::infinity();

/// As many near-normal numbers as a vector.
inline std::vector<float> random_numbers(index_t count, std::uint64_t seed, float spread = 1) {
  const kvfit::matrix m = random_matrix(1, count, seed, spread);
  return {m.data(), m.data() + count};
}

/// Queries, keys and values of one head, drawn from `seed`.
struct sample {
  sample(index_t n, index_t keys_count, index_t depth, index_t width, std::uint64_t seed = 1,
         float spread = 1)
      : queries(random_matrix(n, depth, 3 * seed, spread)),
        keys(random_matrix(keys_count, depth, 3 * seed + 1, spread)),
        values(random_matrix(keys_count, width, 3 * seed + 2)) {}

  [[nodiscard]] kvfit::kv_block cache() const { return {.keys = keys, .values = values}; }

  kvfit::matrix queries;
  kvfit::matrix keys;
  kvfit::matrix values;
};

/// A stretch of a block: keys first … first + count − 1 with all that belongs to them.
class stretch {
 public:
  stretch(const kvfit::kv_block& whole, index_t first, index_t count) : block_(whole) {
    const auto at = static_cast<std::size_t>(first);
    const auto length = static_cast<std::size_t>(count);
    block_.keys = whole.keys.middle_rows(first, count);
    block_.values = whole.values.middle_rows(first, count);
    if (!whole.bias.empty()) block_.bias = whole.bias.subspan(at, length);
    if (!whole.positions.empty()) block_.positions = whole.positions.subspan(at, length);
    block_.first_position = whole.first_position + first;
    for (const kvfit::row_view& mask : whole.masks) {
      masks_.push_back(mask.middle_cols(first, count));
    }
  }
  /// Valid as long as this object.
  [[nodiscard]] kvfit::kv_block block() const {
    kvfit::kv_block block = block_;
    block.masks = masks_;
    return block;
  }

 private:
  kvfit::kv_block block_;
  std::vector<kvfit::row_view> masks_;
};

inline bool same_bytes(const float* a, const float* b, index_t count) {
  return count == 0 || std::memcmp(a, b, static_cast<std::size_t>(count) * sizeof(float)) == 0;
}
inline bool same_bytes(const kvfit::matrix& a, const kvfit::matrix& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() && same_bytes(a.data(), b.data(), a.size());
}
inline bool same_bytes(const kvfit::vector& a, const kvfit::vector& b) {
  return a.size() == b.size() && same_bytes(a.data(), b.data(), a.size());
}

/// The largest excess of an error over its bound, and where it is.
struct worst_case {
  double ratio = 0;  ///< error / bound
  double error = 0;
  double bound = 0;
  index_t row = -1;

  void see(double error_now, double bound_now, index_t row_now) {
    if (error_now == 0) return;  // also where the bound is 0
    const double ratio_now = error_now / bound_now;
    if (ratio_now <= ratio || std::isnan(ratio)) return;  // a NaN comes through, and stays
    *this = {ratio_now, error_now, bound_now, row_now};
  }
  [[nodiscard]] std::string text() const {
    std::ostringstream text;
    text << "worst error " << error << " of " << bound << " at row " << row;
    return text.str();
  }
};

/// How much rounding a comparison forgives.
enum class bounds {
  derived,   ///< what the sizes and magnitudes of the inputs explain
  ordinary,  ///< that, and never more than 1e-5 · max(1, |log-mass|) and 1e-4 of an output's norm
};

/// log_mass and output (n and n × d_v) against the oracle.
inline void check_attention(const kvfit::matrix& output, const kvfit::vector& log_mass,
                            const oracle_attention& expected, index_t depth,
                            bounds forgiven = bounds::ordinary) {
  REQUIRE(output.rows() == expected.output.rows());
  REQUIRE(output.cols() == expected.output.cols());
  REQUIRE(log_mass.size() == expected.log_mass.size());
  worst_case mass;
  worst_case out;
  bool is_hidden_right = true;
  for (index_t i = 0; i < output.rows(); ++i) {
    const Eigen::VectorXd found = output.row(i).transpose().cast<double>();
    const Eigen::VectorXd wanted = expected.output.row(i).transpose();
    if (expected.log_mass[i] == -infinity) {
      is_hidden_right = is_hidden_right && log_mass[i] == hidden && found.isZero(0.0);
      continue;
    }
    double mass_bound = expected.log_mass_error(i, depth);
    double output_bound =
        expected.output_error(i, depth) * std::sqrt(static_cast<double>(output.cols()));
    if (forgiven == bounds::ordinary) {
      mass_bound = std::min(mass_bound, 1e-5 * std::max(1.0, std::abs(expected.log_mass[i])));
      output_bound = std::min(output_bound, 1e-4 * wanted.norm());
    }
    mass.see(std::abs(static_cast<double>(log_mass[i]) - expected.log_mass[i]), mass_bound, i);
    out.see((found - wanted).norm(), output_bound, i);
  }
  INFO("log-mass: " << mass.text());
  INFO("output norm: " << out.text());
  CHECK(mass.ratio <= 1);
  CHECK(out.ratio <= 1);
  CHECK(is_hidden_right);
}

inline void check_attention(const kvfit::result<kvfit::attention_output>& y,
                            const oracle_attention& expected, index_t depth,
                            bounds forgiven = bounds::ordinary) {
  INFO((y ? "no error" : y.error().message()));
  REQUIRE(y);
  check_attention(y->output, y->log_mass, expected, depth, forgiven);
}

/// Two fp32 results of the same attention, taken along different ways.
inline void check_close(const kvfit::attention_output& a, const kvfit::attention_output& b,
                        double log_mass_bound, double output_bound) {
  REQUIRE(a.output.rows() == b.output.rows());
  REQUIRE(a.output.cols() == b.output.cols());
  worst_case mass;
  worst_case out;
  for (index_t i = 0; i < a.output.rows(); ++i) {
    const bool is_hidden = a.log_mass[i] == hidden && b.log_mass[i] == hidden;
    const double gap = is_hidden ? 0 : std::abs(static_cast<double>(a.log_mass[i] - b.log_mass[i]));
    mass.see(gap, log_mass_bound, i);
    out.see(static_cast<double>((a.output.row(i) - b.output.row(i)).cwiseAbs().maxCoeff()),
            output_bound, i);
  }
  INFO("log-mass: " << mass.text());
  INFO("output: " << out.text());
  CHECK(mass.ratio <= 1);
  CHECK(out.ratio <= 1);
}

/// Logits of all queries against some of the cache's rows.
inline kvfit::matrix row_logits(const kvfit::kv_block& cache, const kvfit::query_set& queries,
                                const kvfit::logit_rule& rule, std::span<const index_t> rows) {
  const kvfit::matrix keys = kvfit::gather_rows(cache.keys, rows);
  kvfit::matrix logits;
  kvfit::row_logits_into(cache, queries, rule, rows, keys, logits);
  return logits;
}

}  // namespace kvfit_test
