// SPDX-License-Identifier: MIT
// A sum lies nowhere in memory; a view of it would be a hidden copy.
// expect: could not convert|no viable conversion|no matching function
#include <Eigen/Core>

#include "kvfit/view/row_view.hpp"

kvfit::index_t rows_of(kvfit::row_view view);

kvfit::index_t call(const Eigen::MatrixXf& a, const Eigen::MatrixXf& b) {
#ifdef KVFIT_BAD
  return rows_of(a + b);
#else
  return rows_of(a);
#endif
}
