// SPDX-License-Identifier: MIT
/// Takes the queries that are wanted out of what a layer makes of a text.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/queries/engine.hpp"
#include "kvfit/queries/reference_queries.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// The layers whose queries are wanted: those that remember every row.
inline std::vector<index_t> global_layers(std::span<const layer_shape> shapes) {
  std::vector<index_t> wanted;
  for (std::size_t l = 0; l < shapes.size(); ++l) {
    if (shapes[l].kind == layer_kind::global) wanted.push_back(static_cast<index_t>(l));
  }
  return wanted;
}

/// Copies the rows of a reading that are wanted out of tokens first, first + 1, … of one layer.
inline void keep_rows(const query_reading& reading, index_t first, const layer_rows& rows,
                      reference_queries::layer& into) {
  const index_t end = first + rows.queries.front().rows();
  const auto from = std::lower_bound(reading.rows.begin(), reading.rows.end(), first);
  const auto to = std::lower_bound(from, reading.rows.end(), end);
  for (auto row = from; row != to; ++row) {
    const index_t place = reading.first_row + static_cast<index_t>(row - reading.rows.begin());
    for (std::size_t h = 0; h < into.heads.size(); ++h) {
      into.heads[h].row(place) = rows.queries[h].row(*row - first);
    }
  }
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
