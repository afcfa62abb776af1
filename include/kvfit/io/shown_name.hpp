// SPDX-License-Identifier: MIT
/// Names of files in the texts of errors.
#pragma once

#include <string>
#include <string_view>

#include "kvfit/core/config.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// A name from a file, fit to be shown: in quotes, cut to 64 bytes, other than ASCII as '?'.
inline std::string shown_name(std::string_view text) {
  std::string shown = "'";
  for (const char c : text.substr(0, 64)) shown += c >= ' ' && c <= '~' ? c : '?';
  shown += text.size() > 64 ? "...'" : "'";
  return shown;
}

}  // namespace io_detail

}  // namespace KVFIT_ISA
}  // namespace kvfit
