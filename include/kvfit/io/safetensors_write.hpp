// SPDX-License-Identifier: MIT
/// Writes safetensors files: the same tensors give the same bytes, and a file is there whole or not
/// at all.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/catch_exceptions.hpp"
#include "kvfit/io/replace_file.hpp"
#include "kvfit/io/safetensors_header.hpp"
#include "kvfit/io/tensor_view.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// Appends `text` as a JSON string.
inline void append_json(std::string& out, std::string_view text) {
  constexpr std::string_view hex = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (code < 0x20) {
      out += "\\u00";
      out += hex[code >> 4U];
      out += hex[code & 15U];
    } else {
      out += c;
    }
  }
  out += '"';
}

/// The header of `tensors` laid one after the other, padded with spaces to a multiple of 8.
inline std::string header_text(std::span<const tensor_spec* const> tensors,
                               const tensor_metadata& metadata) {
  std::string text = "{";
  const auto separate = [&text] {
    if (text.back() != '{') text += ',';
  };
  if (!metadata.empty()) {
    text += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      separate();
      append_json(text, key);
      text += ':';
      append_json(text, value);
    }
    text += '}';
  }
  std::uint64_t place = 0;
  for (const tensor_spec* tensor : tensors) {
    separate();
    append_json(text, tensor->name);
    text += ":{\"dtype\":";
    append_json(text, name(tensor->type));
    text += ",\"shape\":[";
    for (std::size_t i = 0; i < tensor->shape.size(); ++i) {
      text += (i == 0 ? "" : ",") + std::to_string(tensor->shape[i]);
    }
    text += "],\"data_offsets\":[" + std::to_string(place);
    place += byte_size(tensor->type, tensor->shape).value_or(0);
    text += "," + std::to_string(place) + "]}";
  }
  text += '}';
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

}  // namespace io_detail

/// Writes tensors that are made while they are written, replacing a file at `path`
/// (`replace_file.hpp` says how): `fill(i, sink)` hands the bytes of tensor i to the sink, in as
/// many pieces as it likes. It is called once a tensor, in the order of the file.
///
/// Tensors are laid out by descending element size, then by name, behind a header padded to 8
/// bytes: every tensor lies aligned in the file, and equal input gives equal bytes. Errors:
/// `invalid_option` where the header could not be read back (a name twice, the name `__metadata__`,
/// a text that is not UTF-8); `shape_mismatch` for sizes beyond 64 bits, and where `fill` hands
/// over other than the bytes its tensor needs; those of `fill`; `file_unwritable`; `out_of_memory`.
/// The file is left as it was then. Cost: the length of the header in memory.
template <class Fill>
[[nodiscard]] result<void> write_safetensors_by(const std::filesystem::path& path,
                                                std::span<const tensor_spec> tensors,
                                                const tensor_metadata& metadata, const Fill& fill) {
  return io_detail::catch_exceptions(errc::file_unwritable, [&]() -> result<void> {
    std::vector<const tensor_spec*> ordered;
    std::uint64_t data_size = 0;
    for (const tensor_spec& tensor : tensors) {
      const auto needed = io_detail::byte_size(tensor.type, tensor.shape);
      if (!needed) {
        return error{errc::shape_mismatch, tensor.name, error::none, error::none,
                     "its size exceeds 63 bits"};
      }
      data_size += *needed;
      ordered.push_back(&tensor);
    }
    std::sort(ordered.begin(), ordered.end(), [](const tensor_spec* a, const tensor_spec* b) {
      const auto size_a = size_of(a->type);
      const auto size_b = size_of(b->type);
      return size_a != size_b ? size_a > size_b : a->name < b->name;
    });

    const std::string header = io_detail::header_text(ordered, metadata);
    // The reader decides what may be written.
    const bool too_long = header.size() > max_safetensors_header;
    const auto parsed = io_detail::parse_safetensors_header(header, data_size, path.string());
    if (too_long || !parsed) {
      return error{errc::invalid_option, "tensors", error::none, error::none,
                   too_long ? "the header exceeds its limit" : parsed.error().detail};
    }

    return io_detail::replace_file_by(path, [&](const io_detail::byte_sink& sink) -> result<void> {
      const std::uint64_t header_size = header.size();
      std::array<std::byte, 8> length{};
      std::memcpy(length.data(), &header_size, length.size());
      if (auto ok = sink(length); !ok) return ok;
      if (auto ok = sink(std::as_bytes(std::span(header))); !ok) return ok;
      for (const tensor_spec* tensor : ordered) {
        std::uint64_t written = 0;
        const io_detail::byte_sink counted = [&](std::span<const std::byte> piece) {
          written += piece.size();
          return sink(piece);
        };
        const auto place = static_cast<std::size_t>(tensor - tensors.data());
        if (result<void> ok = fill(place, counted); !ok) return ok;
        const auto needed = *io_detail::byte_size(tensor->type, tensor->shape);
        if (written != needed) {
          return error{errc::shape_mismatch, tensor->name, static_cast<index_t>(written),
                       static_cast<index_t>(needed), "bytes against what type and shape need"};
        }
      }
      return {};
    });
  });
}

/// Writes `tensors` and `metadata` to `path`, laid out as `write_safetensors_by` does.
///
/// Errors: those; `shape_mismatch` where a tensor's bytes are not what its type and shape need.
/// Nothing is written then.
[[nodiscard]] inline result<void> write_safetensors(const std::filesystem::path& path,
                                                    std::span<const tensor_view> tensors,
                                                    const tensor_metadata& metadata) {
  return io_detail::catch_exceptions(errc::file_unwritable, [&]() -> result<void> {
    std::vector<tensor_spec> specs;
    for (const tensor_view& tensor : tensors) {
      const auto needed = io_detail::byte_size(tensor.type, tensor.shape);
      if (!needed || *needed != tensor.bytes.size()) {
        return error{errc::shape_mismatch, tensor.name, static_cast<index_t>(tensor.bytes.size()),
                     needed ? static_cast<index_t>(*needed) : error::none,
                     "bytes against what type and shape need"};
      }
      specs.push_back({tensor.name, tensor.type, tensor.shape});
    }
    return write_safetensors_by(
        path, specs, metadata,
        [&](std::size_t i, const io_detail::byte_sink& sink) { return sink(tensors[i].bytes); });
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
