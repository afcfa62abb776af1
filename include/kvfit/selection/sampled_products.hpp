// SPDX-License-Identifier: MIT
/// Products with the columns of all keys, estimated from some of the queries.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "kvfit/attention/split.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/selection/mass_columns.hpp"
#include "kvfit/selection/problem.hpp"
#include "kvfit/simd/accumulate.hpp"
#include "kvfit/simd/dot.hpp"
#include "kvfit/simd/product.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Of every block of queries each s-th is sampled: about 256 of all or a quarter, whichever is
/// more.
inline index_t sampling_step(index_t queries) noexcept {
  return std::clamp<index_t>(queries / 256, 1, 4);
}

/// Σ_{i sampled} of_ic Φ_ij for all keys j and the columns c of `of` (n × m); and, where asked for,
/// Σ_{i sampled} Φ_ij². Φ as `mass_columns` has it.
struct sampled_products {
  matrix products;  ///< T × m
  vector norm_sq;   ///< T, or empty
};

/// Some of the queries of a problem, with what was scored of them.
struct sampled_queries {
  query_part part;
  attention_scores scores;     ///< maxima and masses alone
  std::vector<index_t> among;  ///< their places among all queries

  explicit sampled_queries(const selection_problem& problem) {
    const index_t step = sampling_step(problem.queries.rows());
    part =
        split_queries(problem.queries, problem.cache.masks, 0, 1 / static_cast<double>(step)).fit;
    std::vector<index_t> offsets;
    index_t before = 0;
    for (const query_block& block : problem.queries.blocks()) {
      offsets.push_back(before);
      before += block.rows.rows();
    }
    for (std::size_t b = 0; b < part.blocks.size(); ++b) {
      const block_origin& origin = part.origins[b];
      for (index_t i = 0; i < part.blocks[b].rows.rows(); ++i) {
        among.push_back(offsets[origin.block] + origin.first + i * origin.step);
      }
    }
    scores.max.resize(count());
    scores.mass.resize(count());
    for (index_t q = 0; q < count(); ++q) {
      scores.max[q] = problem.scores->max[place(q)];
      scores.mass[q] = problem.scores->mass[place(q)];
    }
  }

  [[nodiscard]] index_t count() const noexcept { return static_cast<index_t>(among.size()); }
  [[nodiscard]] index_t place(index_t q) const noexcept {
    return among[static_cast<std::size_t>(q)];
  }
};

/// `row_weights`: n factors of the columns' entries, or null. Cost: a score pass over the queries
/// sampled, and m products with their exponentials, which are held a panel at a time. `threads` of
/// the problem share the products: same bytes.
inline sampled_products multiply_sampled(const selection_problem& problem,
                                         const vector* row_weights, const matrix& of,
                                         bool wants_norms) {
  const sampled_queries sample(problem);
  selection_problem some = problem;
  some.cache = sample.part.beside(problem.cache);
  some.queries = sample.part.set();
  some.scores = &sample.scores;
  some.origins = {};
  some.memory_cap = 0;
  const index_t many = of.cols();
  vector weights(sample.count());
  matrix weighted(sample.count(), many);
  for (index_t q = 0; q < sample.count(); ++q) {
    weights[q] = row_weights == nullptr ? 1.0F : (*row_weights)[sample.place(q)];
  }
  mass_columns columns(some, mass_weighting::relative, &weights);
  for (index_t q = 0; q < sample.count(); ++q) {
    const float* const from = of.data() + sample.place(q) * many;
    const float factor = columns.factors()[q];
    for (index_t c = 0; c < many; ++c) weighted.data()[q * many + c] = factor * from[c];
  }
  const index_t keys = columns.keys();
  sampled_products out;
  out.products.resize(keys, many);
  if (wants_norms) out.norm_sq.setZero(keys);
  for (index_t p = 0; p < columns.parts(); ++p) {
    const column_part now = columns.part(p);
    const auto mode = p == 0 ? simd::product_mode::assign : simd::product_mode::add;
    over_pieces(
        problem.threads, keys, mass_columns::piece, [&](index_t first, index_t count) noexcept {
          simd::multiply({now.row(first), now.count, 1}, {weighted.data() + now.first * many, many},
                         {out.products.data() + first * many, many}, count, many, now.count, mode);
          for (index_t j = first; wants_norms && j < first + count; ++j) {
            out.norm_sq[j] +=
                simd::square_sum32(now.row(j), columns.factors().data() + now.first, now.count);
          }
        });
  }
  return out;
}

/// What `multiply_sampled` of n × `many` holds, its result included.
inline void declare_sampled(workspace& space, const head_sizes& sizes, index_t many) {
  space.count(float_bytes(sizes.keys, many + 1));
  const workspace::phase sampling(space);
  const index_t step = sampling_step(sizes.queries);
  head_sizes some = sizes;
  some.queries = (std::min)(sizes.queries / step + sizes.blocks, sizes.queries);
  some.largest_block = (sizes.largest_block + step - 1) / step;
  some.memory_cap = 0;
  some.has_exponentials = false;
  space.count(float_bytes(some.queries, many + 3) + grown_bytes(double_bytes(some.queries)));
  space.count(static_cast<double>(sizes.blocks) *
              grown_bytes(sizeof(query_block) + sizeof(row_view) + sizeof(block_origin) + 8.0));
  mass_columns::declare(space, some);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
