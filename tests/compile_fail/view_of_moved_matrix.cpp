// SPDX-License-Identifier: MIT
// A matrix given away is about to die as well.
// expect: could not convert|no viable conversion|no matching function
#include <Eigen/Core>
#include <utility>
#include "kvfit/view/row_view.hpp"

kvfit::index_t rows_of(kvfit::row_view view);

kvfit::index_t call(Eigen::MatrixXf a) {
#ifdef KVFIT_BAD
  return rows_of(std::move(a));
#else
  return rows_of(a);
#endif
}
