// SPDX-License-Identifier: MIT
/// Random numbers for tests.
#pragma once

#include "kvfit/core/matrix.hpp"
#include "kvfit/core/random.hpp"

namespace kvfit_test {

/// Near-normal numbers of the given spread (sums of twelve uniform ones), the same on any machine.
inline kvfit::matrix random_matrix(kvfit::index_t rows, kvfit::index_t cols, std::uint64_t seed,
                                   float spread = 1) {
  kvfit::random_source random(seed);
  kvfit::matrix m(rows, cols);
  for (kvfit::index_t i = 0; i < rows; ++i) {
    for (kvfit::index_t j = 0; j < cols; ++j) {
      double sum = -6;
      for (int k = 0; k < 12; ++k) sum += random.uniform();
      m(i, j) = spread * static_cast<float>(sum);
    }
  }
  return m;
}

}  // namespace kvfit_test
