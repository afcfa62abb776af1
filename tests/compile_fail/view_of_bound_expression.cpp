// SPDX-License-Identifier: MIT
// A reference to const that binds an expression holds the only copy of its value.
// expect: could not convert|no viable conversion|no matching function
#include <Eigen/Core>
#include "kvfit/view/row_view.hpp"

using matrix_ref = Eigen::Ref<const Eigen::MatrixXf>;

kvfit::index_t rows_of(kvfit::row_view view);

kvfit::index_t call(const Eigen::MatrixXf& a, const Eigen::MatrixXf& b) {
#ifdef KVFIT_BAD
  return rows_of(matrix_ref(a + b));
#else
  const matrix_ref sum(a + b);
  return rows_of(sum);
#endif
}
