// SPDX-License-Identifier: MIT
/// The host's side of the emulator: buffers, and calls of kernels by name. metal_stdlib.hpp shows a
/// test.
#pragma once

#include <sys/mman.h>

#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "metal/emulator/engine.hpp"

namespace metal_emulator {

/// Device memory. It is mapped and not filled, so that a buffer of many GB costs only the pages
/// that are touched.
class buffer {
 public:
  /// `initialised`: all bytes are 0 and may be read. Otherwise a kernel that reads what no kernel
  /// has written is at fault.
  explicit buffer(std::size_t bytes, bool initialised = true) : size_(bytes) {
    mapped_ = bytes == 0 ? 1 : bytes;
    void* memory = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();  // a test machine without address space
    begin_ = static_cast<std::byte*>(memory);
    memory_ = std::make_unique<allocation>(space::device, "a buffer", begin_, size_, initialised);
  }
  ~buffer() {
    if (begin_ != nullptr) munmap(begin_, mapped_);
  }
  buffer(buffer&& other) noexcept
      : size_(other.size_),
        mapped_(other.mapped_),
        begin_(std::exchange(other.begin_, nullptr)),
        memory_(std::move(other.memory_)) {}
  buffer(const buffer&) = delete;
  buffer& operator=(const buffer&) = delete;
  buffer& operator=(buffer&&) = delete;

  template <class T>
  [[nodiscard]] static buffer of(std::span<const T> values) {
    buffer b(values.size_bytes());
    if (!values.empty()) std::memcpy(b.begin_, values.data(), values.size_bytes());
    return b;
  }
  template <class T>
  [[nodiscard]] static buffer of(const std::vector<T>& values) {
    return of(std::span<const T>(values));
  }
  /// Room for n elements that a kernel is to write; they hold NaN until then.
  template <class T>
  [[nodiscard]] static buffer output(std::size_t n) {
    buffer b(n * sizeof(T), false);
    if (n > 0) std::memset(b.begin_, 0xFF, n * sizeof(T));
    return b;
  }
  /// Writes by kernels are faults from now on.
  buffer& read_only() {
    memory_->read_only(true);
    return *this;
  }

  template <class T>
  [[nodiscard]] std::span<T> as() {
    return {reinterpret_cast<T*>(begin_), size_ / sizeof(T)};
  }
  template <class T>
  [[nodiscard]] std::span<const T> as() const {
    return {reinterpret_cast<const T*>(begin_), size_ / sizeof(T)};
  }
  [[nodiscard]] std::size_t size_bytes() const { return size_; }
  [[nodiscard]] allocation* memory() { return memory_.get(); }

 private:
  std::size_t size_, mapped_ = 0;
  std::byte* begin_ = nullptr;
  std::unique_ptr<allocation> memory_;
};

/// A kernel with its arguments; run by groups() or threads(), as often as wanted.
class call {
 public:
  explicit call(std::string kernel_name) {
    launch_.name = std::move(kernel_name);
    const auto found = kernels().find(launch_.name);
    if (found != kernels().end()) launch_.which = &found->second;
  }
  call(const call&) = delete;
  call& operator=(const call&) = delete;

  /// A buffer, from a byte on.
  call& memory(unsigned index, buffer& b, std::int64_t offset = 0) {
    launch_.buffers[index] = b.memory();
    launch_.offsets[index] = offset;
    b.memory()->rename("buffer(" + std::to_string(index) + ")");
    return *this;
  }
  /// A null pointer, for an argument that the kernel must not touch.
  call& absent(unsigned index) {
    launch_.buffers[index] = nullptr;
    return *this;
  }
  template <class T>
  call& bytes(unsigned index, const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    auto& held = held_.emplace_back(std::make_unique<passed_bytes>());
    held->words.resize((sizeof(T) + sizeof(held->words[0]) - 1) / sizeof(held->words[0]));
    std::memcpy(held->words.data(), &value, sizeof(T));
    held->memory = std::make_unique<allocation>(
        space::constant, "buffer(" + std::to_string(index) + ")",
        reinterpret_cast<std::byte*>(held->words.data()), sizeof(T), true);
    launch_.buffers[index] = held->memory.get();
    launch_.offsets[index] = 0;
    return *this;
  }
  call& threadgroup(unsigned index, std::size_t size) {
    launch_.threadgroup_sizes[index] = size;
    return *this;
  }
  template <class T>
  call& constant(unsigned index, const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto* first = reinterpret_cast<const std::byte*>(&value);
    launch_.constants[index].assign(first, first + sizeof(T));
    return *this;
  }
  /// A dispatch that makes more accesses than this is at fault; against endless loops.
  call& max_accesses(std::uint64_t n) {
    launch_.max_accesses = n;
    return *this;
  }

  /// As dispatchThreadgroups.
  [[nodiscard]] outcome groups(const extent& threadgroups, const extent& threads_per_threadgroup,
                               const order& how = {}) {
    launch_.threads = threads_per_threadgroup;
    for (std::size_t a = 0; a < 3; ++a) {
      launch_.grid[a] = threadgroups[a] * threads_per_threadgroup[a];
    }
    return run(launch_, how);
  }
  /// As dispatchThreads: threadgroups at the edges may have fewer threads.
  [[nodiscard]] outcome threads(const extent& grid, const extent& threads_per_threadgroup,
                                const order& how = {}) {
    launch_.threads = threads_per_threadgroup;
    launch_.grid = grid;
    return run(launch_, how);
  }

 private:
  struct passed_bytes {
    std::vector<std::max_align_t> words;
    std::unique_ptr<allocation> memory;
  };
  launch launch_;
  std::vector<std::unique_ptr<passed_bytes>> held_;
};

/// Orders in which a kernel is worth running.
[[nodiscard]] inline std::vector<order> orders() {
  return {{order::kind::forward, 0},
          {order::kind::backward, 0},
          {order::kind::shuffled, 1},
          {order::kind::shuffled, 2}};
}

}  // namespace metal_emulator
