// SPDX-License-Identifier: MIT
// A cast lies nowhere in memory; a view of it would be a hidden copy.
// expect: could not convert|no viable conversion|no matching function
#include <Eigen/Core>

#include "kvfit/view/row_view.hpp"

kvfit::index_t rows_of(kvfit::row_view view);

kvfit::index_t call(const Eigen::MatrixXf& a) {
#ifdef KVFIT_BAD
  return rows_of(a.cast<double>());
#else
  return rows_of(a);
#endif
}
