// SPDX-License-Identifier: MIT
/// Values that are columns of the keys: what may be asked of them, and whether they are.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <optional>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/visible_rows.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/compact/policy_functions.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Whether a value policy asks for nothing that a tie would not give: copies, or least squares that
/// nobody set.
inline bool asks_no_values(const any_values& policy) {
  if (policy.holds<values::least_squares>()) return policy.equals(values::least_squares{});
  return !fits_values(policy);
}

/// `invalid_option` where the options contradict values tied to keys of `depth` numbers, `width` of
/// which are the values.
inline result<void> check_tied_options(const compact_options& options, index_t depth,
                                       index_t width) {
  if (!options.tied_values_from) return {};
  const index_t first = *options.tied_values_from;
  if (first < 0 || first > depth - width) {
    return error{errc::invalid_option, "tied_values_from", first, depth - width,
                 "the values' columns must lie within the keys"};
  }
  if (!asks_no_values(options.values)) {
    return error{errc::invalid_option, "values, tied_values_from", error::none, error::none,
                 "tied values are not fitted: leave the policy as it is, or copy"};
  }
  if (!options.gradient.holds<no_gradient>()) {
    return error{errc::invalid_option, "gradient, tied_values_from", error::none, error::none,
                 "the published gradient methods move values apart from keys"};
  }
  return {};
}

/// `untied_values` at the first row and column where the values are not, bit for bit, the columns
/// of the keys from `first` on. Hidden rows are not read. Both are checked views of as many rows,
/// the columns within the keys. Cost: one read of the values and those columns; allocates a few
/// rows of both.
inline result<void> check_tied_rows(const kv_block& cache, index_t first) {
  const index_t width = cache.values.cols();
  const row_view own = cache.keys.middle_cols(first, width);
  const index_t tile_rows = std::clamp<index_t>(16384 / width, 1, block_length);
  std::vector<float> of_keys(static_cast<std::size_t>(tile_rows * width));
  std::vector<float> of_values(of_keys.size());
  for (index_t row = 0; row < own.rows(); row += tile_rows) {
    const index_t count = (std::min)(tile_rows, own.rows() - row);
    const float_tile keys = load_visible_rows(own, cache.bias, row, count, of_keys.data());
    const float_tile values =
        load_visible_rows(cache.values, cache.bias, row, count, of_values.data());
    for (index_t i = 0; i < count; ++i) {
      for (index_t k = 0; k < width; ++k) {
        const float key = keys.data[i * keys.stride + k];
        const float value = values.data[i * values.stride + k];
        if (std::bit_cast<std::uint32_t>(key) == std::bit_cast<std::uint32_t>(value)) continue;
        return error{errc::untied_values, "values", row + i, k,
                     "not the key's number in column " + std::to_string(first + k)};
      }
    }
  }
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
