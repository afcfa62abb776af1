// SPDX-License-Identifier: MIT
/// What fuzz targets share: a promise that must hold, and numbers taken from the input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>

namespace kvfit_fuzz {

/// Ends the run where a promise of the library is broken: the fuzzer then keeps the input.
inline void promise(bool holds) {
  if (!holds) std::abort();
}

/// Numbers from the front of the input; 0 where it has ended.
class input {
 public:
  input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}

  template <class T>
  T take() {
    T number{};
    const std::size_t count = rest_.size() < sizeof number ? rest_.size() : sizeof number;
    if (count > 0) std::memcpy(&number, rest_.data(), count);
    rest_ = rest_.subspan(count);
    return number;
  }

  /// 0 … bound − 1.
  std::uint8_t below(unsigned bound) {
    return static_cast<std::uint8_t>(take<std::uint8_t>() % bound);
  }

  /// A size: mostly small, now and then any number of 64 bits.
  std::int64_t size() {
    const auto kind = take<std::uint8_t>();
    if (kind < 224) return kind % 48;
    if (kind < 232) return -static_cast<std::int64_t>(take<std::uint8_t>());
    if (kind < 248) return static_cast<std::int64_t>(take<std::int16_t>());
    return take<std::int64_t>();
  }

 private:
  std::span<const std::uint8_t> rest_;
};

}  // namespace kvfit_fuzz
