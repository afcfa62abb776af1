// SPDX-License-Identifier: MIT
/// Figures somebody published for captures, head by head, read from JSON (docs/formats.md).
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "kvfit/core/result.hpp"
#include "measure/relative.hpp"

namespace kvfit_tool {

/// By capture file name, ratio and method.
using reference = std::map<std::string, std::map<double, std::map<std::string, baseline_errors>>>;

/// `file_unreadable`, `malformed_file` where a part is missing or of another kind.
kvfit::result<reference> read_reference(const std::filesystem::path& path);

/// The figures of `method` at `ratio` for the capture at `path`, which has `heads` heads; negative:
/// not known yet, any number will do. `missing_entry` says what the reference lacks,
/// `shape_mismatch` that it has another number of heads.
kvfit::result<const baseline_errors*> find_in(const reference& all,
                                              const std::filesystem::path& path, double ratio,
                                              const std::string& method, kvfit::index_t heads);

}  // namespace kvfit_tool
