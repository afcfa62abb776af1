// SPDX-License-Identifier: MIT
/// Rotated keys moved to other positions: what was made at one place of a text, used at another.
#pragma once

#include <concepts>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/attention/rope.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/storage.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/view/check.hpp"

namespace kvfit {

/// How many positions rows of keys move by: all by one distance, or each by its own of a list,
/// which must outlive this.
class row_distances {
 public:
  row_distances(index_t of_all) : of_all_(of_all) {}  // NOLINT(*-explicit-*)
  template <class List>
  requires std::convertible_to<const List&, std::span<const index_t>> row_distances(
      const List& each)
      : each_(each) {}  // NOLINT(*-explicit-*)

  [[nodiscard]] index_t operator[](index_t row) const noexcept {
    return of_all_ ? *of_all_ : each_[static_cast<std::size_t>(row)];
  }
  /// How many rows can move; none says that any number can.
  [[nodiscard]] std::optional<index_t> rows() const noexcept {
    if (of_all_) return std::nullopt;
    return static_cast<index_t>(each_.size());
  }

 private:
  std::optional<index_t> of_all_;
  std::span<const index_t> each_;
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Refuses moves of `rows` rows of `width` columns. Positions stay within ±2⁵³, as
/// `check_positions` wants them.
inline result<void> check_move(const rope& rotation, index_t rows, index_t width,
                               const row_distances& distances) {
  const index_t count = distances.rows().value_or(rows);
  if (count != rows) {
    return error{errc::shape_mismatch, "distances", count, rows, "one for each row of the keys"};
  }
  constexpr index_t largest = index_t{1} << 53U;
  const index_t looked_at = distances.rows().value_or(1);
  for (index_t i = 0; i < looked_at; ++i) {
    if (distances[i] >= -largest && distances[i] <= largest) continue;
    return error{errc::invalid_option, "distance", distances[i], largest, "exceeds 53 bits"};
  }
  return check_rope(rotation, width);
}

/// Turns the rows of `keys` and rounds them.
inline result<void> turn_keys(matrix& keys, const rope& rotation, const row_distances& distances,
                              dtype storage) {
  row_turner turner(rotation, keys.cols());
  for (index_t i = 0; i < keys.rows(); ++i) {
    turner.turn(keys.row(i).data(), distances[i]);
    const index_t at = first_non_finite(keys.row(i).data(), keys.cols());
    if (at < keys.cols()) return error{errc::storage_overflow, "keys", i, at, "exceeds fp32"};
  }
  return round_to_storage(keys, storage, "keys");
}

/// Moves keys and where they stand; nothing is written on an error.
inline result<void> move_rows(matrix& keys, std::vector<index_t>& key_positions,
                              const rope& rotation, const row_distances& distances, dtype storage) {
  if (const auto ok = check_move(rotation, keys.rows(), keys.cols(), distances); !ok) return ok;
  if (static_cast<index_t>(key_positions.size()) != keys.rows()) {
    return error{errc::shape_mismatch, "key_positions", static_cast<index_t>(key_positions.size()),
                 keys.rows(), "one for each row of the keys"};
  }
  if (!is_number(storage)) {
    return error{errc::invalid_option, "storage", error::none, error::none,
                 std::string(name(storage)) + " is no type of single numbers"};
  }
  return catch_bad_alloc("move_keys", [&]() -> result<void> {
    matrix moved = keys;
    if (const auto ok = turn_keys(moved, rotation, distances, storage); !ok) return ok;
    keys = std::move(moved);
    for (index_t row = 0; row < keys.rows(); ++row) {
      key_positions[static_cast<std::size_t>(row)] += distances[row];
    }
    return {};
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// Keys as they would be had their text stood `distances` positions further on (or back, where they
/// are negative): pair i of a row is turned by its distance · θ_i. RoPE turns by p · θ_i at
/// position p, and turns add up, so that this equals a prefill at the other position, but for
/// rounding.
///
/// keys: T × d_k, already rotated, of any layout and type. distances: one, or T. Lengths of rows
/// stay: a factor of attention (YaRN's), once in the keys, is in the result once. An engine that
/// makes its angles in fp32 itself is off by some 6e-8 · position radians, and so differs from this
/// by as much.
/// Errors: those of `check_rope`; of `check_view`; `shape_mismatch` for another number of
/// distances; `invalid_option` for one beyond 53 bits; `storage_overflow` where a turned number
/// exceeds fp32; `out_of_memory`. Cost: one read of the keys, and angles wherever the distance
/// changes from one row to the next; allocates the result.
///
///     auto keys = kvfit::moved_keys(cached, llama, shifts);  // shifts[i] = new − old position
[[nodiscard]] inline result<matrix> moved_keys(const row_view& keys, const rope& rotation,
                                               const row_distances& distances) {
  if (const auto ok = detail::check_move(rotation, keys.rows(), keys.cols(), distances); !ok) {
    return ok.error();
  }
  return detail::catch_bad_alloc("moved_keys", [&]() -> result<matrix> {
    if (const auto ok = check_view(keys, "keys"); !ok) return ok.error();
    matrix moved(keys.rows(), keys.cols());
    for (index_t i = 0; i < keys.rows(); ++i) load_row(keys, i, moved.row(i).data());
    const auto ok = detail::turn_keys(moved, rotation, distances, dtype::fp32);
    if (!ok) return ok.error();
    return moved;
  });
}

/// Moves a compact block: its keys are turned, and `key_positions` are their distances further on.
/// `positions`, the numbers of rows, stay. Keys that were fitted move as well as rows do, for
/// queries at the new place see them as the queries of the fit did.
/// Values stay: where they are columns of the keys (`compact_options::tied_values_from`), those
/// that turn would be tied no longer.
///
/// distances: one, or one for each compact row. storage: what the turned keys are rounded to, a
/// type of single numbers: that of the block's `compact_options`. Errors: as of `moved_keys`;
/// `shape_mismatch` where the block has not a position for each key. Nothing is written on an
/// error. Cost: one pass over the keys; allocates them once.
///
///     auto ok = kvfit::move_keys(*fitted, {.base = 500000}, chunk_start, kvfit::dtype::fp16);
[[nodiscard]] inline result<void> move_keys(compacted& block, const rope& rotation,
                                            const row_distances& distances,
                                            dtype storage = dtype::fp32) {
  return detail::move_rows(block.keys, block.key_positions, rotation, distances, storage);
}

/// The same for all heads of a layer; distances of rows are counted through the heads. Layers may
/// have rotations of their own (`cache_layer::rotation`); those of a cache are moved one by one.
[[nodiscard]] inline result<void> move_keys(compacted_layer& layer, const rope& rotation,
                                            const row_distances& distances,
                                            dtype storage = dtype::fp32) {
  return detail::move_rows(layer.keys, layer.key_positions, rotation, distances, storage);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
