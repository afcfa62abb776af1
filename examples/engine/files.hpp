// SPDX-License-Identifier: MIT
/// Text files read whole, within a limit, and files that must not be there.
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>

#include "kvfit/core/result.hpp"

namespace llama {

/// The bytes of a file of at most 16 MB. `file_unreadable` for what is larger or not there.
inline kvfit::result<std::string> read_text(const std::filesystem::path& path) {
  constexpr std::uintmax_t most = 16 << 20;
  const auto fail = [&](const char* why) {
    return kvfit::error{kvfit::errc::file_unreadable, path.string(), kvfit::error::none,
                        kvfit::error::none, why};
  };
  std::error_code failure;
  if (!std::filesystem::is_regular_file(path, failure)) return fail("there is no such file");
  const std::uintmax_t size = std::filesystem::file_size(path, failure);
  if (failure || size > most) return fail("larger than 16 MB");
  std::ifstream stream(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(stream)), {});
  if (!stream || text.size() != size) return fail("reading stopped before the end");
  return text;
}

/// `unsupported_file` where the folder of a model has a file of Hugging Face's that would say more
/// of the model or its tokens than those that are read.
inline kvfit::result<void> refuse_unread_files(const std::filesystem::path& folder) {
  for (const char* name :
       {"adapter_config.json", "model.safetensors.index.json", "added_tokens.json",
        "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"}) {
    std::error_code unknown;
    if (!std::filesystem::exists(folder / name, unknown)) continue;
    return kvfit::error{kvfit::errc::unsupported_file, (folder / name).string(), kvfit::error::none,
                        kvfit::error::none, "no file that is handled"};
  }
  return {};
}

}  // namespace llama
