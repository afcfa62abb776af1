// SPDX-License-Identifier: MIT
/// Reads the state of a compact cache, from memory or from a file, trusting nothing in it
/// (docs/formats.md).
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/byte_source.hpp"
#include "kvfit/io/crc32c.hpp"
#include "kvfit/io/guarded.hpp"
#include "kvfit/io/state_layout.hpp"
#include "kvfit/io/state_write.hpp"
#include "kvfit/simd/convert.hpp"

namespace kvfit::inline KVFIT_ISA {

namespace io_detail {

inline error malformed_state(std::string_view source, std::string what) {
  return {errc::malformed_file, std::string(source), error::none, error::none, std::move(what)};
}

inline error ended_early(std::string_view source) {
  return {errc::file_unreadable, std::string(source), error::none, error::none,
          "reading stopped before the end"};
}

/// A state of `size` bytes must be of a version known here, and as long as it says.
inline result<void> check_header(const state_header& header, std::uint64_t size,
                                 std::string_view source) {
  const auto unsupported = [&](std::int64_t actual, std::int64_t expected, const char* what) {
    return error{errc::unsupported_file, std::string(source), actual, expected, what};
  };
  if (header.magic != state_magic) {
    return malformed_state(source, "does not start with 'kvfstate'");
  }
  if (header.endian_tag != state_endian_tag) {
    constexpr std::uint32_t other_end = 0x04030201U;
    if (header.endian_tag != other_end) return malformed_state(source, "no endian tag");
    return unsupported(error::none, error::none, "was written on a big-endian machine");
  }
  if (header.version < 1 || header.version > state_version) {
    return unsupported(header.version, state_version, "version");
  }
  if (header.length != size) {
    return malformed_state(
        source, "has " + std::to_string(size) + " bytes and says " + std::to_string(header.length));
  }
  return {};
}

/// Compares the last four bytes with the checksum of all before them. Allocates nothing.
template <class Source>
result<void> check_sum(Source source, std::uint64_t size, std::string_view name) {
  std::array<std::byte, 16384> buffer;  // NOLINT(*-member-init)
  crc32c sum;
  for (std::uint64_t left = size - state_checksum_bytes; left > 0;) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(left, buffer.size()));
    if (!source.read(buffer.data(), count)) return ended_early(name);
    sum.add(std::span(buffer).first(count));
    left -= count;
  }
  std::uint32_t stored = 0;
  if (!source.read(&stored, sizeof stored)) return ended_early(name);
  if (stored == sum.value()) return {};
  return malformed_state(name, "the checksum does not fit: the file is damaged");
}

/// Takes the parts of a state one after the other. Every size is held against the bytes that are
/// left before memory is asked for.
template <class Source>
class state_reader {
 public:
  state_reader(Source source, std::uint64_t size, std::string_view name)
      : source_(source), left_(size - state_checksum_bytes), name_(name) {}

  result<cache_state> run() {
    if (auto ok = take(header_); !ok) return ok.error();
    cache_state state;
    state.info.logical_length = header_.logical_length;
    state.info.key_storage = static_cast<dtype>(header_.key_storage);
    state.info.value_storage = static_cast<dtype>(header_.value_storage);
    if (!is_state_storage(state.info.key_storage) || !is_state_storage(state.info.value_storage)) {
      return error{errc::unsupported_file, std::string(name_), error::none, error::none,
                   "keys or values of a type not handled here"};
    }
    for (const std::uint8_t byte : header_.zero) {
      if (byte != 0) return refuse("header: the last 14 bytes must be 0");
    }
    compacted_cache& cache = state.cache;
    if (auto ok = take_list(header_.skipped, cache.skipped, "skipped layers"); !ok) {
      return ok.error();
    }
    if (!may_hold(header_.layers, sizeof(state_layer))) return too_many("layers");
    for (std::uint64_t l = 0; l < header_.layers; ++l) {
      compacted_layer layer;
      if (auto ok = take_layer(layer, state.info); !ok) return ok.error();
      cache.rows += layer.keys.rows();
      for (const head_report& head : layer.heads) {
        if (head.rows_before > std::numeric_limits<index>::max() - cache.rows_before) {
          return refuse("rows before compaction exceed 63 bits");
        }
        cache.rows_before += head.rows_before;
        cache.fallbacks += head.outcome == head_outcome::fallback ? 1 : 0;
      }
      cache.layers.push_back(std::move(layer));
    }
    if (left_ != 0) return refuse(std::to_string(left_) + " bytes behind the last layer");
    // The writer is the judge of what may be read.
    if (const auto ok = check_state(cache, state.info); !ok) return refuse(ok.error().message());
    return state;
  }

 private:
  error refuse(std::string what) const { return malformed_state(name_, std::move(what)); }
  error too_many(const char* what) const {
    return refuse(std::string(what) + ": more than the file has room for");
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

  result<void> take_list(std::uint64_t count, std::vector<index>& numbers, const char* what) {
    if (!may_hold(count, sizeof(index))) return too_many(what);
    numbers.resize(static_cast<std::size_t>(count));
    return take(numbers.data(), count * sizeof(index));
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
    out.resize(static_cast<index>(rows), static_cast<index>(columns));
    const std::uint64_t bytes = rows * columns * size;
    if (storage == dtype::fp32) {
      if (auto ok = take(out.data(), bytes); !ok) return ok;
    } else {
      std::array<std::byte, 8192> buffer;  // NOLINT(*-member-init)
      float* to = out.data();
      for (std::uint64_t rest = bytes; rest > 0;) {
        const std::uint64_t count = std::min<std::uint64_t>(rest, buffer.size());
        if (auto ok = take(buffer.data(), count); !ok) return ok;
        const auto numbers = static_cast<index>(count / size);
        simd::widen(storage, buffer.data(), to, numbers);
        to += numbers;
        rest -= count;
      }
    }
    return take_padding(bytes);
  }

  /// Heads without their texts; `texts` gets the bytes of argument and detail of each.
  result<void> take_heads(std::uint64_t count, compacted_layer& layer,
                          std::vector<std::array<std::uint32_t, 2>>& texts) {
    const bool is_first = header_.version == 1;
    if (count < 1) return refuse("a layer without heads");
    if (!may_hold(count, is_first ? sizeof(state_head_1) : sizeof(state_head_2))) {
      return too_many("heads");
    }
    if (count > max_state_heads - heads_) {
      return refuse("more heads than the limit of " + std::to_string(max_state_heads));
    }
    heads_ += count;
    layer.heads.reserve(static_cast<std::size_t>(count));
    layer.offsets.reserve(static_cast<std::size_t>(count) + 1);
    texts.reserve(static_cast<std::size_t>(count));
    layer.offsets.push_back(0);
    for (std::uint64_t h = 0; h < count; ++h) {
      state_head_2 record;
      if (is_first) {
        state_head_1 old;
        if (auto ok = take(old); !ok) return ok;
        record.rows = old.rows;
        record.rows_before = old.rows_before;
        record.outcome =
            static_cast<std::uint8_t>(old.rows == 0                 ? head_outcome::empty
                                      : old.rows == old.rows_before ? head_outcome::identity
                                                                    : head_outcome::fitted);
      } else if (auto ok = take(record); !ok) {
        return ok;
      }
      // Far from where sums of them would overflow, and above what any file has room for.
      constexpr std::uint64_t most = std::uint64_t{1} << 60U;
      if (record.rows > most - static_cast<std::uint64_t>(layer.offsets.back()) ||
          record.rows_before > most) {
        return refuse("head " + std::to_string(h) + " has more rows than any cache");
      }
      if (auto ok = check_head(record); !ok) return ok;
      head_report head;
      head.id = {layer.number, static_cast<index>(h)};
      head.rows = static_cast<index>(record.rows);
      head.rows_before = static_cast<index>(record.rows_before);
      head.outcome = static_cast<head_outcome>(record.outcome);
      if (record.cause != state_no_cause) {
        head.cause = error{static_cast<errc>(record.cause), {}, record.actual, record.expected, {}};
      }
      texts.push_back({record.argument_bytes, record.detail_bytes});
      layer.offsets.push_back(layer.offsets.back() + head.rows);
      layer.heads.push_back(std::move(head));
    }
    return {};
  }

  result<void> check_head(const state_head_2& record) const {
    if (record.outcome > static_cast<std::uint8_t>(head_outcome::fallback)) {
      return refuse("a head with outcome " + std::to_string(record.outcome));
    }
    for (const std::uint8_t byte : record.zero) {
      if (byte != 0) return refuse("bytes 18 to 23 of a head must be 0");
    }
    if (record.cause != state_no_cause) {
      if (record.cause <= static_cast<std::uint8_t>(errc::cancelled)) return {};
      return error{errc::unsupported_file, std::string(name_), record.cause, error::none,
                   "a cause that this version does not know"};
    }
    if (record.actual == 0 && record.expected == 0 && record.argument_bytes == 0 &&
        record.detail_bytes == 0) {
      return {};
    }
    return refuse("a head without a cause that has sizes or texts");
  }

  result<void> take_texts(compacted_layer& layer,
                          const std::vector<std::array<std::uint32_t, 2>>& texts) {
    std::uint64_t all = 0;
    for (std::size_t h = 0; h < texts.size(); ++h) {
      for (std::size_t part = 0; part < 2; ++part) {
        const std::uint64_t count = texts[h][part];
        if (count == 0) continue;
        if (!may_hold(count, 1)) return too_many("texts");
        error& cause = *layer.heads[h].cause;
        std::string& text = part == 0 ? cause.argument : cause.detail;
        text.resize(static_cast<std::size_t>(count));
        if (auto ok = take(text.data(), count); !ok) return ok;
        all += count;
      }
    }
    return take_padding(all);
  }

  result<void> take_layer(compacted_layer& layer, const state_info& info) {
    state_layer record;
    if (auto ok = take(record); !ok) return ok;
    layer.number = record.number;
    {
      std::vector<std::array<std::uint32_t, 2>> texts;
      if (auto ok = take_heads(record.heads, layer, texts); !ok) return ok;
      if (auto ok = take_texts(layer, texts); !ok) return ok;
    }
    const std::uint64_t rows = record.rows;
    if (rows != static_cast<std::uint64_t>(layer.offsets.back())) {
      return refuse("layer " + std::to_string(layer.number) + ": the rows of its heads are " +
                    std::to_string(layer.offsets.back()) + ", not " + std::to_string(rows));
    }
    if (auto ok = take_list(rows, layer.positions, "positions"); !ok) return ok;
    if (header_.version == 1) {
      layer.key_positions = layer.positions;
    } else if (auto ok = take_list(rows, layer.key_positions, "key positions"); !ok) {
      return ok;
    }
    if (!may_hold(rows, sizeof(float))) return too_many("biases");
    layer.bias.resize(static_cast<index>(rows));
    if (auto ok = take(layer.bias.data(), rows * sizeof(float)); !ok) return ok;
    if (auto ok = take_padding(rows * sizeof(float)); !ok) return ok;
    if (auto ok = take_matrix(rows, record.key_columns, info.key_storage, layer.keys); !ok) {
      return ok;
    }
    return take_matrix(rows, record.value_columns, info.value_storage, layer.values);
  }

  Source source_;
  std::uint64_t left_;       // before the checksum
  std::uint64_t heads_ = 0;  // of the layers so far
  std::string_view name_;
  state_header header_;
};

inline result<void> check_state_size(std::uint64_t size, std::string_view name) {
  constexpr std::uint64_t least = sizeof(state_header) + state_checksum_bytes;
  if (size >= least) return {};
  return malformed_state(
      name, "has " + std::to_string(size) + " bytes, fewer than " + std::to_string(least));
}

inline result<cache_state> read_state_file(const std::filesystem::path& path) {
  const std::string name = path.string();
  auto file = open_file(path);
  if (!file) return file.error();
  const std::uint64_t size = file->size;
  if (const auto ok = check_state_size(size, name); !ok) return ok.error();
  state_header header;
  if (!stream_source(file->stream).read(&header, sizeof header)) return ended_early(name);
  if (const auto ok = check_header(header, size, name); !ok) return ok.error();
  file->stream.seekg(0);
  if (const auto ok = check_sum(stream_source(file->stream), size, name); !ok) return ok.error();
  file->stream.seekg(0);
  return state_reader(stream_source(file->stream), size, name).run();
}

inline result<cache_state> read_state_bytes(std::span<const std::byte> bytes) {
  constexpr std::string_view name = "bytes";
  if (const auto ok = check_state_size(bytes.size(), name); !ok) return ok.error();
  state_header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (const auto ok = check_header(header, bytes.size(), name); !ok) return ok.error();
  if (const auto ok = check_sum(span_source(bytes), bytes.size(), name); !ok) return ok.error();
  return state_reader(span_source(bytes), bytes.size(), name).run();
}

}  // namespace io_detail

/// Reads a state of any version from 1 to `state_version`. What `write_state` would refuse is
/// refused here too; saved again, a state of the newest version has the same bytes.
///
/// A state of version 1 has neither key positions, which become the positions, nor outcomes: a head
/// without rows is `empty`, one with all of them `identity`, all others `fitted`.
///
/// Errors: `file_unreadable`; `unsupported_file` for a newer version or a big-endian machine's;
/// `malformed_file`, with what and where in `detail`; `out_of_memory`. The checksum is looked at
/// before memory is asked for, and every size against what the file has left: reading takes the
/// memory of the cache it returns, at most twice the file and 1,000 bytes a head, and 64 KB.
/// Cost: the file is read twice.
[[nodiscard]] inline result<cache_state> read_state(const std::filesystem::path& path) {
  return io_detail::guarded(errc::file_unreadable,
                            [&] { return io_detail::read_state_file(path); });
}

/// The same from bytes in memory, which are copied.
[[nodiscard]] inline result<cache_state> read_state(std::span<const std::byte> bytes) {
  return io_detail::guarded(errc::file_unreadable,
                            [&] { return io_detail::read_state_bytes(bytes); });
}

}  // namespace kvfit::inline KVFIT_ISA
