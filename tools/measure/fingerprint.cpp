// SPDX-License-Identifier: MIT
#include "measure/fingerprint.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <string_view>

namespace kvfit_tool {

namespace {

/// Eight bytes at a time, each step one that can be undone, so that no single change is lost; the
/// length goes in too, so that texts do not run into each other.
class hash {
 public:
  void add(std::span<const std::byte> bytes) {
    mix(bytes.size());
    while (!bytes.empty()) {
      std::uint64_t word = 0;
      const std::size_t taken = bytes.size() < sizeof word ? bytes.size() : sizeof word;
      std::memcpy(&word, bytes.data(), taken);
      mix(word);
      bytes = bytes.subspan(taken);
    }
  }
  void add(std::string_view text) { add(std::as_bytes(std::span(text.data(), text.size()))); }
  void mix(std::uint64_t word) {
    state_ = (state_ ^ word) * 0x9E3779B97F4A7C15U;
    state_ ^= state_ >> 29U;
  }
  [[nodiscard]] std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_ = 0x2545F4914F6CDD1DU;  // any but 0, which would not tell zeros from nothing
};

}  // namespace

std::string fingerprint_of(const kvfit::capture& capture) {
  hash sum;
  for (const auto& [key, value] : capture.file.metadata) {
    sum.add(key);
    sum.add(value);
  }
  for (const kvfit::tensor_view& tensor : capture.file.tensors) {
    sum.add(tensor.name);
    sum.add(name(tensor.type));
    for (const kvfit::index_t size : tensor.shape) sum.mix(static_cast<std::uint64_t>(size));
    sum.add(tensor.bytes);
  }
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(sum.value()));
  return text;
}

}  // namespace kvfit_tool
