// SPDX-License-Identifier: MIT
/// A compact cache of many heads: ragged, each head as long as its own budget, without padding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/cache/heads.hpp"
#include "kvfit/compact/report.hpp"
#include "kvfit/core/error.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/matrix.hpp"

namespace kvfit {

/// How a head came by its rows.
enum class head_outcome : std::uint8_t {
  fitted,    ///< by the method asked for
  identity,  ///< its budget holds every row
  empty,     ///< its budget is 0
  fallback,  ///< the method failed with `head_report::cause`: rows copied, with their own biases
};

/// One head's part of the result: sizes, outcome and report.
struct head_report {
  head_id id;
  index_t rows_before = 0;  ///< T_h
  index_t rows = 0;         ///< t_h; a method may keep fewer rows than its budget
  head_outcome outcome = head_outcome::fitted;
  std::optional<error> cause = {};  ///< of a fallback
  compact_report report = {};       ///< of what is returned
};

/// The heads of one layer, one after the other: head h owns rows offsets[h] to offsets[h + 1] − 1
/// of every array, its positions ascending.
struct compacted_layer {
  index_t number = 0;
  std::vector<index_t> offsets;        ///< heads + 1, from 0; the last is Σ t_h
  std::vector<index_t> positions;      ///< Σ t_h original row numbers
  std::vector<index_t> key_positions;  ///< Σ t_h: where the keys stand, see `kv_block::position`
  matrix keys;                         ///< Σ t_h × d_k
  vector bias;                         ///< Σ t_h, natural log, finite
  matrix values;                       ///< Σ t_h × d_v
  std::vector<head_report> heads;      ///< one a head

  [[nodiscard]] index_t rows(std::size_t head) const noexcept {
    return offsets[head + 1] - offsets[head];
  }

  /// One head to attend over, by reference.
  [[nodiscard]] kv_block block(std::size_t head) const& noexcept {
    const auto first = static_cast<std::size_t>(offsets[head]);
    const auto count = static_cast<std::size_t>(rows(head));
    return {.keys = row_view(keys).middle_rows(offsets[head], rows(head)),
            .values = row_view(values).middle_rows(offsets[head], rows(head)),
            .bias = {bias.data() + first, count},
            .positions = std::span(key_positions).subspan(first, count)};
  }
  kv_block block(std::size_t head) const&& = delete;  // it would refer to what is gone
};

/// What `compact_cache()` returns.
struct compacted_cache {
  std::vector<compacted_layer> layers;  ///< those that were compacted, in the order of the view
  std::vector<index_t> skipped;  ///< numbers of layers left as they are: sliding, or to be skipped
  index_t rows_before = 0;       ///< of all heads compacted
  index_t rows = 0;              ///< Σ t_h
  index_t fallbacks = 0;         ///< heads whose method failed
};

}  // namespace kvfit
