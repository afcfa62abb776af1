// SPDX-License-Identifier: MIT
/// The bytes of a state, taken one part after the other, never more than are left.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/element.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/state_check.hpp"
#include "kvfit/io/state_layout.hpp"
#include "kvfit/simd/convert.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// Every size is compared with the bytes that are left before memory is allocated.
template <class Source>
class state_parts {
 public:
  /// Of a state of `size` bytes, whose checksum is not among the parts.
  state_parts(Source source, std::uint64_t size, std::string_view name)
      : source_(source), left_(size - state_checksum_bytes), name_(name) {}

  [[nodiscard]] std::string_view name() const noexcept { return name_; }
  [[nodiscard]] std::uint64_t left() const noexcept { return left_; }

  [[nodiscard]] error refuse(std::string what) const {
    return malformed_state(name_, std::move(what));
  }
  [[nodiscard]] error too_many(const char* what) const {
    return refuse(std::string(what) + ": more than the file can hold");
  }

  [[nodiscard]] bool may_hold(std::uint64_t count, std::uint64_t bytes_each) const noexcept {
    return count <= left_ / bytes_each;
  }

  result<void> take(void* to, std::uint64_t count) {
    if (count > left_) return refuse("ends too early");
    left_ -= count;
    if (!source_.read(to, static_cast<std::size_t>(count))) return ended_early(name_);
    return {};
  }
  template <class T>
  result<void> take(T& record) {
    return take(&record, sizeof record);
  }

  result<void> take_list(std::uint64_t count, std::vector<index_t>& numbers, const char* what) {
    if (!may_hold(count, sizeof(index_t))) return too_many(what);
    numbers.resize(static_cast<std::size_t>(count));
    return take(numbers.data(), count * sizeof(index_t));
  }

  result<void> take_padding(std::uint64_t after) {
    std::array<std::byte, 8> zeros{};
    if (auto ok = take(zeros.data(), state_padding(after)); !ok) return ok;
    for (const std::byte byte : zeros) {
      if (byte != std::byte{0}) return refuse("padding must be 0");
    }
    return {};
  }

  /// rows × columns numbers of a type, as fp32.
  result<void> take_matrix(std::uint64_t rows, std::uint64_t columns, dtype storage, matrix& out) {
    const std::uint64_t size = size_of(storage);
    if (columns < 1 || columns > static_cast<std::uint64_t>(max_state_columns)) {
      return refuse(std::to_string(columns) + " columns");
    }
    if (rows > left_ / (columns * size)) return too_many("numbers");
    out.resize(static_cast<index_t>(rows), static_cast<index_t>(columns));
    const std::uint64_t bytes = rows * columns * size;
    if (storage == dtype::fp32) {
      if (auto ok = take(out.data(), bytes); !ok) return ok;
    } else {
      std::array<std::byte, 8192> buffer;  // NOLINT(*-member-init)
      float* to = out.data();
      for (std::uint64_t rest = bytes; rest > 0;) {
        const std::uint64_t count = std::min<std::uint64_t>(rest, buffer.size());
        if (auto ok = take(buffer.data(), count); !ok) return ok;
        const auto numbers = static_cast<index_t>(count / size);
        simd::widen(storage, buffer.data(), to, numbers);
        to += numbers;
        rest -= count;
      }
    }
    return take_padding(bytes);
  }

 private:
  Source source_;
  std::uint64_t left_;
  std::string_view name_;
};

}  // namespace io_detail

}  // namespace KVFIT_ISA
}  // namespace kvfit
