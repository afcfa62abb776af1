// SPDX-License-Identifier: MIT
/// Writes rows of fp32 back to where and how an engine keeps them.
#pragma once

#include <string>
#include <string_view>

#include "kvfit/core/config.hpp"
#include "kvfit/core/guarded.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/view/row_store.hpp"
#include "kvfit/view/writable_view.hpp"

namespace kvfit::inline KVFIT_ISA {

/// target(i, j) <- source(i, j), rounded to the target's type: numbers to nearest even; q8_0 and
/// q4_0 by ggml's reference (core/quantised.hpp); int8 with scales max |x| / 127 of each group,
/// which are written, too.
///
/// Everything wrong is found before anything is written: `shape_mismatch` where sizes differ, or
/// where the target cuts a block or a group of rows or columns that share a scale; `non_finite` and
/// `storage_overflow` with row and column (of q8_0 and q4_0, and of int8 with fp16 scales, where a
/// scale overflows: from 65520 · 127 or 65520 · 8 on); `invalid_option` where the target is decoded
/// by the caller; `null_data`; `out_of_memory`. `argument` names the source in errors. Source and
/// target must not overlap.
///
///     store_rows(fitted->keys, writable_view(*engine_keys), "keys")
///
/// Cost: two reads of the source; of int8, three. Allocates a few rows, 32 where blocks run along
/// them.
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
  return detail::guard_memory("store_rows", [&]() -> result<void> {
    detail::row_store store(source, target, argument);
    if (const auto ok = store.check_borders(); !ok) return ok;
    if (const auto ok = store.pass(false); !ok) return ok;
    return store.pass(true);
  });
}

}  // namespace kvfit::inline KVFIT_ISA
