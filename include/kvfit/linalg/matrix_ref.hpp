// SPDX-License-Identifier: MIT
/// The matrix arguments of linalg: fp32 rows wherever they lie.
#pragma once

#include <Eigen/Core>
#include <span>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {

/// An n × t fp32 matrix, row-major, rows a constant stride apart. Taken by const reference.
/// A `kvfit::matrix`, its row or column blocks and a strided `Eigen::Map` bind without a copy;
/// a column-major matrix or an expression is evaluated into a temporary first, as `Eigen::Ref`
/// does.
using const_matrix_ref = Eigen::Ref<const kvfit::matrix, 0, Eigen::OuterStride<>>;

/// One factor a row, multiplying that row of M and y alike (so its square weights the squared
/// residual); empty means all ones.
using row_scale = std::span<const double>;

}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
