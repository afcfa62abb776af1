// SPDX-License-Identifier: MIT
/// Writes a file whole or not at all.
#pragma once

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#if !defined(_WIN32) && __has_include(<unistd.h>)
#include <unistd.h>
#define KVFIT_IO_HAS_FSYNC 1
#endif

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// A fresh file in `folder` under a name of its own; removed again unless renamed.
class temporary_file {
 public:
  explicit temporary_file(const std::filesystem::path& folder) {
    static std::atomic<std::uint64_t> counter{0};
    for (int attempt = 0; attempt < 16 && file_ == nullptr; ++attempt) {
      // A guess at a free name; "x" makes sure of it.
      const auto ticks = std::chrono::steady_clock::now().time_since_epoch().count();
      path_ =
          folder / (".kvfit-" + std::to_string(ticks) + "-" + std::to_string(++counter) + ".tmp");
#if defined(_WIN32)
      file_ = _wfopen(path_.c_str(), L"wbx");
#else
      file_ = std::fopen(path_.c_str(), "wbx");
#endif
      if (file_ == nullptr && errno != EEXIST) break;
    }
    is_there_ = file_ != nullptr;
  }
  temporary_file(const temporary_file&) = delete;
  temporary_file& operator=(const temporary_file&) = delete;
  ~temporary_file() {
    if (file_ != nullptr) static_cast<void>(std::fclose(file_));
    std::error_code ignored;
    if (is_there_) std::filesystem::remove(path_, ignored);
  }

  [[nodiscard]] bool is_open() const noexcept {
    return file_ != nullptr;
  }

  /// False, with `errno` set, where the device takes no more.
  bool write(std::span<const std::byte> bytes) noexcept {
    return bytes.empty() || std::fwrite(bytes.data(), 1, bytes.size(), file_) == bytes.size();
  }

  /// Hands everything to the device and closes. False, with `errno` set, where that fails.
  bool finish() noexcept {
    bool done = std::fflush(file_) == 0;
#if defined(KVFIT_IO_HAS_FSYNC)
    // Some file systems can't sync; that alone is no reason to refuse them.
    done = done && (::fsync(::fileno(file_)) == 0 || errno == EINVAL || errno == ENOTSUP);
#endif
    const int cause = errno;
    const bool closed = std::fclose(std::exchange(file_, nullptr)) == 0;
    if (!done) errno = cause;
    return done && closed;
  }

  bool rename_to(const std::filesystem::path& target, std::error_code& failure) noexcept {
    std::filesystem::rename(path_, target, failure);
    is_there_ = static_cast<bool>(failure);
    return !failure;
  }

 private:
  std::filesystem::path path_;
  std::FILE* file_ = nullptr;
  bool is_there_ = false;
};

/// Takes a file's bytes, one piece after the other; `file_unwritable` where the device takes no
/// more.
using byte_sink = std::function<result<void>(std::span<const std::byte>)>;

/// Makes `path` a file of what `fill(sink)` hands to the sink; `fill` returns `result<void>`.
///
/// The bytes go to a temporary file in the same folder, which is synced and then renamed: whoever
/// opens `path`, even after a crash, sees the old file or the new one whole. The new one has the
/// owner and permissions of a fresh file; a symbolic link is replaced, not followed. A path that
/// names anything but a file (a folder, a device, a pipe) is refused.
/// Errors: `file_unwritable`, with the system's reason; those of `fill`. The temporary file is gone
/// then.
template <class Fill>
result<void> replace_file_by(const std::filesystem::path& path, const Fill& fill) {
  const auto fail = [&](const std::string& why) {
    return error{errc::file_unwritable, path.string(), error::none, error::none, why};
  };
  const auto system_reason = [] { return std::generic_category().message(errno); };

  std::error_code failure;
  const auto status = std::filesystem::symlink_status(path, failure);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status) &&
      !std::filesystem::is_symlink(status)) {
    return fail("exists and is no regular file");
  }
  errno = 0;
  temporary_file file(path.parent_path());
  if (!file.is_open()) return fail("no file can be created beside it: " + system_reason());
  const byte_sink sink = [&](std::span<const std::byte> piece) -> result<void> {
    if (!file.write(piece)) return fail(system_reason());
    return {};
  };
  if (const result<void> filled = fill(sink); !filled) return filled;
  if (!file.finish()) return fail(system_reason());
  if (!file.rename_to(path, failure)) return fail(failure.message());
  return {};
}

/// The same of these pieces, one after the other.
inline result<void> replace_file(const std::filesystem::path& path,
                                 std::span<const std::span<const std::byte>> pieces) {
  return replace_file_by(path, [&](const byte_sink& sink) -> result<void> {
    for (const auto piece : pieces) {
      if (auto ok = sink(piece); !ok) return ok;
    }
    return {};
  });
}

}  // namespace io_detail

}  // namespace KVFIT_ISA
}  // namespace kvfit

#undef KVFIT_IO_HAS_FSYNC
