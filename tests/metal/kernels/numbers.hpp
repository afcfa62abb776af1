// SPDX-License-Identifier: MIT
/// Numbers for tests of kernels: as they are stored, and in double what they stand for.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kvfit/core/element.hpp"
#include "metal/emulator/emulator.hpp"

namespace kernel_tests {

using kvfit::dtype;
using metal_emulator::buffer;

constexpr double infinity = std::numeric_limits<double>::infinity();

inline std::size_t bytes_of(dtype type) {
  return kvfit::size_of(type);
}

/// The number that `x` becomes where it is stored as `type`.
inline double stored(double x, dtype type) {
  return static_cast<double>(kvfit::as_stored(static_cast<float>(x), type));
}

/// Writes `x` as element `at` of a buffer of numbers of `type`.
inline void put(buffer& to, dtype type, std::int64_t at, double x) {
  const auto place = static_cast<std::size_t>(at);
  const auto value = static_cast<float>(x);
  if (type == dtype::fp32) {
    to.as<float>()[place] = value;
  } else if (type == dtype::fp16) {
    to.as<std::uint16_t>()[place] = kvfit::to_fp16(value).bits;
  } else {
    to.as<std::uint16_t>()[place] = kvfit::to_bf16(value).bits;
  }
}

inline std::string name_of(dtype type) {
  return std::string(kvfit::name(type));
}

/// Numbers of a row-major matrix that lies in memory with strides of its own.
struct matrix {
  int rows = 0;
  int cols = 0;
  std::vector<double> numbers;

  matrix() = default;
  matrix(int r, int c, double fill = 0)
      : rows(r),
        cols(c),
        numbers(static_cast<std::size_t>(r) * static_cast<std::size_t>(c), fill) {}
  double& operator()(int i, int j) {
    return numbers[static_cast<std::size_t>(i) * static_cast<std::size_t>(cols) +
                   static_cast<std::size_t>(j)];
  }
  double operator()(int i, int j) const {
    return numbers[static_cast<std::size_t>(i) * static_cast<std::size_t>(cols) +
                   static_cast<std::size_t>(j)];
  }
};

/// Nearly Gaussian numbers, rounded to `type`: the same on every machine.
inline matrix random_matrix(std::mt19937& draw, int rows, int cols, double size = 1,
                            dtype type = dtype::fp32) {
  matrix out(rows, cols);
  for (double& x : out.numbers) {
    double sum = -6;
    for (int k = 0; k < 12; ++k) sum += static_cast<double>(draw()) * 0x1p-32;
    x = stored(size * sum, type);
  }
  return out;
}

}  // namespace kernel_tests
