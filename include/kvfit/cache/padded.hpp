// SPDX-License-Identifier: MIT
/// A compacted layer as a tensor [heads, length, d], and back: for engines without ragged heads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/cache/check_layer.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/core/bytes.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {

/// The heads of one layer, all `length` rows long: head h owns rows h · length to
/// (h + 1) · length − 1 of every array, of which the first `lengths[h]` are its own. The rest is
/// padding: key and value 0, bias −∞, position −1, key position 0. A head without any row of its
/// own attends to nothing: output 0, log-mass −∞.
struct padded_layer {
  index_t number = 0;
  index_t length = 0;                  ///< rows of each head
  std::vector<index_t> lengths;        ///< one a head, ≤ length
  std::vector<index_t> positions;      ///< heads · length
  std::vector<index_t> key_positions;  ///< heads · length
  matrix keys;                         ///< heads · length × d_k
  vector bias;                         ///< heads · length: finite, or −∞ in the padding
  matrix values;                       ///< heads · length × d_v
  std::vector<head_report> heads;      ///< one a head

  /// One head to attend over, padding included, by reference.
  [[nodiscard]] kv_block block(std::size_t head) const& noexcept {
    const index_t first = static_cast<index_t>(head) * length;
    const auto start = static_cast<std::size_t>(first);
    const auto count = static_cast<std::size_t>(length);
    return {.keys = row_view(keys).middle_rows(first, length),
            .values = row_view(values).middle_rows(first, length),
            .bias = {bias.data() + start, count},
            .positions = std::span(key_positions).subspan(start, count)};
  }
  kv_block block(std::size_t head) const&& = delete;  // it would refer to what is gone
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// `rows` rounded up to a multiple of `step`, or `invalid_option`.
inline result<index_t> round_up(index_t rows, index_t step, const char* argument) {
  if (step < 1) return error{errc::invalid_option, argument, step, 1, "must be at least 1"};
  const index_t missing = (step - rows % step) % step;
  if (rows > (std::numeric_limits<index_t>::max)() - missing) {
    return error{errc::invalid_option, argument, step, error::none, "rows exceed 63 bits"};
  }
  return rows + missing;
}

inline index_t longest_head(const compacted_layer& layer) {
  index_t longest = 0;
  for (std::size_t h = 0; h < layer.heads.size(); ++h) longest = (std::max)(longest, layer.rows(h));
  return longest;
}

/// `memory_cap_exceeded` where a result of `bytes` is more than the caller allows.
inline result<void> check_result_bytes(double bytes, const std::optional<index_t>& memory) {
  if (!memory) return {};
  if (*memory < 0) return error{errc::invalid_option, "memory", *memory, 0, "must not be negative"};
  if (bytes <= static_cast<double>(*memory)) return {};
  return error{errc::memory_cap_exceeded, "memory", whole_bytes(bytes), *memory, "of the result"};
}

/// Copies `count` rows of everything; `To` and `From` are layers, ragged or padded.
template <class To, class From>
void copy_rows(To& to, index_t to_row, const From& from, index_t from_row, index_t count) {
  const auto move_list = [&](auto& target, const auto& source) {
    std::copy_n(source.begin() + from_row, count, target.begin() + to_row);
  };
  move_list(to.positions, from.positions);
  move_list(to.key_positions, from.key_positions);
  to.keys.middleRows(to_row, count) = from.keys.middleRows(from_row, count);
  to.values.middleRows(to_row, count) = from.values.middleRows(from_row, count);
  to.bias.segment(to_row, count) = from.bias.segment(from_row, count);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// `layer` with every head as long as the longest, rounded up to a multiple of `multiple`.
///
/// Attention over a padded head is that over the head itself, for exp(−∞) = 0. Padding may cost
/// most of what compaction saves (with the published head budgets, more than half of the slots are
/// padding): where an engine can, keep heads ragged, or share positions (`shared_positions.hpp`).
///
/// multiple: ≥ 1, what a kernel wants lengths to divide by. memory: bytes, ≥ 0, that the result may
/// take (it decides what the call holds); none: as many as it takes. Errors: those of
/// `check_layer`; `invalid_option`; `memory_cap_exceeded` before anything is allocated;
/// `out_of_memory`. Cost: heads · length · (d_k + d_v + 5) numbers.
///
///     auto padded = kvfit::pad(cache.layers[3], 256);
///     if (!padded) return padded.error();
///     upload(padded->keys.data(), heads, padded->length, d_k);
[[nodiscard]] inline result<padded_layer> pad(const compacted_layer& layer, index_t multiple = 1,
                                              const std::optional<index_t>& memory = {}) {
  return detail::catch_bad_alloc("pad", [&]() -> result<padded_layer> {
    if (const auto ok = check_layer(layer); !ok) return ok.error();
    const auto length = detail::round_up(detail::longest_head(layer), multiple, "multiple");
    if (!length) return length.error();
    const auto heads = static_cast<index_t>(layer.heads.size());
    const index_t width = (std::max)(layer.keys.cols(), layer.values.cols());
    constexpr index_t most = (std::numeric_limits<index_t>::max)() / index_t{sizeof(index_t)};
    if (*length > most / heads / width) {
      return error{errc::out_of_memory, "pad", error::none, error::none,
                   "bytes of the rows exceed 63 bits"};
    }
    const index_t rows = heads * *length;
    const double bytes = float_bytes(rows, layer.keys.cols() + layer.values.cols() + 1) +
                         double_bytes(rows, 2) + double_bytes(heads) +
                         static_cast<double>(layer.heads.size() * sizeof(head_report));
    if (const auto ok = detail::check_result_bytes(bytes, memory); !ok) return ok.error();

    padded_layer padded;
    padded.number = layer.number;
    padded.length = *length;
    padded.positions.assign(static_cast<std::size_t>(rows), -1);
    padded.key_positions.assign(static_cast<std::size_t>(rows), 0);
    padded.keys = matrix::Zero(rows, layer.keys.cols());
    padded.values = matrix::Zero(rows, layer.values.cols());
    padded.bias = vector::Constant(rows, -std::numeric_limits<float>::infinity());
    padded.heads = layer.heads;
    for (std::size_t h = 0; h < layer.heads.size(); ++h) {
      padded.lengths.push_back(layer.rows(h));
      detail::copy_rows(padded, static_cast<index_t>(h) * *length, layer, layer.offsets[h],
                        layer.rows(h));
    }
    return padded;
  });
}

/// The ragged layer again: what `pad` made of it, without the padding, bit for bit.
///
/// Rows behind a head's own length are not used. Errors: `shape_mismatch` where the arrays are
/// not heads · length rows long, or a head is longer than that; those of `check_layer` for what is
/// left; `out_of_memory`. Cost: one copy.
[[nodiscard]] inline result<compacted_layer> unpad(const padded_layer& padded) {
  return detail::catch_bad_alloc("unpad", [&]() -> result<compacted_layer> {
    const auto heads = static_cast<index_t>(padded.heads.size());
    const auto mismatch = [](const char* part, index_t actual, index_t expected, const char* why) {
      return error{errc::shape_mismatch, part, actual, expected, why};
    };
    if (static_cast<index_t>(padded.lengths.size()) != heads) {
      return mismatch("lengths", static_cast<index_t>(padded.lengths.size()), heads, "one a head");
    }
    if (padded.length < 0 ||
        (heads > 0 && padded.length > (std::numeric_limits<index_t>::max)() / heads)) {
      return error{errc::invalid_option, "length", padded.length, error::none,
                   "must not be negative, and rows of all heads within 63 bits"};
    }
    const index_t rows = heads * padded.length;
    const std::pair<const char*, index_t> sizes[] = {
        {"keys", padded.keys.rows()},
        {"values", padded.values.rows()},
        {"bias", padded.bias.size()},
        {"positions", static_cast<index_t>(padded.positions.size())},
        {"key_positions", static_cast<index_t>(padded.key_positions.size())}};
    for (const auto& [part, size] : sizes) {
      if (size != rows) return mismatch(part, size, rows, "heads times length");
    }
    compacted_layer layer;
    layer.number = padded.number;
    layer.offsets.push_back(0);
    for (const index_t own : padded.lengths) {
      if (own < 0 || own > padded.length) {
        return mismatch("lengths", own, padded.length, "from 0 to the length of all");
      }
      layer.offsets.push_back(layer.offsets.back() + own);
    }
    const index_t kept = layer.offsets.back();
    layer.positions.resize(static_cast<std::size_t>(kept));
    layer.key_positions.resize(static_cast<std::size_t>(kept));
    layer.keys.resize(kept, padded.keys.cols());
    layer.values.resize(kept, padded.values.cols());
    layer.bias.resize(kept);
    layer.heads = padded.heads;
    for (std::size_t h = 0; h < padded.lengths.size(); ++h) {
      detail::copy_rows(layer, layer.offsets[h], padded, static_cast<index_t>(h) * padded.length,
                        padded.lengths[h]);
    }
    if (const auto ok = check_layer(layer); !ok) return ok.error();
    return layer;
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
