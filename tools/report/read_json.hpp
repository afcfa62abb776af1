// SPDX-License-Identifier: MIT
/// A JSON file read whole.
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/json.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit_tool {

/// `file_unreadable` where the file can't be opened; `malformed_file` as `llama::parse_json` says.
inline kvfit::result<nlohmann::json> read_json(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) {
    return kvfit::error{kvfit::errc::file_unreadable, path.string(), kvfit::error::none,
                        kvfit::error::none, "can't be opened"};
  }
  const std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  return llama::parse_json(text, path.string());
}

}  // namespace kvfit_tool
