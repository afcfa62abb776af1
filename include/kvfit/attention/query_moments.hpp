// SPDX-License-Identifier: MIT
/// Mean and covariance of the queries of one query head.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <span>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/simd/product.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit {

/// Of n queries q_i: μ = (1/n) Σ q_i and Σ = (1/n) Σ (q_i − μ)(q_i − μ)ᵀ.
struct query_moments {
  Eigen::VectorXd mean;
  double_matrix covariance;
};

}  // namespace kvfit

namespace kvfit::inline KVFIT_ISA {

/// The moments of the rows of all `blocks` together: at least one row, all of d_k columns. Divided
/// by n, not n − 1: one query has a covariance of 0, and saying each twice changes nothing. Two
/// passes, so that a large mean costs no digits. Cost n · d_k² multiply-adds in double, and a tile
/// of 256 rows.
inline query_moments moments_of(std::span<const query_block> blocks) {
  constexpr index_t tile_rows = 256;
  const index_t depth = blocks.front().rows.cols();
  query_moments moments;
  moments.mean.setZero(depth);
  moments.covariance.setZero(depth, depth);
  matrix buffer(tile_rows, depth);
  double_matrix tile(tile_rows, depth);
  const auto for_tiles = [&](auto use) {  // use(row count): `tile` holds them, less the mean so far
    for (const query_block& block : blocks) {
      for (index_t first = 0; first < block.rows.rows(); first += tile_rows) {
        const index_t count = std::min(tile_rows, block.rows.rows() - first);
        const float_tile rows = load_rows(block.rows, first, count, buffer.data());
        for (index_t i = 0; i < count; ++i) {
          const Eigen::Map<const vector> row(rows.data + i * rows.stride, depth);
          tile.row(i) = (row.cast<double>() - moments.mean).transpose();
        }
        use(count);
      }
    }
  };
  Eigen::VectorXd sum = Eigen::VectorXd::Zero(depth);
  index_t total = 0;
  for_tiles([&](index_t count) {
    for (index_t i = 0; i < count; ++i) sum += tile.row(i).transpose();
    total += count;
  });
  const double share = 1.0 / static_cast<double>(total);
  moments.mean = sum * share;
  for_tiles([&](index_t count) {
    simd::multiply({tile.data(), 1, depth}, {tile.data(), depth},
                   {moments.covariance.data(), depth}, depth, depth, count,
                   simd::product_mode::add);
  });
  moments.covariance *= share;
  return moments;
}

}  // namespace kvfit::inline KVFIT_ISA
