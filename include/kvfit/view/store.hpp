// SPDX-License-Identifier: MIT
/// Writes rows of fp32 back to where and how an engine keeps them.
#pragma once

#include <string>
#include <string_view>

#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/view/row_store.hpp"
#include "kvfit/view/writable_view.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// target(i, j) <- source(i, j), rounded to the target's type: numbers to nearest even; q8_0 and
/// q4_0 by ggml's reference (core/quantised.hpp); int8 and fp8 with scales as x / scale.
///
/// Scales of the target alone are made and written: max |x| / 127 of each group of int8, / 448 of
/// fp8_e4m3, / 57344 of fp8_e5m2, but large enough that small numbers are not lost (`scale_of`).
/// Scales that others have, too, a stride of 0 says so
/// (`group_scales`), are taken as they are and must not be 0 where a number isn't: a part of a
/// tensor can't be given another scale.
///
/// Everything wrong is found before anything is written: `shape_mismatch` where sizes differ, where
/// the target cuts a block or a group of rows or columns whose scale is to be made, or where rows,
/// columns or scales to be made share memory by their strides; `invalid_position` (number of the
/// cell or page, row) where a list names a cell or a table a page twice; `non_finite` and
/// `storage_overflow` with row and column (of a number beyond its type, or beyond it at a given
/// scale; of a scale to be made beyond its own type, fp16's from 65520 · 127 on for int8; of a
/// given scale that is not finite); `invalid_option` where the target is decoded by the caller;
/// `null_data`; `out_of_memory`. `argument` names the source in errors. Source and target must not
/// overlap.
///
///     store_rows(fitted->keys, writable_view(*engine_keys), "keys")
///
/// Cost: two reads of the source; where scales are made, three. Allocates a few rows, 32 where
/// blocks run along them, and 16 bytes a row where rows are listed or paged, which are sorted.
inline result<void> store_rows(const row_view& source, const writable_view& target,
                               std::string_view argument = "rows") {
  if (source.rows() != target.rows()) {
    return error{errc::shape_mismatch, std::string(argument), source.rows(), target.rows(),
                 "rows must equal the target's"};
  }
  if (source.cols() != target.cols()) {
    return error{errc::shape_mismatch, std::string(argument), source.cols(), target.cols(),
                 "columns must equal the target's"};
  }
  if (target.type() >= dtype::decoded) {
    return error{errc::invalid_option, "target", error::none, error::none,
                 "only the caller knows how to write rows of its own format"};
  }
  if (source.empty()) return {};
  if (!source.is_backed()) return error{errc::null_data, std::string(argument)};
  if (!target.view().is_backed()) return error{errc::null_data, "target"};
  return detail::catch_bad_alloc("store_rows", [&]() -> result<void> {
    detail::row_store store(source, target, argument);
    if (const auto ok = store.check_borders(); !ok) return ok;
    if (const auto ok = store.check_places(); !ok) return ok;
    if (const auto ok = store.pass(false); !ok) return ok;
    return store.pass(true);
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
