// SPDX-License-Identifier: MIT
/// Captures made by tests: tensors that own their numbers, metadata, and the bytes of the file.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "io/files.hpp"
#include "kvfit/core/random.hpp"
#include "kvfit/io/capture.hpp"

namespace kvfit_test {

/// A capture to be spoilt or said more of.
class capture_file {
 public:
  kvfit::tensor_metadata metadata = {
      {"format", "kvfit-capture"}, {"version", "2"}, {"scale", "0.5"}};

  template <class T>
  void add(const std::string& name, kvfit::tensor_type type, std::vector<kvfit::index_t> shape,
           const std::vector<T>& numbers) {
    std::vector<std::byte> stored(numbers.size() * sizeof(T));
    if (!stored.empty()) std::memcpy(stored.data(), numbers.data(), stored.size());
    memory_.push_back(std::move(stored));
    tensors_.push_back({name, type, std::move(shape), memory_.back()});
  }
  void add(const std::string& name, std::vector<kvfit::index_t> shape,
           const std::vector<float>& numbers) {
    add(name, kvfit::tensor_type::f32, std::move(shape), numbers);
  }
  void add(const std::string& name, const std::vector<std::int64_t>& numbers) {
    add(name, kvfit::tensor_type::i64, {static_cast<kvfit::index_t>(numbers.size())}, numbers);
  }
  void drop(const std::string& name) {
    std::erase_if(tensors_, [&](const kvfit::tensor_view& tensor) { return tensor.name == name; });
  }

  [[nodiscard]] bytes file() const { return encoded(tensors_, metadata); }
  [[nodiscard]] kvfit::result<kvfit::capture> read() const { return kvfit::read_capture(file()); }

 private:
  std::vector<std::vector<std::byte>> memory_;  // moving a vector keeps its elements in place
  std::vector<kvfit::tensor_view> tensors_;
};

/// Numbers from −1.5 to 1.5, other ones for each seed.
inline std::vector<float> drawn(std::size_t count, std::uint64_t seed) {
  kvfit::random_source draw(seed);
  std::vector<float> numbers(count);
  for (float& x : numbers) x = static_cast<float>(3 * draw.uniform() - 1.5);
  return numbers;
}

/// Layer `number` of 2 KV heads and 4 query heads: T = 24, d = 4, d_v = 3, n = 30, m = 10.
inline void add_layer(capture_file& to, int number) {
  const std::string at = "layers." + std::to_string(number) + ".";
  const auto seed = static_cast<std::uint64_t>(10 * number);
  to.add(at + "k", {2, 24, 4}, drawn(2 * 24 * 4, seed + 1));
  to.add(at + "v", {2, 24, 3}, drawn(2 * 24 * 3, seed + 2));
  to.add(at + "q", {4, 30, 4}, drawn(4 * 30 * 4, seed + 3));
  to.add(at + "q_test", {4, 10, 4}, drawn(4 * 10 * 4, seed + 4));
}

inline capture_file one_layer() {
  capture_file made;
  add_layer(made, 0);
  return made;
}

}  // namespace kvfit_test
