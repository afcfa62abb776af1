// SPDX-License-Identifier: MIT
/// Two views one below the other, read as one without a copy.
#pragma once

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/view/load.hpp"
#include "kvfit/view/make_view.hpp"

namespace kvfit {

/// Rows of `top`, then rows of `bottom`: of the same width, in any types and layouts.
struct stacked_rows {
  row_view top;
  row_view bottom;
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

inline void decode_stacked(const void* context, index_t row, float* out) noexcept {
  const auto& stack = *static_cast<const stacked_rows*>(context);
  const index_t above = stack.top.rows();
  if (row < above) return load_row(stack.top, row, out);
  load_row(stack.bottom, row - above, out);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// All rows of `stack`, which the view refers to: it must stay where it is. A stack with one part
/// empty is the other part itself.
///
/// Errors: `shape_mismatch` for widths that differ; those of `make_view`, among them
/// `invalid_option` for rows beyond `decoded_cols_limit`. Reading costs one call a row more than
/// reading the parts.
[[nodiscard]] inline result<row_view> stacked_view(const stacked_rows& stack) {
  if (stack.top.rows() == 0) return stack.bottom;
  if (stack.bottom.rows() == 0) return stack.top;
  if (stack.top.cols() != stack.bottom.cols()) {
    return error{errc::shape_mismatch, "bottom", stack.bottom.cols(), stack.top.cols(),
                 "columns must equal the top's"};
  }
  if (!stack.top.is_backed()) return error{errc::null_data, "top"};
  if (!stack.bottom.is_backed()) return error{errc::null_data, "bottom"};
  return make_view(row_memory{.data = &stack,
                              .type = dtype::decoded,
                              .rows = stack.top.rows() + stack.bottom.rows(),
                              .cols = stack.top.cols(),
                              .decode = &detail::decode_stacked});
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
