// SPDX-License-Identifier: MIT
/// Rotated keys moved to other positions: what was made at one place of a text, used at another.
#pragma once

#include <span>
#include <string>
#include <utility>

#include "kvfit/attention/rope.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/storage.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/view/check.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

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

/// The same of every row's own distance.
inline result<void> check_move(const rope& rotation, index_t width,
                               std::span<const index_t> distances, index_t rows) {
  if (static_cast<index_t>(distances.size()) != rows) {
    return error{errc::shape_mismatch, "distances", static_cast<index_t>(distances.size()), rows,
                 "one for each row of the keys"};
  }
  for (const index_t distance : distances) {
    if (const auto ok = check_distance(distance); !ok) return ok;
  }
  return check_rope(rotation, width);
}

/// One distance for all rows, or each row's own.
inline index_t distance_of_row(index_t distance, index_t) noexcept {
  return distance;
}
inline index_t distance_of_row(std::span<const index_t> distances, index_t row) noexcept {
  return distances[static_cast<std::size_t>(row)];
}

inline result<void> check_moves(const rope& rotation, const auto& keys, index_t distance) {
  return check_move(rotation, keys.cols(), distance);
}
inline result<void> check_moves(const rope& rotation, const auto& keys,
                                std::span<const index_t> distances) {
  return check_move(rotation, keys.cols(), distances, keys.rows());
}

/// Turns the rows of `keys` and rounds them.
template <class Distances>
result<void> turn_keys(matrix& keys, const rope& rotation, const Distances& distances,
                       dtype storage) {
  row_turner turner(rotation, keys.cols());
  for (index_t i = 0; i < keys.rows(); ++i) {
    turner.turn(keys.row(i).data(), distance_of_row(distances, i));
    const index_t at = first_non_finite(keys.row(i).data(), keys.cols());
    if (at < keys.cols()) return error{errc::storage_overflow, "keys", i, at, "exceeds fp32"};
  }
  return round_to_storage(keys, storage, "keys");
}

/// The same of anything that has keys and says where they stand; nothing is written on an error.
template <class Compact, class Distances>
result<void> move_compact(Compact& moved, const rope& rotation, const Distances& distances,
                          dtype storage) {
  if (const auto ok = check_moves(rotation, moved.keys, distances); !ok) return ok;
  if (static_cast<index_t>(moved.key_positions.size()) != moved.keys.rows()) {
    return error{errc::shape_mismatch, "key_positions",
                 static_cast<index_t>(moved.key_positions.size()), moved.keys.rows(),
                 "one for each row of the keys"};
  }
  if (!is_number(storage)) {
    return error{errc::invalid_option, "storage", error::none, error::none,
                 std::string(name(storage)) + " is no type of single numbers"};
  }
  return catch_bad_alloc("move_keys", [&]() -> result<void> {
    matrix keys = moved.keys;
    if (const auto ok = turn_keys(keys, rotation, distances, storage); !ok) return ok;
    moved.keys = std::move(keys);
    for (std::size_t row = 0; row < moved.key_positions.size(); ++row) {
      moved.key_positions[row] += distance_of_row(distances, static_cast<index_t>(row));
    }
    return {};
  });
}

template <class Distances>
result<matrix> moved_rows(const row_view& keys, const rope& rotation, const Distances& distances) {
  if (const auto ok = check_moves(rotation, keys, distances); !ok) return ok.error();
  return catch_bad_alloc("moved_keys", [&]() -> result<matrix> {
    if (const auto ok = check_view(keys, "keys"); !ok) return ok.error();
    matrix moved(keys.rows(), keys.cols());
    for (index_t i = 0; i < keys.rows(); ++i) load_row(keys, i, moved.row(i).data());
    if (const auto ok = turn_keys(moved, rotation, distances, dtype::fp32); !ok) return ok.error();
    return moved;
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

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
  return detail::moved_rows(keys, rotation, distance);
}

/// The same with a distance for each row: row i moves by distances[i].
///
/// distances: T. Errors besides: `shape_mismatch` for another number of them. Cost besides: angles
/// are made where the distance changes from one row to the next.
///
///     auto keys = kvfit::moved_keys(cached, llama, shifts);  // shifts[i] = new − old position
[[nodiscard]] inline result<matrix> moved_keys(const row_view& keys, const rope& rotation,
                                               std::span<const index_t> distances) {
  return detail::moved_rows(keys, rotation, distances);
}

/// Moves a compact block: its keys are turned, and `key_positions` are `distance` further on.
/// `positions`, the numbers of rows, stay. Keys that were fitted move as well as rows do, for
/// queries at the new place see them as the queries of the fit did.
/// Values stay: where they are columns of the keys (`compact_options::tied_values_from`), those
/// that turn would be tied no longer.
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

/// The same with a distance for each compact row: row j moves by distances[j], from
/// `key_positions[j]` to that many positions further on. `shape_mismatch` for another number of
/// distances than the block has rows.
[[nodiscard]] inline result<void> move_keys(compacted& block, const rope& rotation,
                                            std::span<const index_t> distances,
                                            dtype storage = dtype::fp32) {
  return detail::move_compact(block, rotation, distances, storage);
}

/// The same for all heads of a layer. Layers may have rotations of their own
/// (`cache_layer::rotation`); those of a cache are moved one by one.
[[nodiscard]] inline result<void> move_keys(compacted_layer& layer, const rope& rotation,
                                            index_t distance, dtype storage = dtype::fp32) {
  return detail::move_compact(layer, rotation, distance, storage);
}

/// The same with a distance for each of the layer's rows, counted through the heads.
[[nodiscard]] inline result<void> move_keys(compacted_layer& layer, const rope& rotation,
                                            std::span<const index_t> distances,
                                            dtype storage = dtype::fp32) {
  return detail::move_compact(layer, rotation, distances, storage);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
