// SPDX-License-Identifier: MIT
/// The owning matrices of results and workspaces: fp32, row-major (one token a row).
#pragma once

#include <Eigen/Core>
#include <cstdint>

namespace kvfit {

/// Sizes and row numbers: signed 64-bit, so that products of sizes do not wrap.
using index = std::int64_t;

/// rows × columns, fp32, contiguous row-major.
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// fp32 column vector.
using vector = Eigen::Matrix<float, Eigen::Dynamic, 1>;

}  // namespace kvfit
