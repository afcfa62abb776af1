// SPDX-License-Identifier: MIT
/// The owning matrices of results and workspaces: fp32, row-major (one token a row).
#pragma once

#include <Eigen/Core>

#include "kvfit/core/index.hpp"

namespace kvfit {

/// rows × columns, fp32, contiguous row-major.
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// fp32 column vector.
using vector = Eigen::Matrix<float, Eigen::Dynamic, 1>;

}  // namespace kvfit
