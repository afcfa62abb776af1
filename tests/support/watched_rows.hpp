// SPDX-License-Identifier: MIT
/// Rows behind a decoder that notes which of them it is asked for.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <utility>
#include <vector>

#include "kvfit/core/matrix.hpp"
#include "kvfit/view/row_view.hpp"

namespace kvfit_test {

class watched_rows {
 public:
  explicit watched_rows(kvfit::matrix rows)
      : rows_(std::move(rows)), asked_(static_cast<std::size_t>(rows_.rows())) {}
  watched_rows(const watched_rows&) = delete;  // views refer to it
  watched_rows& operator=(const watched_rows&) = delete;
  ~watched_rows() = default;

  [[nodiscard]] kvfit::row_view view() const {
    return kvfit::row_view(kvfit::row_memory{.data = this,
                                             .type = kvfit::dtype::decoded,
                                             .rows = rows_.rows(),
                                             .cols = rows_.cols(),
                                             .decode = &watched_rows::read});
  }
  /// How often any row was asked for since the object was made.
  [[nodiscard]] int times_asked() const {
    int sum = 0;
    for (const auto& times : asked_) sum += times;
    return sum;
  }
  /// Whether row `row` was asked for since the object was made.
  [[nodiscard]] bool was_asked(kvfit::index_t row) const {
    return asked_[static_cast<std::size_t>(row)] > 0;
  }

 private:
  static void read(const void* context, kvfit::index_t row, float* out) noexcept {
    const auto& own = *static_cast<const watched_rows*>(context);
    ++own.asked_[static_cast<std::size_t>(row)];
    std::copy_n(own.rows_.row(row).data(), own.rows_.cols(), out);
  }

  kvfit::matrix rows_;
  mutable std::vector<std::atomic<int>> asked_;
};

}  // namespace kvfit_test
