// SPDX-License-Identifier: MIT
#include "cli/output_file.hpp"

#include <array>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>

#include "cli/interrupt.hpp"
#include "kvfit/io/replace_file.hpp"

namespace kvfit_tool {

kvfit::result<void> check_writable(const std::filesystem::path& path) {
  const auto fail = [&](const std::string& why) {
    return kvfit::error{kvfit::errc::file_unwritable, path.string(), kvfit::error::none,
                        kvfit::error::none, why};
  };
  std::error_code ignored;
  const auto status = std::filesystem::symlink_status(path, ignored);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status) &&
      !std::filesystem::is_symlink(status)) {
    return fail("exists and is no regular file");
  }
  errno = 0;
  const uninterrupted guard;
  const kvfit::io_detail::temporary_file trial(path.parent_path());
  if (trial.is_open()) return {};
  return fail("no file can be created beside it: " + std::generic_category().message(errno));
}

kvfit::result<void> write_text(const std::filesystem::path& path, std::string_view text) {
  const uninterrupted guard;
  const std::array<std::span<const std::byte>, 1> pieces = {
      std::as_bytes(std::span(text.data(), text.size()))};
  return kvfit::io_detail::replace_file(path, pieces);
}

}  // namespace kvfit_tool
