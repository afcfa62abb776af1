// SPDX-License-Identifier: MIT
/// Rows for the tests of this module: at every offset from an aligned address, with marked borders.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "kvfit/simd/batch.hpp"

namespace kvfit::test {

inline constexpr float inf = std::numeric_limits<float>::infinity();
inline constexpr float a_nan = std::numeric_limits<float>::quiet_NaN();

/// n elements that start `offset` elements behind a 64-byte border, with a mark on either side.
template <class T>
class row {
 public:
  row(index_t n, index_t offset, T mark)
      : n_(n), mark_(mark), memory_(static_cast<std::size_t>(n + offset + 2 * margin), mark) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    const auto to_border = static_cast<index_t>((64 - address % 64) % 64 / sizeof(T));
    data_ = memory_.data() + (to_border + offset);
  }
  row(const std::vector<T>& values, index_t offset, T mark)
      : row(static_cast<index_t>(values.size()), offset, mark) {
    for (index_t i = 0; i < n_; ++i) data_[i] = values[static_cast<std::size_t>(i)];
  }
  row(const row&) = delete;
  row& operator=(const row&) = delete;

  T* data() { return data_; }
  const T& operator[](index_t i) const { return data_[i]; }

  /// Whether nothing outside of the n elements was written.
  [[nodiscard]] bool borders_intact() const {
    const T* end = memory_.data() + memory_.size();
    for (const T* p = memory_.data(); p != data_; ++p) {
      if (!(*p == mark_)) return false;
    }
    for (const T* p = data_ + n_; p != end; ++p) {
      if (!(*p == mark_)) return false;
    }
    return true;
  }

 private:
  static constexpr index_t margin = 64;
  index_t n_;
  T mark_;
  std::vector<T> memory_;
  T* data_ = nullptr;
};

/// Lengths on both sides of every change of loop: 0 to 4 registers and 3.
inline constexpr index_t most = 4 * simd::lanes + 3;

inline std::vector<float> normal_values(index_t n, float scale, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = normal(random);
  return values;
}

inline std::uint32_t bits(float x) {
  return std::bit_cast<std::uint32_t>(x);
}
inline float float_of(std::uint32_t x) {
  return std::bit_cast<float>(x);
}

}  // namespace kvfit::test
