// SPDX-License-Identifier: MIT
/// Bytes handed out one after the other, from memory or from a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// Bytes handed out from the front of a span.
class span_source {
 public:
  explicit span_source(std::span<const std::byte> bytes) : rest_(bytes) {}
  bool read(void* to, std::size_t count) noexcept {
    if (count > rest_.size()) return false;
    if (count != 0) std::memcpy(to, rest_.data(), count);
    rest_ = rest_.subspan(count);
    return true;
  }

 private:
  std::span<const std::byte> rest_;
};

/// Bytes handed out from the front of a file.
class stream_source {
 public:
  explicit stream_source(std::ifstream& stream) : stream_(stream) {}
  bool read(void* to, std::size_t count) {
    if (count > static_cast<std::size_t>((std::numeric_limits<std::streamsize>::max)()))
      return false;
    if (count == 0) return true;
    stream_.read(static_cast<char*>(to), static_cast<std::streamsize>(count));
    return stream_.good() && static_cast<std::size_t>(stream_.gcount()) == count;
  }

 private:
  std::ifstream& stream_;
};

/// A file and how long it is.
struct opened_file {
  opened_file(std::ifstream from, std::uint64_t bytes) : stream(std::move(from)), size(bytes) {}
  // A stream moves its buffer, and nothing that can fail; the standard does not say so.
  opened_file(opened_file&&) noexcept = default;
  opened_file& operator=(opened_file&&) noexcept = default;

  std::ifstream stream;
  std::uint64_t size = 0;
};

/// Opens the regular file `path` to be read; else `file_unreadable`, with the reason.
inline result<opened_file> open_file(const std::filesystem::path& path) {
  const auto fail = [&](std::string what) {
    return error{errc::file_unreadable, path.string(), error::none, error::none, std::move(what)};
  };
  std::error_code failure;
  const auto status = std::filesystem::status(path, failure);
  if (!std::filesystem::exists(status)) return fail("there is no such file");
  if (!std::filesystem::is_regular_file(status)) return fail("is no regular file");
  const std::uint64_t size = std::filesystem::file_size(path, failure);
  if (failure) return fail(failure.message());
  opened_file file(std::ifstream(path, std::ios::binary), size);
  if (!file.stream) return fail("can't be opened");
  return file;
}

}  // namespace io_detail

}  // namespace KVFIT_ISA
}  // namespace kvfit
