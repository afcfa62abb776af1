// SPDX-License-Identifier: MIT
/// Arguments of the kernels of greedy selections: orthogonal matching pursuit and joint selection.
#pragma once

#include "language.h"

namespace kvfit {
namespace kernels {

KVFIT_CONSTANT int keys_per_group = 16;  ///< of `correlate` and `joint_update`: four a simdgroup

/// Bits of `correlation_arguments::flags`.
KVFIT_CONSTANT uint32_t correlation_absolute = 1;  ///< rank by |c_j|
KVFIT_CONSTANT uint32_t correlation_divisors = 2;  ///< rank by c_j / divisor_j
KVFIT_CONSTANT uint32_t correlation_open = 4;      ///< keys whose byte is 0 score −∞
KVFIT_CONSTANT uint32_t correlation_rows = 8;      ///< result k is that of column rows[k]

/// `correlate`: c_j = Σ_i residual_i Φ_ij for columns that lie a column a row, and the score that
/// keys are ranked by. The grid is (tiles of `keys_per_group` keys, heads).
struct correlation_arguments {
  int64_t column_offset;
  int64_t column_stride;  ///< column j's number of query i at + j · column_stride + i
  int64_t residual_offset;
  int64_t key_offset;  ///< of what there is one of a key: divisor, open, correlation, score
  int64_t rows_offset;
  int32_t keys;
  int32_t queries;
  uint32_t flags;
  int32_t unused;
};
static_assert(sizeof(correlation_arguments) == 56, "host and shader must agree");
KVFIT_CONSTANT int correlation_buffer_columns = 0;
KVFIT_CONSTANT int correlation_buffer_residual = 1;
KVFIT_CONSTANT int correlation_buffer_divisors = 2;
KVFIT_CONSTANT int correlation_buffer_open = 3;
KVFIT_CONSTANT int correlation_buffer_rows = 4;
KVFIT_CONSTANT int correlation_buffer_correlations = 5;
KVFIT_CONSTANT int correlation_buffer_scores = 6;
KVFIT_CONSTANT int correlation_buffer_arguments = 7;

/// A key and its score; row −1 and score −∞ for none.
struct ranked_key {
  float score;
  int32_t row;
};
static_assert(sizeof(ranked_key) == 8, "host and shader must agree");

/// Bits of `best_arguments::flags`.
KVFIT_CONSTANT uint32_t best_close = 1;  ///< the open bytes of the best become 0 (one part alone)

/// `best_rows` and `best_of_parts`: the `count` best of each part, best first; ties go to the lower
/// row. Scores of −∞ and NaN are none. The grid is (parts, heads).
struct best_arguments {
  int64_t candidate_offset;  ///< of scores, or of ranked keys
  int64_t best_offset;       ///< of part 0: the k-th best of part p at + p · count + k
  int64_t open_offset;
  int32_t candidates;
  int32_t candidates_per_part;
  int32_t count;
  uint32_t flags;
};
static_assert(sizeof(best_arguments) == 40, "host and shader must agree");
KVFIT_CONSTANT int best_buffer_candidates = 0;
KVFIT_CONSTANT int best_buffer_best = 1;
KVFIT_CONSTANT int best_buffer_open = 2;
KVFIT_CONSTANT int best_buffer_arguments = 3;

/// `joint_update`: what a pick from slot `slot` leaves of every key j, for S slots of promising
/// keys (`detail::joint_search::take_out`), in this order:
///
///     z = P_j,slot · scale,   h = H_j,slot · scale,   waiting_j,pending = z
///     score_j = max(0, score_j + z (z · squares − 2 h)),   left_j = left_j − z²
///     P_j = P_j − z · along,   H_j = H_j − z · change − h · along
///
/// P and H are T × S, S ≤ 32. Then the gain score_j / left_j of open keys with left_j above
/// `dependent` · norm_j, 0 of others. The grid is (tiles of `keys_per_group` keys, heads).
struct joint_arguments {
  int64_t product_offset;  ///< of P and H
  int64_t waiting_offset;
  int64_t key_offset;   ///< of score, left, norm, open and gain
  int64_t slot_offset;  ///< of along and change
  int64_t waiting_stride;
  int32_t keys;
  int32_t slots;  ///< S
  int32_t slot;   ///< −1: nothing is taken out, gains are made
  int32_t pending;
  float scale;
  float squares;
  float dependent;
  int32_t unused;
};
static_assert(sizeof(joint_arguments) == 72, "host and shader must agree");
KVFIT_CONSTANT int joint_buffer_products = 0;
KVFIT_CONSTANT int joint_buffer_shared = 1;
KVFIT_CONSTANT int joint_buffer_waiting = 2;
KVFIT_CONSTANT int joint_buffer_scores = 3;
KVFIT_CONSTANT int joint_buffer_left = 4;
KVFIT_CONSTANT int joint_buffer_norms = 5;
KVFIT_CONSTANT int joint_buffer_open = 6;
KVFIT_CONSTANT int joint_buffer_along = 7;
KVFIT_CONSTANT int joint_buffer_change = 8;
KVFIT_CONSTANT int joint_buffer_gains = 9;
KVFIT_CONSTANT int joint_buffer_arguments = 10;

/// `squared_lengths`: score_j = ‖G_j‖² of the T rows of a matrix; the same grid.
struct length_arguments {
  int64_t row_offset;
  int64_t row_stride;
  int64_t length_offset;
  int32_t rows;
  int32_t cols;
};
static_assert(sizeof(length_arguments) == 32, "host and shader must agree");
KVFIT_CONSTANT int length_buffer_rows = 0;
KVFIT_CONSTANT int length_buffer_lengths = 1;
KVFIT_CONSTANT int length_buffer_arguments = 2;

}  // namespace kernels
}  // namespace kvfit
