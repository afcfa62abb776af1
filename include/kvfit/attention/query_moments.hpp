// SPDX-License-Identifier: MIT
/// Mean and covariance of the queries of one query head.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/simd/double_vectors.hpp"
#include "kvfit/simd/product.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit {

/// Of n queries q_i: μ = (1/n) Σ q_i and Σ = (1/n) Σ (q_i − μ)(q_i − μ)ᵀ.
struct query_moments {
  Eigen::VectorXd mean;
  double_matrix covariance;
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// The moments of the rows of all `blocks` together: at least one row, all of d_k columns. Divided
/// by n, not n − 1: one query has a covariance of 0, and saying each twice changes nothing. Two
/// passes, so that a large mean costs no digits. Cost n · d_k² multiply-adds in double, and a tile
/// of 256 rows.
inline query_moments moments_of(std::span<const query_block> blocks) {
  constexpr index_t tile_rows = 256;
  const index_t depth = blocks.front().rows.cols();
  query_moments moments;
  moments.mean.resize(depth);
  moments.covariance.resize(depth, depth);
  std::fill_n(moments.mean.data(), depth, 0.0);
  std::fill_n(moments.covariance.data(), moments.covariance.size(), 0.0);
  matrix buffer(tile_rows, depth);
  double_matrix tile(tile_rows, depth);
  index_t total = 0;
  // Rows less the mean, which is 0 to begin with, tile by tile: summed, then multiplied.
  const auto sweep = [&](bool is_first) {
    std::vector<double> sum(static_cast<std::size_t>(depth), 0.0);
    for (const query_block& block : blocks) {
      for (index_t first = 0; first < block.rows.rows(); first += tile_rows) {
        const index_t count = (std::min)(tile_rows, block.rows.rows() - first);
        const float_tile rows = load_rows(block.rows, first, count, buffer.data());
        double* to = tile.data();
        for (index_t i = 0; i < count; ++i, to += depth) {
          const float* const row = rows.data + i * rows.stride;
          for (index_t k = 0; k < depth; ++k) {
            to[k] = static_cast<double>(row[k]) - moments.mean[k];
          }
          if (is_first) simd::add_scaled(sum.data(), 1, to, depth);
        }
        if (is_first) {
          total += count;
        } else {
          simd::multiply({tile.data(), 1, depth}, {tile.data(), depth},
                         {moments.covariance.data(), depth}, depth, depth, count,
                         simd::product_mode::add);
        }
      }
    }
    const double share = 1.0 / static_cast<double>(total);
    if (is_first) {
      for (index_t k = 0; k < depth; ++k) {
        moments.mean[k] = sum[static_cast<std::size_t>(k)] * share;
      }
    } else {
      simd::scale(moments.covariance.data(), share, moments.covariance.size());
    }
  };
  sweep(true);
  sweep(false);
  return moments;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
