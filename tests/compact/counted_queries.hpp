// SPDX-License-Identifier: MIT
/// Queries that ask to stop while they are read.
#pragma once

#include <algorithm>

#include "kvfit/core/matrix.hpp"
#include "kvfit/parallel/stop.hpp"
#include "kvfit/view/row_view.hpp"

namespace kvfit_test {

/// Queries that count how often they are read, and ask to stop at a given reading.
struct counted_queries {
  const kvfit::matrix& rows;
  mutable kvfit::cancellation wish = {};
  mutable kvfit::index_t readings = 0;
  kvfit::index_t last = -1;  // −1: never

  static void read(const void* context, kvfit::index_t row, float* out) noexcept {
    const auto& self = *static_cast<const counted_queries*>(context);
    if (self.readings++ == self.last) self.wish.request();
    std::copy_n(self.rows.row(row).data(), self.rows.cols(), out);
  }
  [[nodiscard]] kvfit::row_view view() const {
    kvfit::row_memory memory;
    memory.data = this;
    memory.type = kvfit::dtype::decoded;
    memory.decode = &counted_queries::read;
    memory.rows = rows.rows();
    memory.cols = rows.cols();
    return kvfit::row_view(memory);
  }
};

}  // namespace kvfit_test
