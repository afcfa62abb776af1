// SPDX-License-Identifier: MIT
/// The owning matrices of results and workspaces: row-major (one token a row).
#pragma once

#include <Eigen/Core>

#include "kvfit/core/index.hpp"

namespace kvfit {

/// rows × columns of one type of number, contiguous row-major.
template <class Number>
using matrix_of = Eigen::Matrix<Number, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// rows × columns, fp32.
using matrix = matrix_of<float>;

/// rows × columns, fp64: where sums of many products are kept.
using double_matrix = matrix_of<double>;

/// fp32 column vector.
using vector = Eigen::Matrix<float, Eigen::Dynamic, 1>;

}  // namespace kvfit
