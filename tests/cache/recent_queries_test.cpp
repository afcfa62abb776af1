// SPDX-License-Identifier: MIT
#include "kvfit/cache/recent_queries.hpp"

#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/random_matrix.hpp"

namespace kvfit_test {

using kvfit::errc;
using kvfit::index_t;
using kvfit::query_block;
using kvfit::recent_queries;
using kvfit::row_view;

namespace {

/// Two query heads of one text, of which any tokens can be handed over.
struct asked_text {
  kvfit::matrix first = random_matrix(40, 4, 1);
  kvfit::matrix second = random_matrix(40, 4, 2);

  [[nodiscard]] std::vector<query_block> tokens(index_t from, index_t count) const {
    return {{row_view(first).middle_rows(from, count), from, 0.5F},
            {row_view(second).middle_rows(from, count), from}};
  }
};

/// Whether the ring has tokens from … from + count − 1, and they are the text's.
void check_remembers(const recent_queries& ring, const asked_text& text, index_t from,
                     index_t count) {
  CHECK(ring.rows(7) == count);
  const auto copy = ring.copy();
  REQUIRE(copy);
  REQUIRE(copy->queries.size() == 1);
  CHECK(copy->queries[0].layer == 7);
  const auto& heads = copy->queries[0].heads;
  REQUIRE(heads.size() == 2);
  CHECK(heads[0].alibi_slope == 0.5F);
  for (std::size_t h = 0; h < 2; ++h) {
    CHECK(heads[h].first_position == from);
    CHECK(heads[h].position_step == 1);
    REQUIRE(heads[h].rows.rows() == count);
    CHECK(copy->memory[h] == (h == 0 ? text.first : text.second).middleRows(from, count));
  }
}

}  // namespace

TEST_CASE("a ring remembers the last tokens in order, however they came", "[cache][queries]") {
  const asked_text text;
  for (const index_t step : {1, 2, 3, 5, 8, 13}) {
    CAPTURE(step);
    recent_queries ring(8);
    for (index_t at = 0; at + step <= 40; at += step) {
      REQUIRE(ring.record(7, text.tokens(at, step)));
      const index_t count = std::min<index_t>(8, at + step);
      check_remembers(ring, text, at + step - count, count);
    }
  }
  CHECK(recent_queries(0).capacity() == 1);
}

TEST_CASE("§9.35 queries of tokens that were taken back are forgotten, and others may follow",
          "[cache][queries]") {
  const asked_text text;
  recent_queries ring(8);
  REQUIRE(ring.record(7, text.tokens(0, 12)));
  ring.truncate(9);
  check_remembers(ring, text, 4, 5);
  REQUIRE(ring.record(7, text.tokens(9, 1)));
  check_remembers(ring, text, 4, 6);
  REQUIRE(ring.record(7, text.tokens(20, 3)));  // behind a gap: the old ones stay
  CHECK(ring.rows(7) == 8);
  CHECK(ring.copy()->queries[0].heads[0].position(4) == 9);
  CHECK(ring.copy()->queries[0].heads[0].position(5) == 20);
  REQUIRE(ring.record(7, text.tokens(12, 3)));  // before the last one: the text begins anew
  check_remembers(ring, text, 12, 3);
  ring.truncate(3);
  CHECK(ring.rows(7) == 0);
  REQUIRE(ring.copy());
  CHECK(ring.copy()->queries.empty());
  REQUIRE(ring.record(7, text.tokens(3, 2)));
  check_remembers(ring, text, 3, 2);
  ring.clear();
  CHECK(ring.rows(7) == 0);
}

TEST_CASE("a table of positions is looked up when queries are recorded, and not kept",
          "[cache][queries]") {
  const asked_text text;
  recent_queries ring(8);
  {
    std::vector<index_t> table(60, -1);  // place 20 + 2 i: token i
    for (std::size_t i = 0; i < 20; ++i) table[20 + 2 * i] = static_cast<index_t>(i);
    for (const index_t first : {index_t{0}, index_t{5}}) {
      auto heads = text.tokens(first, 5);
      for (query_block& head : heads) {
        head.first_position = 20 + 2 * first;
        head.position_step = 2;
        head.positions = table;
      }
      REQUIRE(ring.record(7, heads));
    }
    table.assign(60, 999);  // whoever still looks there sees it
  }
  check_remembers(ring, text, 2, 8);
  REQUIRE(ring.record(7, text.tokens(10, 1)));  // goes on from there
  check_remembers(ring, text, 3, 8);
  CHECK(ring.copy()->queries[0].heads[0].positions.empty());

  const std::vector<index_t> uneven = {11, 12, 12, 15};
  auto heads = text.tokens(11, 4);
  for (query_block& head : heads) {
    head.first_position = 0;
    head.positions = uneven;
  }
  auto unlike = heads;
  const std::vector<index_t> other = {11, 12, 13, 15};
  unlike[1].positions = other;
  const auto refused = ring.record(7, unlike);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::invalid_position);
  CHECK(refused.error().actual == 13);
  CHECK(refused.error().expected == 12);
  unlike[1].positions = std::span(uneven).first(3);
  CHECK(ring.record(7, unlike).error().code == errc::shape_mismatch);
  check_remembers(ring, text, 3, 8);
  REQUIRE(ring.record(7, heads));
  const auto copy = ring.copy();
  REQUIRE(copy);
  const std::vector<index_t> expected = {7, 8, 9, 10, 11, 12, 12, 15};
  for (const query_block& head : copy->queries[0].heads) {
    for (index_t i = 0; i < 8; ++i) {
      CHECK(head.position(i) == expected[static_cast<std::size_t>(i)]);
    }
  }
}

TEST_CASE("what a ring can't remember is refused, and changes nothing", "[cache][queries]") {
  const asked_text text;
  recent_queries ring(8);
  REQUIRE(ring.record(7, text.tokens(0, 5)));
  const auto cause = [&](const std::vector<query_block>& heads) {
    const auto ok = ring.record(7, heads);
    REQUIRE_FALSE(ok);
    check_remembers(ring, text, 0, 5);
    return ok.error();
  };
  CHECK(cause({}).code == errc::empty_input);
  CHECK(cause({text.tokens(5, 1)[0]}).code == errc::shape_mismatch);
  CHECK(cause({text.tokens(5, 1)[0], text.tokens(5, 2)[1]}).code == errc::shape_mismatch);
  CHECK(cause({text.tokens(5, 1)[0], text.tokens(6, 1)[1]}).code == errc::invalid_position);
  auto sparse = text.tokens(5, 2);
  sparse[0].position_step = 2;
  CHECK(cause(sparse).code == errc::invalid_position);
  const kvfit::matrix wide = random_matrix(1, 5, 3);
  CHECK(cause({{row_view(wide), 5}, text.tokens(5, 1)[1]}).code == errc::shape_mismatch);
  kvfit::matrix spoilt = random_matrix(1, 4, 3);
  spoilt(0, 2) = std::numeric_limits<float>::quiet_NaN();
  CHECK(cause({{row_view(spoilt), 5}, text.tokens(5, 1)[1]}).code == errc::non_finite);
}

}  // namespace kvfit_test
