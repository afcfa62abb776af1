// SPDX-License-Identifier: MIT
// A vector made in the call dies with it.
// expect: could not convert|no viable conversion|no matching function
#include <Eigen/Core>
#include <utility>
#include <vector>
#include "kvfit/view/row_view.hpp"

kvfit::index_t rows_of(kvfit::row_view view);

kvfit::index_t call(std::vector<float> a) {
#ifdef KVFIT_BAD
  return rows_of(*kvfit::make_view(std::move(a), 2, 3));
#else
  return rows_of(*kvfit::make_view(a, 2, 3));
#endif
}
