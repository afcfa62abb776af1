// SPDX-License-Identifier: MIT
/// Rotary position embedding: rows of queries or keys moved to other positions.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "kvfit/attention/rope_scaling.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/core/workspace.hpp"

namespace kvfit {

/// Which two elements of a row turn together.
enum class rope_pairing : std::uint8_t {
  half_split,   ///< i and i + dims/2 (Hugging Face Llama, GPT-NeoX)
  interleaved,  ///< 2i and 2i + 1 (the RoPE paper, GPT-J, llama.cpp's "norm")
};

/// How an engine turned rows at position p: pair i by the angle p · θ_i, θ_i = base^(−2i / dims)
/// (Su et al. 2021, RoFormer, §3.2.2), where `scaling` makes no other θ_i of it. Rows keep their
/// lengths: a factor of attention that an engine multiplies keys by is not described.
struct rope {
  double base = 10000;
  index_t dims = 0;  ///< leading elements that turn; 0: all
  rope_pairing pairing = rope_pairing::half_split;
  any_rope_scaling scaling = {};
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// `invalid_option` where the base is not a finite number above 0 or the dims are odd, negative or
/// more than `width`, or where the scaling is outside its ranges.
inline result<void> check_rope(const rope& rotation, index_t width) {
  if (!(rotation.base > 0 && std::isfinite(rotation.base))) {
    return detail::refuse_number("rope.base", rotation.base, "must be finite and above 0");
  }
  const index_t dims = rotation.dims == 0 ? width : rotation.dims;
  if (dims < 0 || dims > width || dims % 2 != 0) {
    return error{errc::invalid_option, "rope.dims", dims, width,
                 "must be even, not negative and within a row"};
  }
  return detail::check_scaling(rotation.scaling, rotation.base, dims / 2);
}

/// θ of each pair, radians a position, for rows of `width` elements; `check_rope` must have passed.
inline std::vector<double> rope_frequencies(const rope& rotation, index_t width) {
  const index_t dims = rotation.dims == 0 ? width : rotation.dims;
  return detail::scaled_frequencies(rotation.scaling, rotation.base, dims / 2);
}

/// Angles of a rotation, one for each pair of elements that is turned.
struct rotation_angles {
  std::vector<float> cosine;
  std::vector<float> sine;

  void declare(workspace& space, index_t pairs) {
    space.reserve(cosine, pairs);
    space.reserve(sine, pairs);
  }
};

/// Turns rows by a number of positions. Angles are made once, in double: they are off by
/// some 2⁻⁵² · distance, which is less than a float tells up to distances of 2²⁸.
class row_rotation {
 public:
  /// By `distance` positions forward (back where negative), for rows of `width` elements;
  /// `check_rope` must have passed.
  row_rotation(const rope& rotation, index_t width, index_t distance)
      : row_rotation(rotation, width) {
    make_angles(rope_frequencies(rotation, width), distance);
  }

  /// One row, in place. No allocation.
  void turn(float* row) const noexcept {
    const bool is_split = pairing_ == rope_pairing::half_split;
    for (index_t i = 0; i < pairs_; ++i) {
      float& a = row[is_split ? i : 2 * i];
      float& b = row[is_split ? i + pairs_ : 2 * i + 1];
      const float c = angles_.cosine[static_cast<std::size_t>(i)];
      const float s = angles_.sine[static_cast<std::size_t>(i)];
      const float turned = a * c - b * s;
      b = a * s + b * c;
      a = turned;
    }
  }

 private:
  friend class row_turner;

  /// Without angles.
  row_rotation(const rope& rotation, index_t width)
      : pairing_(rotation.pairing), pairs_((rotation.dims == 0 ? width : rotation.dims) / 2) {}

  /// Keeps what memory there is: of the same number of pairs, no allocation after the first time.
  void make_angles(std::span<const double> frequencies, index_t distance) {
    angles_.cosine.clear();
    angles_.sine.clear();
    make_room(angles_, static_cast<index_t>(frequencies.size()));
    for (const double frequency : frequencies) {
      const double angle = static_cast<double>(distance) * frequency;
      angles_.cosine.push_back(static_cast<float>(std::cos(angle)));
      angles_.sine.push_back(static_cast<float>(std::sin(angle)));
    }
  }

  rope_pairing pairing_;
  index_t pairs_;
  rotation_angles angles_;
};

/// Turns rows one after the other, each by a number of positions of its own, as a `row_rotation` by
/// that number would. Rows of the same number that follow each other share their angles.
class row_turner {
 public:
  /// What one holds for rows of `width` elements.
  static void declare(workspace& space, index_t width) {
    const index_t pairs = (width + 1) / 2;
    space.count(double_bytes(pairs));  // frequencies
    rotation_angles().declare(space, pairs);
  }

  /// For rows of `width` elements; `check_rope` must have passed.
  row_turner(const rope& rotation, index_t width)
      : frequencies_(rope_frequencies(rotation, width)), by_(rotation, width) {
    by_.make_angles(frequencies_, distance_);
  }

  /// One row, in place, by `distance` positions forward. No allocation.
  void turn(float* row, index_t distance) {
    if (distance != distance_) by_.make_angles(frequencies_, distance);
    distance_ = distance;
    by_.turn(row);
  }

 private:
  std::vector<double> frequencies_;
  row_rotation by_;
  index_t distance_ = 0;  ///< of the angles that `by_` has
};

/// Turns row i of `rows` by distances[i] positions forward (back where negative).
///
/// rows: n × d, already rotated or plain. distances: n. Errors, with nothing written: those of
/// `check_rope`; `shape_mismatch` for another number of distances; `out_of_memory`. An element
/// that exceeds fp32 becomes infinite (`moved_keys` refuses it). Cost: one pass; angles are made
/// where the distance changes from one row to the next.
///
///     auto ok = kvfit::turn_rows(keys, llama, shifts);  // each key by its own shift
[[nodiscard]] inline result<void> turn_rows(matrix& rows, const rope& rotation,
                                            std::span<const index_t> distances) {
  if (const auto ok = check_rope(rotation, rows.cols()); !ok) return ok;
  if (static_cast<index_t>(distances.size()) != rows.rows()) {
    return error{errc::shape_mismatch, "distances", static_cast<index_t>(distances.size()),
                 rows.rows(), "one a row"};
  }
  return detail::catch_bad_alloc("turn_rows", [&]() -> result<void> {
    row_turner turner(rotation, rows.cols());
    for (index_t i = 0; i < rows.rows(); ++i) {
      turner.turn(rows.row(i).data(), distances[static_cast<std::size_t>(i)]);
    }
    return {};
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
