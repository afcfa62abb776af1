// SPDX-License-Identifier: MIT
/// Parts reference queries into those to fit on and those to judge with.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/queries/reference_queries.hpp"

namespace kvfit {

/// Reference queries in two parts: one to fit to, one to judge on.
struct held_out_queries {
  reference_queries fit;
  reference_queries judge;
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Whether all heads of a set have its rows, and its readings stand within them: `shape_mismatch`,
/// `invalid_position`.
inline result<void> check_rows_of_set(const reference_queries& all) {
  for (const reference_queries::layer& layer : all.layers) {
    for (const matrix& head : layer.heads) {
      if (head.rows() == all.rows()) continue;
      return error{errc::shape_mismatch, "queries", head.rows(), all.rows(),
                   "rows of layer " + std::to_string(layer.number)};
    }
  }
  for (const query_reading& reading : all.readings) {
    const index_t last = all.rows() - static_cast<index_t>(reading.rows.size());
    if (reading.first_row >= 0 && reading.first_row <= last) continue;
    return error{errc::invalid_position, "readings", reading.first_row, last,
                 "rows that the set does not have"};
  }
  return {};
}

/// The rows of the set that are named, ascending, with the readings they come from.
inline reference_queries take_queries(const reference_queries& all, std::span<const index_t> rows) {
  reference_queries part;
  part.report = all.report;
  const auto count = static_cast<index_t>(rows.size());
  for (const reference_queries::layer& layer : all.layers) {
    reference_queries::layer taken{layer.number, {}};
    for (const matrix& head : layer.heads) {
      matrix some(count, head.cols());
      for (index_t i = 0; i < count; ++i) some.row(i) = head.row(rows[static_cast<std::size_t>(i)]);
      taken.heads.push_back(std::move(some));
    }
    part.layers.push_back(std::move(taken));
  }
  for (const index_t row : rows)
    part.positions.push_back(all.positions[static_cast<std::size_t>(row)]);
  for (const query_reading& reading : all.readings) {
    const index_t end = reading.first_row + static_cast<index_t>(reading.rows.size());
    const auto from = std::lower_bound(rows.begin(), rows.end(), reading.first_row);
    const auto to = std::lower_bound(from, rows.end(), end);
    if (from == to) continue;
    query_reading taken{reading.tokens,
                        reading.position,
                        reading.is_after_cache,
                        {},
                        static_cast<index_t>(from - rows.begin())};
    for (auto row = from; row != to; ++row) {
      taken.rows.push_back(reading.rows[static_cast<std::size_t>(*row - reading.first_row)]);
    }
    part.readings.push_back(std::move(taken));
  }
  return part;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// Every s-th row of the set judges (rows s − 1, 2s − 1, …), the others are fitted on; the reports
/// are those of the whole. Readings without a row in a part are not in it.
///
/// Errors: `invalid_option` for s < 2, or where there are fewer than s rows; `shape_mismatch` and
/// `invalid_position` where heads or readings do not have the rows of the set. Copies all rows.
[[nodiscard]] inline result<held_out_queries> hold_out(const reference_queries& queries,
                                                       index_t every) {
  if (every < 2 || queries.rows() < every) {
    return error{errc::invalid_option, "every", every, queries.rows(),
                 "from 2 to the number of rows"};
  }
  if (const auto ok = detail::check_rows_of_set(queries); !ok) return ok.error();
  return detail::catch_bad_alloc("hold_out", [&]() -> result<held_out_queries> {
    std::vector<index_t> fit;
    std::vector<index_t> judge;
    for (index_t i = 0; i < queries.rows(); ++i)
      (i % every == every - 1 ? judge : fit).push_back(i);
    return held_out_queries{detail::take_queries(queries, fit),
                            detail::take_queries(queries, judge)};
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
