// SPDX-License-Identifier: MIT
/// Rotated keys moved to other positions: what was made at one place of a text, used at another.
#pragma once

#include <string>
#include <utility>

#include "kvfit/attention/rope.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/storage.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/guarded.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/view/check.hpp"

namespace kvfit::detail::inline KVFIT_ISA {

/// Positions stay within ±2⁵³, as `check_positions` wants them.
inline result<void> check_distance(index_t distance) {
  constexpr index_t largest = index_t{1} << 53U;
  if (distance < -largest || distance > largest) {
    return error{errc::invalid_option, "distance", distance, largest, "exceeds 53 bits"};
  }
  return {};
}

inline result<void> check_move(const rope& rotation, index_t width, index_t distance) {
  if (const auto ok = check_distance(distance); !ok) return ok;
  return check_rope(rotation, width);
}

/// Turns the rows of `keys` and rounds them.
inline result<void> turn_keys(matrix& keys, const rope& rotation, index_t distance, dtype storage) {
  const row_rotation turning(rotation, keys.cols(), distance);
  for (index_t i = 0; i < keys.rows(); ++i) {
    turning.turn(keys.row(i).data());
    const index_t at = first_non_finite(keys.row(i).data(), keys.cols());
    if (at < keys.cols()) return error{errc::storage_overflow, "keys", i, at, "exceeds fp32"};
  }
  return round_to_storage(keys, storage, "keys");
}

/// The same of anything that has keys and says where they stand; nothing is written on an error.
template <class Compact>
result<void> move_compact(Compact& moved, const rope& rotation, index_t distance, dtype storage) {
  if (const auto ok = check_move(rotation, moved.keys.cols(), distance); !ok) return ok;
  if (!is_number(storage)) {
    return error{errc::invalid_option, "storage", error::none, error::none,
                 std::string(name(storage)) + " is no type of single numbers"};
  }
  return guard_memory("move_keys", [&]() -> result<void> {
    matrix keys = moved.keys;
    if (const auto ok = turn_keys(keys, rotation, distance, storage); !ok) return ok;
    moved.keys = std::move(keys);
    for (index_t& position : moved.key_positions) position += distance;
    return {};
  });
}

}  // namespace kvfit::detail::inline KVFIT_ISA

namespace kvfit::inline KVFIT_ISA {

/// Keys as they would be had their text stood `distance` positions further on (or back, where it is
/// negative): pair i of every row is turned by distance · θ_i. RoPE turns by p · θ_i at position p,
/// and turns add up, so that this equals a prefill at the other position, but for rounding.
///
/// keys: T × d_k, already rotated, of any layout and type. Lengths of rows stay: a factor of
/// attention (YaRN's), once in the keys, is in the result once. An engine that makes its angles in
/// fp32 itself is off by some 6e-8 · position radians, and so differs from this by as much.
/// Errors: those of `check_rope`; of `check_view`; `invalid_option` for a distance beyond 53 bits;
/// `storage_overflow` where a turned number exceeds fp32; `out_of_memory`. Cost: one read of the
/// keys; allocates the result.
[[nodiscard]] inline result<matrix> moved_keys(const row_view& keys, const rope& rotation,
                                               index_t distance) {
  if (const auto ok = detail::check_move(rotation, keys.cols(), distance); !ok) return ok.error();
  return detail::guard_memory("moved_keys", [&]() -> result<matrix> {
    if (const auto ok = check_view(keys, "keys"); !ok) return ok.error();
    matrix moved(keys.rows(), keys.cols());
    for (index_t i = 0; i < keys.rows(); ++i) load_row(keys, i, moved.row(i).data());
    if (const auto ok = detail::turn_keys(moved, rotation, distance, dtype::fp32); !ok) {
      return ok.error();
    }
    return moved;
  });
}

/// Moves a compact block: its keys are turned, and `key_positions` are `distance` further on.
/// `positions`, the numbers of rows, stay. Keys that were fitted move as well as rows do, for
/// queries at the new place see them as the queries of the fit did.
/// Values stay: where they are columns of the keys (`compaction::tied_values_from`), those that
/// turn would be tied no longer.
///
/// storage: what the turned keys are rounded to, a type of single numbers: that of the block's
/// `compact_options`. Errors: as of `moved_keys`. Nothing is written on an error. Cost: one pass
/// over the keys; allocates them once.
///
///     auto ok = kvfit::move_keys(*fitted, {.base = 500000}, chunk_start, kvfit::dtype::fp16);
[[nodiscard]] inline result<void> move_keys(compacted& block, const rope& rotation,
                                            index_t distance, dtype storage = dtype::fp32) {
  return detail::move_compact(block, rotation, distance, storage);
}

/// The same for all heads of a layer. Layers may have rotations of their own
/// (`cache_layer::rotation`); those of a cache are moved one by one.
[[nodiscard]] inline result<void> move_keys(compacted_layer& layer, const rope& rotation,
                                            index_t distance, dtype storage = dtype::fp32) {
  return detail::move_compact(layer, rotation, distance, storage);
}

}  // namespace kvfit::inline KVFIT_ISA
