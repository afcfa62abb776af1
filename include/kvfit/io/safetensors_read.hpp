// SPDX-License-Identifier: MIT
/// Reads safetensors files, from disk or from memory, trusting nothing in them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/byte_source.hpp"
#include "kvfit/io/catch_exceptions.hpp"
#include "kvfit/io/safetensors_header.hpp"
#include "kvfit/io/tensor_view.hpp"

namespace kvfit {

/// Frees what `tensor_bytes` holds.
struct tensor_bytes_delete {
  void operator()(std::byte* bytes) const noexcept {
    ::operator delete (bytes, std::align_val_t{64});
  }
};

/// Memory aligned to 64 bytes.
using tensor_bytes = std::unique_ptr<std::byte[], tensor_bytes_delete>;

/// A file read whole. It owns the memory its tensors view; moving it keeps them valid.
struct safetensors_file {
  std::vector<tensor_view> tensors;  ///< ascending by name
  tensor_metadata metadata;
  tensor_bytes memory;
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// The first multiple of `alignment` from `offset` on.
constexpr std::uint64_t align_up(std::uint64_t offset, std::uint64_t alignment) noexcept {
  return (offset + alignment - 1) / alignment * alignment;
}

/// Reads `size` bytes from `source`: length, header, then each tensor to its own aligned place.
template <class Source>
result<safetensors_file> load_safetensors(Source source, std::uint64_t size,
                                          std::string_view name) {
  const auto fail = [&](errc code, std::string what) {
    return error{code, std::string(name), error::none, error::none, std::move(what)};
  };
  const auto ended = [&] { return fail(errc::file_unreadable, "reading stopped before the end"); };
  if (size < 8) {
    return fail(errc::malformed_file,
                "has " + std::to_string(size) + " bytes, fewer than the 8 of the header's length");
  }
  std::uint64_t header_size = 0;
  if (!source.read(&header_size, sizeof header_size)) return ended();
  if (header_size > max_safetensors_header) {
    return fail(errc::malformed_file, "header of " + std::to_string(header_size) +
                                          " bytes, more than the limit of " +
                                          std::to_string(max_safetensors_header));
  }
  if (header_size > size - 8) {
    return fail(errc::malformed_file, "header of " + std::to_string(header_size) +
                                          " bytes in a file of " + std::to_string(size));
  }

  safetensors_header header;
  {
    std::string text(static_cast<std::size_t>(header_size), '\0');
    if (!source.read(text.data(), text.size())) return ended();
    auto parsed = parse_safetensors_header(text, size - 8 - header_size, name);
    if (!parsed) return parsed.error();
    header = std::move(*parsed);
  }

  // Only now is it known that the tensors need no more than the file holds. The padding that
  // alignment may add is under 8 bytes a tensor, less than a tensor's entry in the header.
  std::uint64_t needed = 0;
  for (const tensor_entry& entry : header.tensors) {
    needed = align_up(needed, size_of(entry.type)) + (entry.end - entry.begin);
  }
  safetensors_file file;
  const bool fits = needed < (std::numeric_limits<std::size_t>::max)();
  if (fits) {
    const auto bytes = static_cast<std::size_t>(needed == 0 ? 1 : needed);
    file.memory.reset(
        static_cast<std::byte*>(::operator new (bytes, std::align_val_t{64}, std::nothrow)));
  }
  if (!file.memory) {
    return fail(errc::out_of_memory, std::to_string(needed) + " bytes for the tensors");
  }

  file.metadata = std::move(header.metadata);
  file.tensors.reserve(header.tensors.size());
  std::uint64_t place = 0;
  for (tensor_entry& entry : header.tensors) {
    place = align_up(place, size_of(entry.type));
    const auto bytes = static_cast<std::size_t>(entry.end - entry.begin);
    std::byte* const start = file.memory.get() + place;
    if (!source.read(start, bytes)) return ended();
    file.tensors.push_back({std::move(entry.name), entry.type, std::move(entry.shape),
                            std::span<const std::byte>(start, bytes)});
    place += bytes;
  }
  std::sort(file.tensors.begin(), file.tensors.end(),
            [](const tensor_view& a, const tensor_view& b) { return a.name < b.name; });
  return file;
}

}  // namespace io_detail

/// Reads a safetensors file whole.
///
/// Each tensor comes to lie aligned to its element size, wherever it stood in the file, so that an
/// F32 tensor can be viewed as floats in place.
/// Errors: `file_unreadable`; `malformed_file` (docs/formats.md has the rules, `detail` says which
/// and where); `unsupported_file` for a dtype not handled; `out_of_memory`.
/// Cost: the data of the file, plus some 12 times the length of its header at worst. Nothing of
/// what a header claims is allocated before it is checked against the file's true size.
[[nodiscard]] inline result<safetensors_file> read_safetensors(const std::filesystem::path& path) {
  return io_detail::catch_exceptions(errc::file_unreadable, [&]() -> result<safetensors_file> {
    const std::string name = path.string();
    auto file = io_detail::open_file(path);
    if (!file) return file.error();
    return io_detail::load_safetensors(io_detail::stream_source(file->stream), file->size, name);
  });
}

/// The same from bytes in memory, which are copied.
[[nodiscard]] inline result<safetensors_file> read_safetensors(std::span<const std::byte> bytes) {
  return io_detail::catch_exceptions(errc::file_unreadable, [&] {
    return io_detail::load_safetensors(io_detail::span_source(bytes), bytes.size(), "bytes");
  });
}

/// The tensor of that name, or nullptr. Cost: O(log tensors).
[[nodiscard]] inline const tensor_view* find_tensor(const safetensors_file& file,
                                                    std::string_view name) noexcept {
  const auto found = std::lower_bound(
      file.tensors.begin(), file.tensors.end(), name,
      [](const tensor_view& tensor, std::string_view key) { return tensor.name < key; });
  return found != file.tensors.end() && found->name == name ? &*found : nullptr;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
