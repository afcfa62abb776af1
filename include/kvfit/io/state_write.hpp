// SPDX-License-Identifier: MIT
/// Writes the state of a compact cache, to memory or to a file (docs/formats.md).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "kvfit/cache/check_layer.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/attention_rule.hpp"
#include "kvfit/io/catch_exceptions.hpp"
#include "kvfit/io/crc32c.hpp"
#include "kvfit/io/expected_setup.hpp"
#include "kvfit/io/replace_file.hpp"
#include "kvfit/io/state_contents.hpp"
#include "kvfit/io/state_layout.hpp"
#include "kvfit/io/state_rule.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// Hands the parts of a state to a sink, one after the other, and adds up their checksum. After the
/// first failure nothing more is handed over.
class state_writer {
 public:
  explicit state_writer(const byte_sink& sink) : sink_(sink) {}

  void put(std::span<const std::byte> piece) {
    if (!done_ || piece.empty()) return;
    sum_.add(piece);
    written_ += piece.size();
    done_ = sink_(piece);
  }
  template <class T>
  void put_record(const T& record) {
    put(std::as_bytes(std::span(&record, 1)));
  }
  template <class T>
  void put_all(const T* numbers, std::size_t count) {
    put(std::as_bytes(std::span(numbers, count)));
  }
  void pad() {
    constexpr std::array<std::byte, 8> zeros{};
    put(std::span(zeros).first(state_padding(written_)));
  }

  /// `numbers` in the type they are stored in.
  void put_numbers(const matrix& numbers, dtype storage, const std::string& argument) {
    if (storage == dtype::fp32) {
      put_all(numbers.data(), static_cast<std::size_t>(numbers.size()));
    } else {
      put_halves(numbers, storage, argument);
    }
    pad();
  }

  [[nodiscard]] result<void> finish() {
    put_record(sum_.value());
    return done_;
  }

 private:
  void put_halves(const matrix& numbers, dtype storage, const std::string& argument) {
    std::array<std::uint16_t, 4096> buffer;  // NOLINT(*-member-init)
    const index_t cols = numbers.cols();
    std::size_t filled = 0;
    for (index_t at = 0; at < numbers.size() && done_; ++at) {
      const float x = numbers.data()[at];
      if (!kvfit::detail::is_finite(as_stored(x, storage))) {
        done_ = error{errc::storage_overflow, argument, at / cols, at % cols,
                      "exceeds " + std::string(name(storage))};
        return;
      }
      buffer[filled++] = storage == dtype::fp16 ? to_fp16(x).bits : to_bf16(x).bits;
      if (filled < buffer.size()) continue;
      put_all(buffer.data(), filled);
      filled = 0;
    }
    put_all(buffer.data(), filled);
  }

  const byte_sink& sink_;
  crc32c sum_;
  std::uint64_t written_ = 0;
  result<void> done_;
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

inline void put_rule(state_writer& out, const attention_rule& rule, index_t depth) {
  out.put_record(record_of(rule, depth));
  out.put_all(rule.sink_logits.data(), rule.sink_logits.size());
  out.put_all(rule.alibi_slopes.data(), rule.alibi_slopes.size());
  out.pad();
  if (!rule.rotation) return;
  if (const auto* own = std::get_if<rope_scaling::given>(&rule.rotation->scaling)) {
    out.put_all(own->frequencies.data(), own->frequencies.size());
  }
}

/// `rule`: null where the state has none.
inline void put_layer(state_writer& out, const compacted_layer& layer, const state_info& info,
                      const attention_rule* rule) {
  using kvfit::detail::part_of;
  out.put_record(state_layer{layer.number, layer.heads.size(),
                             static_cast<std::uint64_t>(layer.keys.rows()),
                             static_cast<std::uint64_t>(layer.keys.cols()),
                             static_cast<std::uint64_t>(layer.values.cols())});
  if (rule != nullptr) put_rule(out, *rule, layer.keys.cols());
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
    out.put_record(record);
  }
  for (const head_report& head : layer.heads) {
    if (!head.cause) continue;
    out.put_all(head.cause->argument.data(), head.cause->argument.size());
    out.put_all(head.cause->detail.data(), head.cause->detail.size());
  }
  out.pad();
  out.put_all(layer.positions.data(), layer.positions.size());
  out.put_all(layer.key_positions.data(), layer.key_positions.size());
  out.put_all(layer.bias.data(), static_cast<std::size_t>(layer.bias.size()));
  out.pad();
  out.put_numbers(layer.keys, info.key_storage, part_of(layer, "keys"));
  out.put_numbers(layer.values, info.value_storage, part_of(layer, "values"));
}

inline std::uint64_t state_length(const compacted_cache& cache, const state_info& info) {
  std::uint64_t length = sizeof(state_header) + 8 * cache.skipped.size() + state_checksum_bytes;
  for (const compacted_layer& layer : cache.layers) length += state_bytes_of(layer, info);
  for (const attention_rule& rule : info.rules) length += state_bytes_of(rule);
  return length + info.fingerprint.size() + state_padding(info.fingerprint.size());
}

/// Hands the bytes of a state that was checked to `sink`.
inline result<void> put_state(const compacted_cache& cache, const state_info& info,
                              const byte_sink& sink) {
  state_header header;
  header.length = state_length(cache, info);
  header.next_position = info.next_position;
  header.layers = cache.layers.size();
  header.skipped = cache.skipped.size();
  header.key_storage = static_cast<std::uint8_t>(info.key_storage);
  header.value_storage = static_cast<std::uint8_t>(info.value_storage);
  header.fingerprint_bytes = static_cast<std::uint8_t>(info.fingerprint.size());
  header.has_rules = info.rules.empty() ? 0 : 1;
  state_writer out(sink);
  out.put_record(header);
  out.put_all(info.fingerprint.data(), info.fingerprint.size());
  out.pad();
  out.put_all(cache.skipped.data(), cache.skipped.size());
  for (std::size_t l = 0; l < cache.layers.size(); ++l) {
    put_layer(out, cache.layers[l], info, info.rules.empty() ? nullptr : &info.rules[l]);
  }
  return out.finish();
}

}  // namespace io_detail

/// The state of `cache` as bytes, in version `state_version`. The same cache gives the same bytes.
///
/// Keys and values are rounded to the types of `info`; give those that `compact_options::storage`
/// was, and nothing is lost. Errors: those of `check_layer`, `check_rule` and `check_rope`;
/// `invalid_option` (layers or skipped ones out of order, storage other than fp32, fp16 or bf16,
/// heads in the wrong place, a fingerprint outside its bounds); `invalid_position` beyond 53 bits;
/// `shape_mismatch` where reports, totals and arrays disagree, or rules and layers;
/// `storage_overflow` with row and column; `out_of_memory`. Cost: the state's length.
[[nodiscard]] inline result<std::vector<std::byte>> write_state(const compacted_cache& cache,
                                                                const state_info& info) {
  return io_detail::catch_exceptions(
      errc::file_unwritable, [&]() -> result<std::vector<std::byte>> {
        if (const auto ok = io_detail::check_state(cache, info); !ok) return ok.error();
        std::vector<std::byte> bytes;
        bytes.reserve(static_cast<std::size_t>(io_detail::state_length(cache, info)));
        const auto append = [&](std::span<const std::byte> piece) -> result<void> {
          bytes.insert(bytes.end(), piece.begin(), piece.end());
          return {};
        };
        if (const auto ok = io_detail::put_state(cache, info, append); !ok) return ok.error();
        return bytes;
      });
}

/// The same to a file, whole or not at all (`replace_file.hpp` says how). Errors besides, which
/// leave what was there before: `file_unwritable`. Cost: no memory beside 8 KB.
[[nodiscard]] inline result<void> write_state(const std::filesystem::path& path,
                                              const compacted_cache& cache,
                                              const state_info& info) {
  return io_detail::catch_exceptions(errc::file_unwritable, [&]() -> result<void> {
    if (const auto ok = io_detail::check_state(cache, info); !ok) return ok;
    return io_detail::replace_file_by(path, [&](const io_detail::byte_sink& sink) {
      return io_detail::put_state(cache, info, sink);
    });
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
