// SPDX-License-Identifier: MIT
/// What the tests of io/ share: raw files from parts, and a folder that goes away.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvfit/io/safetensors.hpp"

namespace kvfit_test {

using bytes = std::vector<std::byte>;

/// A file as its parts: the length the header claims, the header, the data.
inline bytes raw_file(std::uint64_t claimed, std::string_view header, std::string_view data) {
  bytes file(8 + header.size() + data.size());
  std::memcpy(file.data(), &claimed, 8);
  if (!header.empty()) std::memcpy(file.data() + 8, header.data(), header.size());
  if (!data.empty()) std::memcpy(file.data() + 8 + header.size(), data.data(), data.size());
  return file;
}

/// A file with an honest length.
inline bytes raw_file(std::string_view header, std::string_view data) {
  return raw_file(header.size(), header, data);
}

/// A fresh folder, removed with all in it.
class scratch_folder {
 public:
  scratch_folder() {
    std::random_device random;
    path_ = std::filesystem::temp_directory_path() /
            ("kvfit-io-" + std::to_string(random()) + "-" + std::to_string(random()));
    std::filesystem::create_directories(path_);
  }
  scratch_folder(const scratch_folder&) = delete;
  scratch_folder& operator=(const scratch_folder&) = delete;
  ~scratch_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }
  /// How many files there are in it.
  [[nodiscard]] std::ptrdiff_t count() const {
    return std::distance(std::filesystem::directory_iterator(path_), {});
  }

 private:
  std::filesystem::path path_;
};

inline bytes file_bytes(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(stream)), {});
  bytes out(text.size());
  if (!text.empty()) std::memcpy(out.data(), text.data(), text.size());
  return out;
}

inline void put_bytes(const std::filesystem::path& path, std::span<const std::byte> content) {
  std::ofstream stream(path, std::ios::binary);
  stream.write(reinterpret_cast<const char*>(content.data()),
               static_cast<std::streamsize>(content.size()));
}

template <class T>
kvfit::tensor_view tensor(std::string name, kvfit::tensor_type type,
                          std::vector<kvfit::index_t> shape, const std::vector<T>& numbers) {
  return {std::move(name), type, std::move(shape), std::as_bytes(std::span(numbers))};
}

/// Tensors and metadata as the bytes of a file, by way of the disk.
inline bytes encoded(const std::vector<kvfit::tensor_view>& tensors,
                     const kvfit::tensor_metadata& metadata) {
  const scratch_folder folder;
  const auto written = kvfit::write_safetensors(folder / "file", tensors, metadata);
  return written ? file_bytes(folder / "file") : bytes{};
}

/// Numbers 0, 0.25, 0.5, ... that fp16 and bf16 hold exactly for a while.
inline std::vector<float> ramp(std::size_t count, float start = 0) {
  std::vector<float> numbers(count);
  for (std::size_t i = 0; i < count; ++i) numbers[i] = start + 0.25F * static_cast<float>(i % 256);
  return numbers;
}

}  // namespace kvfit_test
