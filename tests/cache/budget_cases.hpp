// SPDX-License-Identifier: MIT
/// Heads, bounds and curves made at random, and allocation by trying everything.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "kvfit/cache/heads.hpp"
#include "kvfit/cache/influence_curve.hpp"
#include "kvfit/cache/row_bounds.hpp"
#include "kvfit/core/random.hpp"

namespace kvfit_test {

/// `layers` × `heads` heads of the given length.
inline std::vector<kvfit::head_rows> equal_heads(kvfit::index_t layers, kvfit::index_t heads,
                                                 kvfit::index_t rows) {
  std::vector<kvfit::head_rows> all;
  for (kvfit::index_t l = 0; l < layers; ++l) {
    for (kvfit::index_t h = 0; h < heads; ++h) all.push_back({{l, h}, rows});
  }
  return all;
}

inline kvfit::index_t sum_of(const std::vector<kvfit::index_t>& rows) {
  kvfit::index_t sum = 0;
  for (const kvfit::index_t r : rows) sum += r;
  return sum;
}

inline kvfit::index_t draw(kvfit::random_source& random, kvfit::index_t low, kvfit::index_t high) {
  return low +
         static_cast<kvfit::index_t>(random.below(static_cast<std::uint64_t>(high - low + 1)));
}

/// Bounds within 0 … `limit`; some leave no choice.
inline std::vector<kvfit::row_bounds> random_bounds(kvfit::random_source& random, std::size_t heads,
                                                    kvfit::index_t limit) {
  std::vector<kvfit::row_bounds> bounds(heads);
  for (auto& b : bounds) {
    b.least = draw(random, 0, limit);
    b.most = draw(random, b.least, limit);
  }
  return bounds;
}

/// A total that is possible; one time in four an extreme one.
inline kvfit::index_t random_total(kvfit::random_source& random,
                                   const std::vector<kvfit::row_bounds>& bounds) {
  kvfit::index_t least = 0;
  kvfit::index_t most = 0;
  for (const auto& b : bounds) {
    least += b.least;
    most += b.most;
  }
  switch (random.below(8)) {
    case 0:
      return least;
    case 1:
      return most;
    default:
      return draw(random, least, most);
  }
}

/// Any form: falling, rising, bumpy; its points may lie outside the bounds.
inline kvfit::influence_curve random_curve(kvfit::random_source& random, kvfit::index_t limit) {
  kvfit::influence_curve curve;
  kvfit::index_t rows = draw(random, 0, 2);
  while (rows <= limit + 2 && curve.points.size() < 6) {
    curve.points.push_back({rows, 4 * random.uniform() - 1});
    rows += draw(random, 1, 4);
  }
  return curve;
}

/// Convex and falling.
inline kvfit::influence_curve convex_curve(kvfit::random_source& random, kvfit::index_t limit) {
  kvfit::influence_curve curve;
  double loss = 10;
  double fall = 3 * random.uniform();
  for (kvfit::index_t rows = 0; rows <= limit; rows += 2) {
    curve.points.push_back({rows, loss});
    loss -= fall;
    fall *= random.uniform();
  }
  return curve;
}

/// Calls `visit` with every allocation within the bounds that adds up to `total`.
inline void for_all_allocations(
    const std::vector<kvfit::row_bounds>& bounds, kvfit::index_t total,
    const std::function<void(const std::vector<kvfit::index_t>&)>& visit) {
  std::vector<kvfit::index_t> rows(bounds.size());
  const std::function<void(std::size_t, kvfit::index_t)> choose = [&](std::size_t h,
                                                                      kvfit::index_t left) {
    if (h == bounds.size()) {
      if (left == 0) visit(rows);
      return;
    }
    for (rows[h] = bounds[h].least; rows[h] <= std::min(bounds[h].most, left); ++rows[h]) {
      choose(h + 1, left - rows[h]);
    }
  };
  choose(0, total);
}

/// The curve's loss by its definition: linear between neighbours, flat outside.
inline double plain_loss(const kvfit::influence_curve& curve, double rows) {
  const auto& p = curve.points;
  if (rows <= static_cast<double>(p.front().rows)) return p.front().loss;
  for (std::size_t i = 1; i < p.size(); ++i) {
    const auto a = static_cast<double>(p[i - 1].rows);
    const auto b = static_cast<double>(p[i].rows);
    if (rows <= b) return (p[i - 1].loss * (b - rows) + p[i].loss * (rows - a)) / (b - a);
  }
  return p.back().loss;
}

/// The convex envelope at one place by its definition: the least of all chords above it.
inline double plain_envelope(const kvfit::influence_curve& curve, const kvfit::row_bounds& bounds,
                             kvfit::index_t rows) {
  double least = plain_loss(curve, static_cast<double>(rows));
  for (kvfit::index_t a = bounds.least; a < rows; ++a) {
    for (kvfit::index_t b = rows + 1; b <= bounds.most; ++b) {
      const double way = static_cast<double>(rows - a) / static_cast<double>(b - a);
      least = std::min(least, plain_loss(curve, static_cast<double>(a)) * (1 - way) +
                                  plain_loss(curve, static_cast<double>(b)) * way);
    }
  }
  return least;
}

}  // namespace kvfit_test
