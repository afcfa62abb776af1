// SPDX-License-Identifier: MIT
/// Reads the state of a compact cache, from memory or from a file, trusting nothing in it
/// (docs/formats.md).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/attention_rule.hpp"
#include "kvfit/io/byte_source.hpp"
#include "kvfit/io/catch_exceptions.hpp"
#include "kvfit/io/expected_setup.hpp"
#include "kvfit/io/state_check.hpp"
#include "kvfit/io/state_contents.hpp"
#include "kvfit/io/state_layout.hpp"
#include "kvfit/io/state_parts.hpp"
#include "kvfit/io/state_rule.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// Makes a cache of the parts of a state.
template <class Source>
class state_reader {
 public:
  state_reader(Source source, std::uint64_t size, std::string_view name)
      : from_(source, size, name) {}

  result<cache_state> run() {
    if (auto ok = from_.take(header_); !ok) return ok.error();
    cache_state state;
    state.info.next_position = header_.next_position;
    state.info.key_storage = static_cast<dtype>(header_.key_storage);
    state.info.value_storage = static_cast<dtype>(header_.value_storage);
    if (!is_state_storage(state.info.key_storage) || !is_state_storage(state.info.value_storage)) {
      return error{errc::unsupported_file, std::string(from_.name()), error::none, error::none,
                   "keys or values of a type not handled here"};
    }
    for (const std::uint8_t byte : header_.zero) {
      if (byte != 0) return from_.refuse("header: the last 12 bytes must be 0");
    }
    if (header_.has_rules > (header_.layers == 0 ? 0 : 1)) {
      return from_.refuse("header: byte 51 must be 0, or 1 where there are layers");
    }
    if (header_.version < 3 && (header_.fingerprint_bytes != 0 || header_.has_rules != 0)) {
      return from_.refuse("header: the last 14 bytes must be 0");
    }
    if (auto ok = take_fingerprint(state.info.fingerprint); !ok) return ok.error();
    compacted_cache& cache = state.cache;
    if (auto ok = from_.take_list(header_.skipped, cache.skipped, "skipped layers"); !ok) {
      return ok.error();
    }
    if (!from_.may_hold(header_.layers, sizeof(state_layer))) return from_.too_many("layers");
    for (std::uint64_t l = 0; l < header_.layers; ++l) {
      compacted_layer layer;
      if (auto ok = take_layer(layer, state.info); !ok) return ok.error();
      cache.rows += layer.keys.rows();
      for (const head_report& head : layer.heads) {
        if (head.rows_before > (std::numeric_limits<index_t>::max)() - cache.rows_before) {
          return from_.refuse("rows before compaction exceed 63 bits");
        }
        cache.rows_before += head.rows_before;
        cache.fallbacks += head.outcome == head_outcome::fallback ? 1 : 0;
      }
      cache.layers.push_back(std::move(layer));
    }
    if (from_.left() != 0) {
      return from_.refuse(std::to_string(from_.left()) + " bytes behind the last layer");
    }
    if (const auto ok = check_length(cache); !ok) return ok.error();
    // The writer is the judge of what may be read.
    if (const auto ok = check_state(cache, state.info); !ok) {
      return from_.refuse(ok.error().message());
    }
    return state;
  }

 private:
  result<void> take_fingerprint(std::string& text) {
    if (!from_.may_hold(header_.fingerprint_bytes, 1)) return from_.too_many("fingerprint");
    text.resize(header_.fingerprint_bytes);
    if (auto ok = from_.take(text.data(), text.size()); !ok) return ok;
    return from_.take_padding(text.size());
  }

  /// Until version 3, rows were less than the logical length.
  result<void> check_length(const compacted_cache& cache) const {
    if (header_.version > 2) return {};
    for (const compacted_layer& layer : cache.layers) {
      for (const index_t position : layer.positions) {
        if (position < header_.next_position) continue;
        return from_.refuse("layer " + std::to_string(layer.number) + ": position " +
                            std::to_string(position) + " is not less than the logical length, " +
                            std::to_string(header_.next_position));
      }
    }
    return {};
  }

  result<void> take_numbers(std::uint64_t count, std::vector<float>& numbers, const char* what) {
    if (!from_.may_hold(count, sizeof(float))) return from_.too_many(what);
    numbers.resize(static_cast<std::size_t>(count));
    return from_.take(numbers.data(), count * sizeof(float));
  }

  result<void> take_rule(attention_rule& rule) {
    state_rule record;
    if (auto ok = from_.take(record); !ok) return ok;
    rule = rule_of(record);
    if (auto ok = take_numbers(record.sinks, rule.sink_logits, "sinks"); !ok) return ok;
    if (auto ok = take_numbers(record.slopes, rule.alibi_slopes, "slopes"); !ok) return ok;
    const std::uint64_t numbers = std::uint64_t{record.sinks} + std::uint64_t{record.slopes};
    if (auto ok = from_.take_padding(numbers * sizeof(float)); !ok) return ok;
    if (rule.rotation) {
      if (auto* own = std::get_if<rope_scaling::given>(&rule.rotation->scaling)) {
        if (!from_.may_hold(record.frequencies, sizeof(double))) {
          return from_.too_many("frequencies");
        }
        own->frequencies.resize(static_cast<std::size_t>(record.frequencies));
        const std::uint64_t bytes = record.frequencies * sizeof(double);
        if (auto ok = from_.take(own->frequencies.data(), bytes); !ok) return ok;
      }
    }
    if (is_same_record(record, record_of(rule, 1))) return {};
    return from_.refuse("a rule with bytes that mean nothing");
  }

  /// Heads without their texts; `texts` gets the bytes of argument and detail of each.
  result<void> take_heads(std::uint64_t count, compacted_layer& layer,
                          std::vector<std::array<std::uint32_t, 2>>& texts) {
    const bool is_first = header_.version == 1;
    if (count < 1) return from_.refuse("a layer without heads");
    if (!from_.may_hold(count, is_first ? sizeof(state_head_1) : sizeof(state_head_2))) {
      return from_.too_many("heads");
    }
    if (count > max_state_heads - heads_) {
      return from_.refuse("more heads than the limit of " + std::to_string(max_state_heads));
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
        if (auto ok = from_.take(old); !ok) return ok;
        record.rows = old.rows;
        record.rows_before = old.rows_before;
        record.outcome =
            static_cast<std::uint8_t>(old.rows == 0                 ? head_outcome::empty
                                      : old.rows == old.rows_before ? head_outcome::identity
                                                                    : head_outcome::fitted);
      } else if (auto ok = from_.take(record); !ok) {
        return ok;
      }
      // Far from where sums of them would overflow, and above what any file has space for.
      constexpr std::uint64_t most = std::uint64_t{1} << 60U;
      if (record.rows > most - static_cast<std::uint64_t>(layer.offsets.back()) ||
          record.rows_before > most) {
        return from_.refuse("head " + std::to_string(h) + " has more rows than any cache");
      }
      if (auto ok = check_head(record); !ok) return ok;
      head_report head;
      head.id = {layer.number, static_cast<index_t>(h)};
      head.rows = static_cast<index_t>(record.rows);
      head.rows_before = static_cast<index_t>(record.rows_before);
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
      return from_.refuse("a head with outcome " + std::to_string(record.outcome));
    }
    for (const std::uint8_t byte : record.zero) {
      if (byte != 0) return from_.refuse("bytes 18 to 23 of a head must be 0");
    }
    if (record.cause != state_no_cause) {
      if (is_errc(record.cause)) return {};
      return error{errc::unsupported_file, std::string(from_.name()), record.cause, error::none,
                   "a cause that this version does not know"};
    }
    if (record.actual == 0 && record.expected == 0 && record.argument_bytes == 0 &&
        record.detail_bytes == 0) {
      return {};
    }
    return from_.refuse("a head without a cause that has sizes or texts");
  }

  result<void> take_texts(compacted_layer& layer,
                          const std::vector<std::array<std::uint32_t, 2>>& texts) {
    std::uint64_t all = 0;
    for (std::size_t h = 0; h < texts.size(); ++h) {
      for (std::size_t part = 0; part < 2; ++part) {
        const std::uint64_t count = texts[h][part];
        if (count == 0) continue;
        if (!from_.may_hold(count, 1)) return from_.too_many("texts");
        error& cause = *layer.heads[h].cause;
        std::string& text = part == 0 ? cause.argument : cause.detail;
        text.resize(static_cast<std::size_t>(count));
        if (auto ok = from_.take(text.data(), count); !ok) return ok;
        all += count;
      }
    }
    return from_.take_padding(all);
  }

  result<void> take_layer(compacted_layer& layer, state_info& info) {
    state_layer record;
    if (auto ok = from_.take(record); !ok) return ok;
    layer.number = record.number;
    if (header_.has_rules != 0) {
      // One a layer; a layer has a head at least, whose record is longer than what this takes.
      info.rules.emplace_back();
      if (auto ok = take_rule(info.rules.back()); !ok) return ok;
    }
    {
      std::vector<std::array<std::uint32_t, 2>> texts;
      if (auto ok = take_heads(record.heads, layer, texts); !ok) return ok;
      if (auto ok = take_texts(layer, texts); !ok) return ok;
    }
    const std::uint64_t rows = record.rows;
    if (rows != static_cast<std::uint64_t>(layer.offsets.back())) {
      return from_.refuse("layer " + std::to_string(layer.number) + ": the rows of its heads are " +
                          std::to_string(layer.offsets.back()) + ", not " + std::to_string(rows));
    }
    if (auto ok = from_.take_list(rows, layer.positions, "positions"); !ok) return ok;
    if (header_.version == 1) {
      layer.key_positions = layer.positions;
    } else if (auto ok = from_.take_list(rows, layer.key_positions, "key positions"); !ok) {
      return ok;
    }
    if (!from_.may_hold(rows, sizeof(float))) return from_.too_many("biases");
    layer.bias.resize(static_cast<index_t>(rows));
    if (auto ok = from_.take(layer.bias.data(), rows * sizeof(float)); !ok) return ok;
    if (auto ok = from_.take_padding(rows * sizeof(float)); !ok) return ok;
    if (auto ok = from_.take_matrix(rows, record.key_columns, info.key_storage, layer.keys); !ok) {
      return ok;
    }
    return from_.take_matrix(rows, record.value_columns, info.value_storage, layer.values);
  }

  state_parts<Source> from_;
  std::uint64_t heads_ = 0;  // of the layers so far
  state_header header_;
};

/// A state that was read, against what is asked of it.
inline result<cache_state> checked_against(result<cache_state> read,
                                           const expected_setup& expected) {
  if (!read) return read;
  std::vector<said_of_layer> said;
  for (std::size_t l = 0; l < read->cache.layers.size(); ++l) {
    const compacted_layer& layer = read->cache.layers[l];
    said.push_back({layer.number, layer.keys.cols(),
                    read->info.rules.empty() ? nullptr : &read->info.rules[l]});
  }
  if (auto ok = check_against(read->info.fingerprint, said, expected); !ok) return ok.error();
  return read;
}

inline result<cache_state> read_state_file(const std::filesystem::path& path,
                                           const expected_setup& expected) {
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
  return checked_against(state_reader(stream_source(file->stream), size, name).run(), expected);
}

inline result<cache_state> read_state_bytes(std::span<const std::byte> bytes,
                                            const expected_setup& expected) {
  constexpr std::string_view name = "bytes";
  if (const auto ok = check_state_size(bytes.size(), name); !ok) return ok.error();
  state_header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (const auto ok = check_header(header, bytes.size(), name); !ok) return ok.error();
  if (const auto ok = check_sum(span_source(bytes), bytes.size(), name); !ok) return ok.error();
  return checked_against(state_reader(span_source(bytes), bytes.size(), name).run(), expected);
}

}  // namespace io_detail

/// Reads a state of any version from 1 to `state_version`. What `write_state` would refuse is
/// refused here too, and what does not agree with `expected`; by default nothing is asked. Saved
/// again, a state of the newest version has the same bytes.
///
/// A state of version 1 has neither key positions, which become the positions, nor outcomes: a head
/// without rows is `empty`, one with all of them `identity`, all others `fitted`. States of
/// versions 1 and 2 say neither rules nor a fingerprint; their logical length is the next position.
///
/// Errors: `file_unreadable`; `unsupported_file` for a newer version, a big-endian machine's, and
/// for what differs from `expected`, naming it with both values; `missing_entry` for what was asked
/// for and is not said; `malformed_file`, with what and where in `detail`; `out_of_memory`. The
/// checksum is checked before memory is asked for, and every size against what the file has left:
/// reading takes the memory of the cache it returns, at most twice the file and 1,000 bytes a head,
/// and 64 KB. Cost: the file is read twice.
[[nodiscard]] inline result<cache_state> read_state(const std::filesystem::path& path,
                                                    const expected_setup& expected = {}) {
  return io_detail::catch_exceptions(errc::file_unreadable,
                                     [&] { return io_detail::read_state_file(path, expected); });
}

/// The same from bytes in memory, which are copied.
[[nodiscard]] inline result<cache_state> read_state(std::span<const std::byte> bytes,
                                                    const expected_setup& expected = {}) {
  return io_detail::catch_exceptions(errc::file_unreadable,
                                     [&] { return io_detail::read_state_bytes(bytes, expected); });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
