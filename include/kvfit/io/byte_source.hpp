// SPDX-License-Identifier: MIT
/// Bytes handed out one after the other, from memory or from a file.
#pragma once

#include <cstddef>
#include <cstring>
#include <fstream>
#include <limits>
#include <span>

#include "kvfit/core/config.hpp"

namespace kvfit::inline KVFIT_ISA {

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
    if (count > static_cast<std::size_t>(std::numeric_limits<std::streamsize>::max())) return false;
    if (count == 0) return true;
    stream_.read(static_cast<char*>(to), static_cast<std::streamsize>(count));
    return stream_.good() && static_cast<std::size_t>(stream_.gcount()) == count;
  }

 private:
  std::ifstream& stream_;
};

}  // namespace io_detail

}  // namespace kvfit::inline KVFIT_ISA
