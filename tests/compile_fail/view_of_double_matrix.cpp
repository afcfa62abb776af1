// SPDX-License-Identifier: MIT
// Caches do not store fp64; converting would be a hidden copy.
// expect: could not convert|no viable conversion|no matching function
#include <Eigen/Core>

#include "kvfit/view/row_view.hpp"

kvfit::index_t rows_of(kvfit::row_view view);

#ifdef KVFIT_BAD
kvfit::index_t call(const Eigen::MatrixXd& a) {
  return rows_of(a);
}
#else
kvfit::index_t call(const Eigen::MatrixXf& a) {
  return rows_of(a);
}
#endif
