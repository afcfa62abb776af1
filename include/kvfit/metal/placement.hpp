// SPDX-License-Identifier: MIT
/// Which stages run on the GPU, by their size.
#pragma once

#include <algorithm>
#include <limits>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/core/index.hpp"

namespace kvfit::metal {

/// Multiply-adds from which a stage runs on the GPU: 0 always, `never` never. Results differ
/// between the two by rounding alone. The defaults follow from arithmetic (docs/metal.md, From
/// which sizes the GPU is faster); `./dev bench metal` prints the sizes at which a machine breaks
/// even.
struct placement {
  static constexpr double never = std::numeric_limits<double>::infinity();

  double score_from = 3e7;     ///< score pass: n · T · (d_k + d_v)
  double attend_from = 3e7;    ///< attention: the same, of all heads of a call together
  double select_from = never;  ///< OMP: n · T · budget
  double fit_from = 3e8;       ///< weights and values: n · t²
};

/// Multiply-adds of attention.
inline double attention_work(const query_set& queries, const kv_block& cache) noexcept {
  return static_cast<double>(queries.rows()) * static_cast<double>(cache.keys.rows()) *
         static_cast<double>(cache.keys.cols() + cache.values.cols());
}

/// Bytes of the device that attention of these sizes takes at most, with copies of everything.
inline double attention_device_bytes(const query_set& queries, const kv_block& cache) noexcept {
  const auto n = static_cast<double>(queries.rows());
  const auto keys = static_cast<double>(cache.keys.rows());
  const auto depth = static_cast<double>(cache.keys.cols());
  const auto width = static_cast<double>(cache.values.cols());
  // Parts of keys, and of queries for importance (`cut_parts`).
  const double parts = (std::min)(128.0, keys / 64 + 1);
  const double masks = cache.masks.empty() ? 0 : 4 * n * keys;
  const double pages = 2 * 16384;
  return n * (4 * depth + 12 + 4) + keys * (4 * (depth + width) + 12) + masks +
         n * parts * (16 + 4 * width) + n * (16 + 4 * width) +
         keys * 4 * (std::min)(128.0, n / 32 + 2) + pages;
}

}  // namespace kvfit::metal
