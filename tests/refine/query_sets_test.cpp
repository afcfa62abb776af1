// SPDX-License-Identifier: MIT
#include "kvfit/refine/query_sets.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "kvfit/attention/split.hpp"
#include "support/allocations.hpp"
#include "support/attention_oracle.hpp"
#include "support/catch.hpp"
#include "support/random_matrix.hpp"

namespace {

using kvfit_test::random_matrix;
using kvfit_test::to_double;

kvfit::query_part part_of(std::span<const kvfit::query_block> blocks,
                          std::span<const kvfit::row_view> masks = {}) {
  return kvfit::split_queries(blocks, masks, 0).fit;
}

bool same_rows(const kvfit::made_queries& a, const kvfit::made_queries& b) {
  return std::equal(a.rows.begin(), a.rows.end(), b.rows.begin(), b.rows.end());
}

/// A row turned by so many positions, in double.
Eigen::RowVectorXd turned(const kvfit::rope& rotation, Eigen::RowVectorXd row, double distance) {
  const kvfit::index_t dims = rotation.dims == 0 ? row.size() : rotation.dims;
  for (kvfit::index_t i = 0; i < dims / 2; ++i) {
    const bool is_split = rotation.pairing == kvfit::rope_pairing::half_split;
    const kvfit::index_t a = is_split ? i : 2 * i;
    const kvfit::index_t b = is_split ? i + dims / 2 : 2 * i + 1;
    const double angle = distance * std::pow(rotation.base, -2.0 * static_cast<double>(i) /
                                                                static_cast<double>(dims));
    const double x = row[a];
    const double y = row[b];
    row[a] = x * std::cos(angle) - y * std::sin(angle);
    row[b] = x * std::sin(angle) + y * std::cos(angle);
  }
  return row;
}

}  // namespace

TEST_CASE("the same seed and number make the same bytes, others make others", "[refine][sets]") {
  const kvfit::matrix first = random_matrix(30, 8, 1);
  const kvfit::matrix second = random_matrix(20, 8, 2);
  const std::vector<kvfit::query_block> blocks = {kvfit::query_block(first),
                                                  kvfit::query_block(second)};
  const kvfit::query_part given = part_of(blocks);
  kvfit::refinement settings{.sets = 4, .seed = 9};
  if (GENERATE(true, false)) settings.rotation = kvfit::rope{};
  std::vector<kvfit::made_queries> made;
  for (int which = 0; which < 4; ++which) {
    made.push_back(kvfit::make_query_set(given, settings, which));
    CHECK(same_rows(made.back(), kvfit::make_query_set(given, settings, which)));
  }
  for (std::size_t a = 0; a < 4; ++a) {
    for (std::size_t b = 0; b < a; ++b) CHECK_FALSE(same_rows(made[a], made[b]));
  }
  settings.seed = 10;
  for (std::size_t a = 0; a < 4; ++a) {
    CHECK_FALSE(same_rows(made[a], kvfit::make_query_set(given, settings, static_cast<int>(a))));
  }
}

TEST_CASE("made queries stand where the given ones do, under the same masks, and may be moved",
          "[refine][sets]") {
  const kvfit::matrix rows = random_matrix(60, 8, 3);
  const kvfit::matrix mask = random_matrix(60, 5, 4);
  const kvfit::row_view all = rows;
  const kvfit::row_view all_masks = mask;
  std::vector<kvfit::query_block> blocks;
  std::vector<kvfit::row_view> masks;
  for (kvfit::index_t b = 0; b < 6; ++b) {
    blocks.emplace_back(all.middle_rows(10 * b, 10), 100 * b, 0.5F * static_cast<float>(b));
    blocks.back().position_step = b + 1;
    masks.push_back(all_masks.middle_rows(10 * b, 10));
  }
  const kvfit::query_part given = part_of(blocks, masks);
  kvfit::made_queries made =
      kvfit::make_query_set(given, {.sets = 2, .rotation = kvfit::rope{}}, 1);
  const std::vector<kvfit::matrix> before = made.rows;
  const kvfit::made_queries moved = std::move(made);
  REQUIRE(moved.part.blocks.size() == 6);
  REQUIRE(moved.part.masks.size() == 6);
  for (std::size_t b = 0; b < 6; ++b) {
    CHECK(moved.part.blocks[b].first_position == blocks[b].first_position);
    CHECK(moved.part.blocks[b].position_step == blocks[b].position_step);
    CHECK(moved.part.blocks[b].alibi_slope == blocks[b].alibi_slope);
    CHECK(moved.part.blocks[b].rows.rows() == 10);
    CHECK(to_double(moved.part.blocks[b].rows) == before[b].cast<double>());
    CHECK(to_double(moved.part.masks[b]) == to_double(masks[b]));
  }
  CHECK(moved.part.set().rows() == 60);
}

TEST_CASE("a rotation moves content: each row is another one turned to its position",
          "[refine][sets][rotation]") {
  const kvfit::rope rotation =
      GENERATE(kvfit::rope{}, kvfit::rope{.base = 500, .dims = 6},
               kvfit::rope{.base = 100, .pairing = kvfit::rope_pairing::interleaved},
               kvfit::rope{.base = 50, .dims = 4, .pairing = kvfit::rope_pairing::interleaved});
  const int which = GENERATE(0, 1);  // without a spread odd sets are turned alone, too
  const kvfit::matrix first = random_matrix(17, 8, 5);
  const kvfit::matrix second = random_matrix(9, 8, 6);
  const kvfit::matrix third = random_matrix(7, 8, 7);
  const std::vector<kvfit::index_t> table = {4, 6, 1, 30, 31, 90, 50};
  std::vector<kvfit::query_block> blocks = {
      kvfit::query_block(first, 40), kvfit::query_block(second, 3), kvfit::query_block(third)};
  blocks[1].position_step = 5;
  blocks[2].positions = table;
  const auto made = kvfit::make_query_set(
      part_of(blocks), {.sets = 2, .spread = 0, .rotation = rotation, .seed = 3}, which);
  REQUIRE(made.rows.size() == 3);
  for (std::size_t b = 0; b < 3; ++b) {
    const Eigen::MatrixXd given = to_double(blocks[b].rows);
    const Eigen::MatrixXd found = made.rows[b].cast<double>();
    const kvfit::index_t n = given.rows();
    const auto place = [&](kvfit::index_t i) {
      if (b == 2) return static_cast<double>(table[static_cast<std::size_t>(i)]);
      return static_cast<double>(i * blocks[b].position_step);
    };
    int shifts = 0;
    for (kvfit::index_t s = 1; s < n; ++s) {
      double worst = 0;
      for (kvfit::index_t i = 0; i < n; ++i) {
        const kvfit::index_t from = (i + s) % n;
        const double distance = place(i) - place(from);
        worst = std::max(
            worst,
            (turned(rotation, given.row(from), distance) - found.row(i)).cwiseAbs().maxCoeff());
      }
      if (worst < 1e-5) ++shifts;
    }
    CHECK(shifts == 1);
    CHECK((found - given).rowwise().norm().minCoeff() > 0.1);
    Eigen::VectorXd lengths = given.rowwise().norm();
    Eigen::VectorXd made_lengths = found.rowwise().norm();
    std::sort(lengths.begin(), lengths.end());
    std::sort(made_lengths.begin(), made_lengths.end());
    CHECK((lengths - made_lengths).cwiseAbs().maxCoeff() < 1e-5);
  }
}

TEST_CASE("blocks are moved by shifts of their own, and several of them come up",
          "[refine][sets][rotation]") {
  // Without turning (a huge base turns all pairs but the first by nothing), content is recognised.
  kvfit::matrix rows(8, 4);
  for (kvfit::index_t i = 0; i < 8; ++i) rows.row(i).setConstant(static_cast<float>(i));
  const std::vector<kvfit::query_block> blocks(4, kvfit::query_block(rows));
  const kvfit::refinement settings{
      .sets = 8, .spread = 0, .rotation = kvfit::rope{.base = 1e30}, .seed = 1};
  std::vector<int> shifts;
  for (int which = 0; which < 8; ++which) {
    for (const kvfit::matrix& made : kvfit::make_query_set(part_of(blocks), settings, which).rows) {
      const int shift = static_cast<int>(std::lround(made(0, 1)));
      CHECK(shift >= 1);
      CHECK(shift <= 7);
      for (kvfit::index_t i = 0; i < 8; ++i) {
        CHECK(std::lround(made(i, 1)) == (i + shift) % 8);
      }
      shifts.push_back(shift);
    }
  }
  std::sort(shifts.begin(), shifts.end());
  shifts.erase(std::unique(shifts.begin(), shifts.end()), shifts.end());
  CHECK(shifts.size() >= 5);
}

TEST_CASE("without a rotation every set is perturbed, with one the odd ones are",
          "[refine][sets][spread]") {
  const kvfit::matrix rows = random_matrix(6, 8, 7);
  const std::vector<kvfit::query_block> blocks = {kvfit::query_block(rows)};
  const kvfit::query_part given = part_of(blocks);
  const double spread = 0.4;
  int perturbed = 0;
  for (int which = 0; which < 4; ++which) {
    INFO("set " << which);
    const auto made = kvfit::make_query_set(given, {.sets = 4, .spread = spread}, which);
    for (kvfit::index_t i = 0; i < 6; ++i) {
      // Along a difference of two given rows.
      const Eigen::RowVectorXf moved = made.rows[0].row(i) - rows.row(i);
      if (moved.norm() == 0) continue;  // twice the same row
      ++perturbed;
      float best = 0;
      for (kvfit::index_t a = 0; a < 6; ++a) {
        for (kvfit::index_t b = 0; b < a; ++b) {
          const Eigen::RowVectorXf difference = rows.row(a) - rows.row(b);
          best =
              std::max(best, std::abs(difference.dot(moved)) / (difference.norm() * moved.norm()));
        }
      }
      CHECK(best > 0.9999F);
    }
    const kvfit::refinement turning{.sets = 4, .spread = spread, .rotation = kvfit::rope{}};
    kvfit::refinement still = turning;
    still.spread = 0;
    const bool is_same = same_rows(kvfit::make_query_set(given, turning, which),
                                   kvfit::make_query_set(given, still, which));
    CHECK(is_same == (which % 2 == 0));
  }
  CHECK(perturbed >= 14);  // of 24; one in six is expected to draw twice the same row
}

TEST_CASE("perturbations have the spread asked for, and no mean", "[refine][sets][spread]") {
  const kvfit::matrix rows = random_matrix(4000, 8, 8);
  const std::vector<kvfit::query_block> blocks = {kvfit::query_block(rows)};
  for (const double spread : {0.1, 0.5}) {
    const auto made = kvfit::make_query_set(part_of(blocks), {.sets = 1, .spread = spread}, 0);
    const Eigen::MatrixXd moved = (made.rows[0] - rows).cast<double>();
    // A difference of two independent rows of unit variance has variance 2.
    const double rms = std::sqrt(moved.squaredNorm() / static_cast<double>(moved.size()));
    CHECK(rms == Approx(std::sqrt(2.0) * spread).epsilon(0.05));
    CHECK(moved.colwise().mean().cwiseAbs().maxCoeff() < 0.1 * spread);
  }
}

TEST_CASE("no seed draws what another does, some rows on", "[refine][sets]") {
  const kvfit::matrix rows = random_matrix(40, 8, 10);
  const std::vector<kvfit::query_block> blocks = {kvfit::query_block(rows)};
  const auto moves = [&](std::uint64_t seed) {
    return kvfit::matrix(
        kvfit::make_query_set(part_of(blocks), {.sets = 1, .seed = seed}, 0).rows[0] - rows);
  };
  const kvfit::matrix first = moves(0);
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    const kvfit::matrix other = moves(seed);
    double nearest = kvfit_test::infinity;
    for (kvfit::index_t a = 0; a < 40; ++a) {
      if (first.row(a).norm() == 0) continue;  // twice the same row
      for (kvfit::index_t b = 0; b < 40; ++b) {
        const auto apart = static_cast<double>((first.row(a) - other.row(b)).norm());
        nearest = std::min(nearest, apart / static_cast<double>(first.row(a).norm()));
      }
    }
    INFO("seed " << seed << ": nearest at a share of " << nearest);
    CHECK(nearest > 1e-4);
  }
}

TEST_CASE("a set of one query is that query", "[refine][sets][degenerate]") {
  const kvfit::matrix row = random_matrix(1, 8, 9);
  const std::vector<kvfit::query_block> blocks = {kvfit::query_block(row, 12)};
  for (int which = 0; which < 2; ++which) {
    kvfit::refinement settings{.sets = 2};
    CHECK(kvfit::make_query_set(part_of(blocks), settings, which).rows[0] == row);
    settings.rotation = kvfit::rope{};
    CHECK(kvfit::make_query_set(part_of(blocks), settings, which).rows[0] == row);
  }
}

TEST_CASE("a set takes no more memory than is said, at even distances or none",
          "[refine][sets][memory]") {
  if (!can_count) return;
  const kvfit::matrix rows = random_matrix(400, 16, 11);
  std::vector<kvfit::index_t> table;
  for (kvfit::index_t i = 0; i < 400; ++i) table.push_back(i * i);  // all distances differ
  for (const bool is_even : {true, false}) {
    std::vector<kvfit::query_block> blocks;
    for (const kvfit::index_t first : {0, 150}) {
      blocks.emplace_back(kvfit::row_view(rows).middle_rows(first, first == 0 ? 150 : 250), first);
      if (!is_even) blocks.back().positions = table;
    }
    const kvfit::query_part given = part_of(blocks);
    const kvfit::head_sizes sizes{.depth = 16, .queries = 400, .blocks = 2, .largest_block = 250};
    for (int which = 0; which < 2; ++which) {
      const auto held = static_cast<double>(
          kvfit_test::count_allocations([&] {
            kvfit::make_query_set(given, {.sets = 2, .rotation = kvfit::rope{}}, which);
          }).peak_bytes);
      CAPTURE(is_even, which);
      CHECK(held > 400 * 16 * 4);
      kvfit::workspace space;
      declare_query_set(space, sizes);
      CHECK(held <= space.most() + 1024);  // an allocator's share of each block
    }
  }
}
