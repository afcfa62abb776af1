// SPDX-License-Identifier: MIT
/// An evaluation as JSON, written and read back (docs/formats.md).
#pragma once

#include <filesystem>
#include <string>

#include "measure/evaluation.hpp"

namespace kvfit_tool {

/// Of the format.
inline constexpr int eval_version = 3;

/// Numbers that are not finite become null.
std::string to_json(const evaluation& measured);

/// Reads what `to_json` wrote. `unsupported_file`: JSON, but no evaluation of this version of
/// format and library, or one with an entry more than those or with a figure that its heads' don't
/// come to; `malformed_file`: not even JSON, an entry twice, or an evaluation with a part missing,
/// of another kind or at odds with the rest.
kvfit::result<evaluation> read_evaluation(const std::filesystem::path& path);

}  // namespace kvfit_tool
