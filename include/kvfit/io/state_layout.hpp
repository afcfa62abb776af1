// SPDX-License-Identifier: MIT
/// What a state file holds, and the sizes and numbers that its reader and its writer share
/// (docs/formats.md has the format, byte by byte).
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/element.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/io/attention_rule.hpp"

namespace kvfit {

static_assert(
    std::endian::native == std::endian::little,
    "state files are little-endian and read in place: big-endian hosts are not supported");

/// The version that is written; every version from 1 on is read.
inline constexpr std::uint32_t state_version = 3;

/// Most heads of all layers together: far above any model's, and what bounds the memory that a
/// hostile file of nothing but empty heads can ask for.
inline constexpr std::size_t max_state_heads = std::size_t{1} << 16U;

/// What a state keeps beside the cache.
struct state_info {
  /// The position at which decoding goes on, ≥ 0: a number of its own, which need not be that of
  /// the rows.
  index_t next_position = 0;
  dtype key_storage = dtype::fp32;    ///< of stored keys: fp32, fp16 or bf16
  dtype value_storage = dtype::fp32;  ///< of stored values
  /// How attention is computed, one a layer of the cache, in its order; empty: not said. A scale
  /// that is not given is written as 1/√d_k, so that read ones are always there.
  std::vector<attention_rule> rules = {};
  /// Of the model: any short text that tells it from others, say digits of a hash over its weights
  /// and configuration. Printable ASCII, ≤ `max_fingerprint` bytes; may be empty.
  std::string fingerprint = {};
};

/// A compact cache with its bookkeeping, as it was saved. Reports of the compaction
/// (`head_report::report`) are no state: those of a restored cache are empty.
struct cache_state {
  compacted_cache cache;
  state_info info;
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

inline constexpr std::array<char, 8> state_magic = {'k', 'v', 'f', 's', 't', 'a', 't', 'e'};
/// As a machine stores it tells which end comes first.
inline constexpr std::uint32_t state_endian_tag = 0x01020304U;
inline constexpr std::size_t state_checksum_bytes = 4;
inline constexpr index_t max_state_columns = 0x7FFFFFFF;
/// A head without a cause.
inline constexpr std::uint8_t state_no_cause = 0xFF;

/// The first 64 bytes.
struct state_header {
  std::array<char, 8> magic = state_magic;
  std::uint32_t endian_tag = state_endian_tag;
  std::uint32_t version = state_version;
  std::uint64_t length = 0;        ///< of all the file, checksum included
  std::int64_t next_position = 0;  ///< before version 3, the logical length
  std::uint64_t layers = 0;
  std::uint64_t skipped = 0;
  std::uint8_t key_storage = 0;
  std::uint8_t value_storage = 0;
  std::uint8_t fingerprint_bytes = 0;  ///< 0 before version 3
  std::uint8_t has_rules = 0;          ///< 1: every layer has a rule; 0 before version 3
  std::array<std::uint8_t, 12> zero = {};
};
static_assert(sizeof(state_header) == 64 && alignof(state_header) == 8);

/// Before each layer.
struct state_layer {
  std::int64_t number = 0;
  std::uint64_t heads = 0;
  std::uint64_t rows = 0;
  std::uint64_t key_columns = 0;
  std::uint64_t value_columns = 0;
};
static_assert(sizeof(state_layer) == 40);

/// The rule of a layer, behind its record, where the header says that there are rules.
struct state_rule {
  float scale = 0;
  float soft_cap = 0;
  std::int64_t window = 0;
  std::uint32_t sinks = 0;        ///< numbers of sinks that follow
  std::uint32_t slopes = 0;       ///< of slopes
  std::uint64_t frequencies = 0;  ///< of frequencies
  std::uint8_t causal = 0;
  std::uint8_t has_rotation = 0;  ///< 0: all below is 0
  std::uint8_t pairing = 0;       ///< `rope_pairing`
  std::uint8_t scaling = 0;       ///< `any_rope_scaling`, by its order
  std::uint8_t unrounded = 0;     ///< of YaRN
  std::array<std::uint8_t, 3> zero = {};
  double base = 0;
  std::int64_t dims = 0;
  /// linear: factor; yarn: factor, original positions, fast, slow; llama3: factor, original
  /// positions, low, high.
  std::array<double, 4> numbers = {};
};
static_assert(sizeof(state_rule) == 88);

/// Of each head, in version 1 and at the start of what version 2 has.
struct state_head_1 {
  std::uint64_t rows = 0;
  std::uint64_t rows_before = 0;
};
struct state_head_2 {
  std::uint64_t rows = 0;
  std::uint64_t rows_before = 0;
  std::uint8_t outcome = 0;
  std::uint8_t cause = state_no_cause;  ///< `errc`
  std::array<std::uint8_t, 6> zero = {};
  std::int64_t actual = 0;    ///< of the cause
  std::int64_t expected = 0;  ///< of the cause
  std::uint32_t argument_bytes = 0;
  std::uint32_t detail_bytes = 0;
};
static_assert(sizeof(state_head_1) == 16 && sizeof(state_head_2) == 48);

/// Types that keys and values may be stored in.
constexpr bool is_state_storage(dtype type) noexcept {
  return type == dtype::fp32 || type == dtype::fp16 || type == dtype::bf16;
}

/// Zeros that follow so many bytes up to the next multiple of 8.
constexpr std::size_t state_padding(std::uint64_t bytes) noexcept {
  return static_cast<std::size_t>((8 - bytes % 8) % 8);
}

}  // namespace io_detail

}  // namespace KVFIT_ISA
}  // namespace kvfit
