// SPDX-License-Identifier: MIT
/// Files the tool writes: checked before the work, written whole after it.
#pragma once

#include <filesystem>
#include <string_view>

#include "kvfit/core/result.hpp"

namespace kvfit_tool {

/// `file_unwritable` where a file can't be put at `path`. Tried on the spot with a temporary file
/// beside it, so that nobody waits for numbers that have nowhere to go.
kvfit::result<void> check_writable(const std::filesystem::path& path);

/// Makes `path` a file of `text`, whole or not at all.
kvfit::result<void> write_text(const std::filesystem::path& path, std::string_view text);

}  // namespace kvfit_tool
