// SPDX-License-Identifier: MIT
/// Writes the state of a compact cache, to memory or to a file (docs/formats.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/cache/check_layer.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/crc32c.hpp"
#include "kvfit/io/guarded.hpp"
#include "kvfit/io/replace_file.hpp"
#include "kvfit/io/state_layout.hpp"

namespace kvfit::inline KVFIT_ISA {

namespace io_detail {

/// Appends to the bytes of a state.
class state_writer {
 public:
  explicit state_writer(std::size_t size) { bytes_.reserve(size); }

  void put(const void* from, std::size_t count) {
    const std::size_t place = bytes_.size();
    bytes_.resize(place + count);
    if (count > 0) std::memcpy(bytes_.data() + place, from, count);
  }
  template <class T>
  void put(const T& record) {
    put(&record, sizeof record);
  }
  template <class T>
  void put_all(const std::vector<T>& numbers) {
    put(numbers.data(), numbers.size() * sizeof(T));
  }
  void pad() { bytes_.resize(bytes_.size() + state_padding(bytes_.size())); }

  /// `numbers` in the type they are stored in.
  result<void> put_numbers(const matrix& numbers, dtype storage, const std::string& argument) {
    if (storage == dtype::fp32) {
      put(numbers.data(), static_cast<std::size_t>(numbers.size()) * sizeof(float));
    } else {
      std::size_t place = bytes_.size();
      bytes_.resize(place + static_cast<std::size_t>(numbers.size()) * 2);
      for (index i = 0; i < numbers.rows(); ++i) {
        for (index j = 0; j < numbers.cols(); ++j, place += 2) {
          const float x = numbers(i, j);
          const std::uint16_t bits = storage == dtype::fp16 ? to_fp16(x).bits : to_bf16(x).bits;
          if (!kvfit::detail::is_finite(as_stored(x, storage))) {
            return error{errc::storage_overflow, argument, i, j,
                         "exceeds " + std::string(name(storage))};
          }
          std::memcpy(bytes_.data() + place, &bits, sizeof bits);
        }
      }
    }
    pad();
    return {};
  }

  std::vector<std::byte> finish() && {
    crc32c sum;
    sum.add(bytes_);
    put(sum.value());
    return std::move(bytes_);
  }

 private:
  std::vector<std::byte> bytes_;
};

/// Bytes of one layer, text of causes included.
inline std::uint64_t state_bytes_of(const compacted_layer& layer, const state_info& info) {
  const auto rows = static_cast<std::uint64_t>(layer.keys.rows());
  std::uint64_t text = 0;
  for (const head_report& head : layer.heads) {
    if (head.cause) text += head.cause->argument.size() + head.cause->detail.size();
  }
  const auto padded = [](std::uint64_t bytes) { return bytes + state_padding(bytes); };
  return sizeof(state_layer) + layer.heads.size() * sizeof(state_head_2) + padded(text) +
         16 * rows + padded(4 * rows) +
         padded(static_cast<std::uint64_t>(layer.keys.size()) * size_of(info.key_storage)) +
         padded(static_cast<std::uint64_t>(layer.values.size()) * size_of(info.value_storage));
}

/// What `check_layer` does not look at.
inline result<void> check_state_layer(const compacted_layer& layer, const state_info& info) {
  using kvfit::detail::part_of;
  if (const auto ok = check_layer(layer); !ok) return ok;
  for (std::size_t h = 0; h < layer.heads.size(); ++h) {
    const head_report& head = layer.heads[h];
    const head_id id{layer.number, static_cast<index>(h)};
    if (head.id != id) {
      return error{errc::invalid_option, part_of(layer, "heads"), head.id.head, id.head,
                   name(head.id) + " at the place of " + name(id)};
    }
    if (head.rows != layer.rows(h)) {
      return error{errc::shape_mismatch, part_of(layer, "heads"), head.rows, layer.rows(h),
                   name(id) + ": the report's rows"};
    }
    if (head.rows_before < head.rows) {
      return error{errc::shape_mismatch, part_of(layer, "heads"), head.rows_before, head.rows,
                   name(id) + ": fewer rows before than after"};
    }
    if (head.outcome > head_outcome::fallback) {
      return error{errc::invalid_option, part_of(layer, "heads"), static_cast<index>(head.outcome),
                   error::none, "is no outcome"};
    }
    constexpr std::size_t most = std::numeric_limits<std::uint32_t>::max();
    if (head.cause && (head.cause->argument.size() > most || head.cause->detail.size() > most)) {
      return error{errc::invalid_option, part_of(layer, "heads"), error::none, error::none,
                   name(id) + ": the text of its cause exceeds 32 bits"};
    }
  }
  for (const matrix* part : {&layer.keys, &layer.values}) {
    if (part->cols() <= max_state_columns) continue;
    return error{errc::invalid_option, part_of(layer, part == &layer.keys ? "keys" : "values"),
                 part->cols(), max_state_columns, "columns"};
  }
  constexpr index largest = index{1} << 53U;
  for (std::size_t row = 0; row < layer.positions.size(); ++row) {
    if (layer.positions[row] >= info.logical_length) {
      return error{errc::invalid_position, part_of(layer, "positions"), layer.positions[row],
                   info.logical_length, "row " + std::to_string(row) + ", the logical length"};
    }
    if (layer.key_positions[row] < -largest || layer.key_positions[row] > largest) {
      return error{errc::invalid_position, part_of(layer, "key_positions"),
                   layer.key_positions[row], largest, "row " + std::to_string(row)};
    }
  }
  return {};
}

inline result<void> check_state(const compacted_cache& cache, const state_info& info) {
  if (info.logical_length < 0) {
    return error{errc::invalid_option, "logical_length", info.logical_length, 0, {}};
  }
  for (const dtype type : {info.key_storage, info.value_storage}) {
    if (is_state_storage(type)) continue;
    return error{errc::invalid_option, "storage", error::none, error::none,
                 std::string(name(type)) + " is not fp32, fp16 or bf16"};
  }
  index rows = 0;
  index rows_before = 0;
  index fallbacks = 0;
  std::size_t heads = 0;
  for (std::size_t l = 0; l < cache.layers.size(); ++l) {
    const compacted_layer& layer = cache.layers[l];
    if (const auto ok = check_state_layer(layer, info); !ok) return ok;
    if (l > 0 && layer.number <= cache.layers[l - 1].number) {
      return error{errc::invalid_option, "layers", layer.number, cache.layers[l - 1].number,
                   "must ascend"};
    }
    heads += layer.heads.size();
    if (heads > max_state_heads) {
      return error{errc::invalid_option, "heads", static_cast<index>(heads),
                   static_cast<index>(max_state_heads), "of all layers"};
    }
    rows += layer.keys.rows();
    for (const head_report& head : layer.heads) {
      if (head.rows_before > std::numeric_limits<index>::max() - rows_before) {
        return error{errc::invalid_option, "rows_before", error::none, error::none,
                     "exceed 63 bits"};
      }
      rows_before += head.rows_before;
      fallbacks += head.outcome == head_outcome::fallback ? 1 : 0;
    }
  }
  for (std::size_t s = 0; s < cache.skipped.size(); ++s) {
    const index before = s > 0 ? cache.skipped[s - 1] : -1;
    if (cache.skipped[s] > before) continue;
    return error{errc::invalid_option, "skipped", cache.skipped[s], before, "must ascend from 0"};
  }
  const auto mismatch = [](const char* what, index actual, index expected) {
    return error{errc::shape_mismatch, what, actual, expected, "what the heads add up to"};
  };
  if (cache.rows != rows) return mismatch("rows", cache.rows, rows);
  if (cache.rows_before != rows_before) {
    return mismatch("rows_before", cache.rows_before, rows_before);
  }
  if (cache.fallbacks != fallbacks) return mismatch("fallbacks", cache.fallbacks, fallbacks);
  return {};
}

inline result<void> put_layer(state_writer& out, const compacted_layer& layer,
                              const state_info& info) {
  using kvfit::detail::part_of;
  out.put(state_layer{layer.number, layer.heads.size(),
                      static_cast<std::uint64_t>(layer.keys.rows()),
                      static_cast<std::uint64_t>(layer.keys.cols()),
                      static_cast<std::uint64_t>(layer.values.cols())});
  for (const head_report& head : layer.heads) {
    state_head_2 record;
    record.rows = static_cast<std::uint64_t>(head.rows);
    record.rows_before = static_cast<std::uint64_t>(head.rows_before);
    record.outcome = static_cast<std::uint8_t>(head.outcome);
    if (head.cause) {
      record.cause = static_cast<std::uint8_t>(head.cause->code);
      record.actual = head.cause->actual;
      record.expected = head.cause->expected;
      record.argument_bytes = static_cast<std::uint32_t>(head.cause->argument.size());
      record.detail_bytes = static_cast<std::uint32_t>(head.cause->detail.size());
    }
    out.put(record);
  }
  for (const head_report& head : layer.heads) {
    if (!head.cause) continue;
    out.put(head.cause->argument.data(), head.cause->argument.size());
    out.put(head.cause->detail.data(), head.cause->detail.size());
  }
  out.pad();
  out.put_all(layer.positions);
  out.put_all(layer.key_positions);
  out.put(layer.bias.data(), static_cast<std::size_t>(layer.bias.size()) * sizeof(float));
  out.pad();
  if (auto ok = out.put_numbers(layer.keys, info.key_storage, part_of(layer, "keys")); !ok) {
    return ok;
  }
  return out.put_numbers(layer.values, info.value_storage, part_of(layer, "values"));
}

inline result<std::vector<std::byte>> encode_state(const compacted_cache& cache,
                                                   const state_info& info) {
  if (const auto ok = check_state(cache, info); !ok) return ok.error();
  state_header header;
  header.logical_length = info.logical_length;
  header.layers = cache.layers.size();
  header.skipped = cache.skipped.size();
  header.key_storage = static_cast<std::uint8_t>(info.key_storage);
  header.value_storage = static_cast<std::uint8_t>(info.value_storage);
  header.length = sizeof header + 8 * header.skipped + state_checksum_bytes;
  for (const compacted_layer& layer : cache.layers) header.length += state_bytes_of(layer, info);
  state_writer out(static_cast<std::size_t>(header.length));
  out.put(header);
  out.put_all(cache.skipped);
  for (const compacted_layer& layer : cache.layers) {
    if (const auto ok = put_layer(out, layer, info); !ok) return ok.error();
  }
  return std::move(out).finish();
}

}  // namespace io_detail

/// The state of `cache` as bytes, in version `state_version`. The same cache gives the same bytes.
///
/// Keys and values are rounded to the types of `info`; give those that `compact_options::storage`
/// was, and nothing is lost. Errors: those of `check_layer`; `invalid_option` (layers or skipped
/// ones out of order, storage other than fp32, fp16 or bf16, heads in the wrong place);
/// `invalid_position` at or above the logical length; `shape_mismatch` where reports, totals and
/// arrays disagree; `storage_overflow` with row and column; `out_of_memory`. Cost: the length of
/// the state in memory.
[[nodiscard]] inline result<std::vector<std::byte>> write_state(const compacted_cache& cache,
                                                                const state_info& info) {
  return io_detail::guarded(errc::file_unwritable,
                            [&] { return io_detail::encode_state(cache, info); });
}

/// The same to a file, whole or not at all (`replace_file.hpp` says how). Errors besides, with
/// nothing written: `file_unwritable`.
[[nodiscard]] inline result<void> write_state(const std::filesystem::path& path,
                                              const compacted_cache& cache,
                                              const state_info& info) {
  return io_detail::guarded(errc::file_unwritable, [&]() -> result<void> {
    const auto bytes = io_detail::encode_state(cache, info);
    if (!bytes) return bytes.error();
    const std::span<const std::byte> piece = *bytes;
    return io_detail::replace_file(path, std::span(&piece, 1));
  });
}

}  // namespace kvfit::inline KVFIT_ISA
