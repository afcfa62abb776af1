// SPDX-License-Identifier: MIT
/// Further reference queries made of the given ones: moved to other positions, and perturbed.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "kvfit/attention/head_sizes.hpp"
#include "kvfit/attention/rope.hpp"
#include "kvfit/attention/scores.hpp"
#include "kvfit/attention/split.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/random.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/refine/refinement.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// A set of queries with the memory they lie in: moved, never copied, since its views point into
/// it.
struct made_queries {
  made_queries() = default;
  made_queries(made_queries&&) = default;
  made_queries& operator=(made_queries&&) = default;
  made_queries(const made_queries&) = delete;
  made_queries& operator=(const made_queries&) = delete;
  ~made_queries() = default;

  query_part part;
  std::vector<matrix> rows;  ///< a block each

  void declare(workspace& space, index_t blocks) {
    space.reserve(part.blocks, blocks);
    space.reserve(part.masks, blocks);
    space.reserve(rows, blocks);
  }
};

/// Reference queries beside the given ones, with their full attention.
struct scored_set {
  made_queries queries;
  attention_scores scores;
};

/// Set number `which` (0, 1, …) of those `settings` describe, from `given`: as many blocks of as
/// many rows, at the same positions, under the same masks.
///
/// With a rotation, row i of a block takes the content of row i + s, s drawn once a block, turned
/// to its own position: what the text asks for there might be asked for here. Odd sets (without a
/// rotation: all) are perturbed besides, each row by g · (a − b) with two rows a and b drawn from
/// the block as it was before and a Gaussian g of standard deviation `spread`: noise in the
/// directions in which queries differ, of covariance 2 spread² times theirs. The same bytes for the
/// same seed. Cost n · d, and a rotation made for every row that stands at no even distance;
/// allocates the n × d floats (`declare_query_set`).
inline made_queries make_query_set(const query_part& given, const refinement& settings, int which) {
  made_queries made;
  make_room(made, static_cast<index_t>(given.blocks.size()));
  made.part.masks = given.masks;
  // Mixed once more: the draws of one seed must not be those of another, some places on.
  random_source random(random_source(settings.seed).next() + static_cast<std::uint64_t>(which));
  const auto below = [&random](index_t bound) {
    return static_cast<index_t>(random.below(static_cast<std::uint64_t>(bound)));
  };
  for (const query_block& block : given.blocks) {
    const index_t n = block.rows.rows();
    const index_t depth = block.rows.cols();
    matrix content(n, depth);
    const index_t shift = settings.rotation && n > 1 ? 1 + below(n - 1) : 0;
    for (index_t i = 0; i < n; ++i)
      load_row(block.rows, (i + shift) % n, content.data() + i * depth);
    if (shift > 0) {
      // Of rows at even distances, those that wrapped around come from as far before as each other,
      // the rest from as far behind: two rotations in all, one after the other.
      row_turner turner(*settings.rotation, depth);
      for (index_t i = 0; i < n; ++i) {
        const index_t distance = block.position(i) - block.position((i + shift) % n);
        turner.turn(content.data() + i * depth, distance);
      }
    }
    matrix rows = content;
    if (which % 2 == 1 || !settings.rotation) {
      for (index_t i = 0; i < n; ++i) {
        double gaussian = -6;  // the sum of twelve uniforms: the same bits on every machine
        for (int k = 0; k < 12; ++k) gaussian += random.uniform();
        const auto factor = static_cast<float>(gaussian * settings.spread);
        const index_t a = below(n);
        const index_t b = below(n);
        float* const row = rows.data() + i * depth;
        for (index_t k = 0; k < depth; ++k) row[k] += factor * (content(a, k) - content(b, k));
      }
    }
    made.rows.push_back(std::move(rows));
    query_block moved = block;
    moved.rows = made.rows.back();  // its elements stay where they are when the matrix moves
    made.part.blocks.push_back(moved);
  }
  return made;
}

/// What a set of made queries holds, and what its making does.
inline void declare_query_set(workspace& space, const head_sizes& sizes) {
  made_queries().declare(space, sizes.blocks);
  row_turner::declare(space, sizes.depth);
  space.count(float_bytes(sizes.queries + sizes.largest_block, sizes.depth));
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
