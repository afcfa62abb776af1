// SPDX-License-Identifier: MIT
#include "kvfit/attention/origin.hpp"

#include "attention/samples.hpp"
#include "kvfit/attention/split.hpp"

namespace kvfit_test {

using kvfit::head_end;
using kvfit::last_rows;
using kvfit::query_block;

TEST_CASE("Without origins every block is a head, and its last rows are its own",
          "[attention][origin]") {
  const sample head(30, 4, 3, 2);
  const kvfit::row_view rows(head.queries);
  const std::vector<query_block> blocks = {rows.middle_rows(0, 3), rows.middle_rows(3, 20),
                                           rows.middle_rows(23, 7)};
  CHECK(head_end(blocks, {}, 0) == 1);
  CHECK(head_end(blocks, {}, 2) == 3);
  CHECK(last_rows(blocks, {}, 0) == std::vector<index_t>{3, 20, 7});
  CHECK(last_rows(blocks, {}, 1) == std::vector<index_t>{1, 1, 1});
  CHECK(last_rows(blocks, {}, 5) == std::vector<index_t>{3, 5, 5});
  CHECK(last_rows(blocks, {}, std::numeric_limits<index_t>::max()) ==
        std::vector<index_t>{3, 20, 7});
}

TEST_CASE("The last rows of a part are the last ones of each head that the part has",
          "[attention][origin]") {
  const auto fraction = GENERATE(0.0, 0.01, 0.0625, 0.125, 0.3, 0.5);
  const auto window = GENERATE(as<index_t>{}, 1, 2, 7, 16, 33, 99, 100, 5000);
  CAPTURE(fraction, window);
  std::vector<kvfit::matrix> memory;  // row i of head b holds 1000 b + i
  for (const index_t rows : {100, 1, 17, 64, 700}) {
    const auto b = static_cast<float>(memory.size());
    memory.emplace_back(rows, 1);
    memory.back().col(0).setLinSpaced(rows, 1000 * b, 1000 * b + static_cast<float>(rows - 1));
  }
  std::vector<query_block> blocks;
  for (const kvfit::matrix& rows : memory) blocks.emplace_back(kvfit::row_view(rows));
  const kvfit::query_split parts =
      kvfit::split_queries(std::span<const query_block>(blocks), {}, fraction);

  for (const kvfit::query_part* part : {&parts.fit, &parts.judge}) {
    const std::vector<index_t> counts = last_rows(part->blocks, part->origins, window);
    REQUIRE(counts.size() == part->blocks.size());
    for (std::size_t b = 0; b < memory.size(); ++b) {
      std::vector<index_t> all;
      std::vector<index_t> taken;
      for (std::size_t p = 0; p < counts.size(); ++p) {
        const query_block& block = part->blocks[p];
        for (index_t i = 0; i < block.rows.rows(); ++i) {
          const auto id = static_cast<index_t>(block.rows(i, 0));
          if (id / 1000 != static_cast<index_t>(b)) continue;
          CHECK(part->origins[p].block == b);
          CHECK(part->origins[p].first + i * part->origins[p].step == id % 1000);
          all.push_back(id);
          if (i >= block.rows.rows() - counts[p]) taken.push_back(id);
        }
      }
      std::sort(all.begin(), all.end());
      std::sort(taken.begin(), taken.end());
      const std::size_t length = std::min(all.size(), static_cast<std::size_t>(window));
      CHECK(taken ==
            std::vector<index_t>(all.end() - static_cast<std::ptrdiff_t>(length), all.end()));
    }
  }
}

TEST_CASE("H: an observation window is of the queries at the largest positions",
          "[attention][origin]") {
  // A ring of queries: row i stands at (i + 25) mod 40. Whole, and in parts.
  const sample head(40, 50, 8, 4);
  std::vector<index_t> table;
  for (index_t i = 0; i < 40; ++i) table.push_back((i + 25) % 40);
  query_block ring(head.queries);
  ring.positions = table;
  kvfit::matrix straight(40, 8);
  for (index_t i = 0; i < 40; ++i) {
    straight.row(table[static_cast<std::size_t>(i)]) = head.queries.row(i);
  }
  const auto window = GENERATE(as<index_t>{}, 1, 7, 39, 40);
  const kvfit::score_options wanted{.importance = kvfit::importance_kind::max, .window = window};
  const auto expected = kvfit::score_pass(head.cache(), straight, {}, wanted);
  const auto found = kvfit::score_pass(head.cache(), ring, {}, wanted);
  REQUIRE(expected);
  REQUIRE(found);
  CHECK(same_bytes(found->importance, expected->importance));

  const kvfit::query_split parts = kvfit::split_queries(ring, {}, 0.25);
  const auto flags =
      kvfit::latest_queries(parts.fit.blocks, parts.fit.origins, std::min<index_t>(window, 30));
  std::vector<index_t> places;
  std::size_t at = 0;
  for (const query_block& block : parts.fit.blocks) {
    for (index_t i = 0; i < block.rows.rows(); ++i) {
      if (flags[at++] != 0) places.push_back(block.position(i));
    }
  }
  REQUIRE(static_cast<index_t>(places.size()) == std::min<index_t>(window, 30));
  std::vector<index_t> all;
  for (const query_block& block : parts.fit.blocks) {
    for (index_t i = 0; i < block.rows.rows(); ++i) all.push_back(block.position(i));
  }
  std::sort(all.begin(), all.end());
  std::sort(places.begin(), places.end());
  CHECK(std::equal(places.rbegin(), places.rend(), all.rbegin()));
}

TEST_CASE("queries without a table count backwards where their step is negative",
          "[attention][origin]") {
  const sample head(5, 4, 3, 2);
  query_block block(head.queries, 10);
  block.position_step = -2;
  CHECK(kvfit::latest_queries(std::span(&block, 1), {}, 2) == std::vector<char>{1, 1, 0, 0, 0});
  block.position_step = 0;  // all at one place: the later rows
  CHECK(kvfit::latest_queries(std::span(&block, 1), {}, 2) == std::vector<char>{0, 0, 0, 1, 1});
}

TEST_CASE("H: the newest queries of a ring are observed where some of them are held out",
          "[attention][origin]") {
  // Rows 0 to 31 stand at 32 to 63, rows 32 to 63 before them; each part ascends, the head does
  // not.
  const sample head(64, 50, 8, 6);
  std::vector<index_t> table;
  for (index_t i = 0; i < 64; ++i) table.push_back((i + 32) % 64);
  query_block ring(head.queries);
  ring.positions = table;
  const kvfit::query_split parts = kvfit::split_queries(ring, {}, 1.0 / 16);
  kvfit::matrix newest(8, 8);
  std::vector<std::pair<index_t, index_t>> by_position;  // position, row of the caller's
  for (std::size_t b = 0; b < parts.fit.blocks.size(); ++b) {
    for (index_t i = 0; i < parts.fit.blocks[b].rows.rows(); ++i) {
      by_position.emplace_back(parts.fit.blocks[b].position(i),
                               parts.fit.origins[b].first + i * parts.fit.origins[b].step);
    }
  }
  std::sort(by_position.rbegin(), by_position.rend());
  for (index_t k = 0; k < 8; ++k) {
    newest.row(k) = head.queries.row(by_position[static_cast<std::size_t>(k)].second);
  }
  const kvfit::score_options wanted{.importance = kvfit::importance_kind::max, .window = 8};
  const auto found =
      kvfit::detail::score_checked(head.cache(), parts.fit.set(), {}, wanted, parts.fit.origins);
  const auto expected = kvfit::score_pass(head.cache(), newest, {}, wanted);
  REQUIRE(found);
  REQUIRE(expected);
  CHECK((found->importance - expected->importance).cwiseAbs().maxCoeff() <
        1e-6F * expected->importance.maxCoeff());
}

}  // namespace kvfit_test
