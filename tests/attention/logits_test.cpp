// SPDX-License-Identifier: MIT
#include "kvfit/attention/logits.hpp"

#include <numeric>

#include "attention/samples.hpp"
#include "kvfit/attention/row_logits.hpp"
#include "kvfit/parallel/external_executor.hpp"
#include "kvfit/parallel/thread_pool.hpp"

namespace kvfit_test {

using kvfit::cut_panels;
using kvfit::kv_block;
using kvfit::panel_rows;
using kvfit::query_block;

TEST_CASE("A panel takes at most 16 MB, but never fewer than 8 rows nor more than 96",
          "[attention][panels]") {
  const index_t limit = index_t{16} << 20;
  for (const index_t keys :
       {index_t{0}, index_t{1}, index_t{43690}, index_t{43691}, index_t{65536}, index_t{65537},
        index_t{262144}, index_t{262145}, index_t{524288}, index_t{524289}, index_t{1} << 40}) {
    const index_t rows = panel_rows(keys);
    CAPTURE(keys, rows);
    CHECK(rows >= 8);
    CHECK(rows <= 96);
    CHECK((rows < 16 || rows % 16 == 0));
    CHECK((rows == 8 || rows * keys * 4 <= limit));
    const index_t next = rows < 16 ? rows + 1 : rows + 16;  // no smaller than it must be
    CHECK((rows == 96 || next * keys * 4 > limit));
  }
}

TEST_CASE("Panels cover every query row once, in order, and none spans two blocks",
          "[attention][panels]") {
  const kvfit::matrix rows = kvfit::matrix::Zero(200, 2);
  const kvfit::row_view view(rows);
  const std::vector<query_block> blocks = {view.middle_rows(0, 64), view.middle_rows(0, 1),
                                           view.middle_rows(0, 0), view.middle_rows(0, 130)};
  const auto most = GENERATE(as<index_t>{}, 1, 8, 63, 64, 65, 500);
  CAPTURE(most);
  index_t offset = 0;
  std::size_t block = 0;
  index_t first = 0;
  for (const kvfit::query_panel& panel : cut_panels(std::span<const query_block>(blocks), most)) {
    while (first == blocks[block].rows.rows()) {
      ++block;
      first = 0;
    }
    CHECK(panel.block == block);
    CHECK(panel.first == first);
    CHECK(panel.offset == offset);
    CHECK(panel.count >= 1);
    CHECK(panel.count <= most);
    CHECK(panel.first + panel.count <= blocks[block].rows.rows());
    offset += panel.count;
    first += panel.count;
  }
  CHECK(offset == 195);
}

TEST_CASE("Logits of chosen rows are the columns of all logits", "[attention][row_logits]") {
  const sample head(100, 300, 16, 8);
  const std::vector<query_block> blocks = {
      query_block(kvfit::row_view(head.queries).middle_rows(0, 70), 150, 0.02F),
      query_block(kvfit::row_view(head.queries).middle_rows(70, 30), 260, 0.01F)};
  const std::span<const query_block> queries(blocks);
  const std::vector<float> bias = random_numbers(300, 40);
  const kvfit::matrix mask_a = random_matrix(70, 300, 41);
  const kvfit::matrix mask_b = random_matrix(30, 300, 42);
  const std::vector<kvfit::row_view> masks = {mask_a, mask_b};
  const kvfit::logit_rule rule = {.soft_cap = 3, .causal = true, .window = 180};
  kv_block cache{
      .keys = head.keys, .values = head.values, .bias = bias, .first_position = 4, .masks = masks};
  std::vector<index_t> positions(300);
  for (index_t j = 0; j < 300; ++j) positions[static_cast<std::size_t>(j)] = 2 * j - 100;
  const bool has_positions = GENERATE(false, true);
  if (has_positions) cache.positions = positions;
  const oracle_logits all = make_logits(cache, queries, rule);

  const std::vector<std::vector<index_t>> choices = {
      {0}, {299}, {0, 1, 2, 17, 150, 255, 256, 299}, {5, 3, 200, 3}, {}};
  for (const std::vector<index_t>& rows : choices) {
    CAPTURE(has_positions, rows.size());
    const kvfit::matrix some = kvfit_test::row_logits(cache, queries, rule, rows);
    REQUIRE(some.rows() == 100);
    REQUIRE(some.cols() == static_cast<index_t>(rows.size()));
    worst_case worst;
    for (index_t i = 0; i < some.rows(); ++i) {
      for (index_t j = 0; j < some.cols(); ++j) {
        const index_t row = rows[static_cast<std::size_t>(j)];
        if (all.logit(i, row) == -infinity) {
          CHECK(some(i, j) == hidden);
          continue;
        }
        worst.see(std::abs(static_cast<double>(some(i, j)) - all.logit(i, row)),
                  fp32_rounding * (16 + 16) * all.magnitude(i, row), i);
      }
    }
    INFO("logits: " << worst.text());
    CHECK(worst.ratio <= 1);
  }
}

TEST_CASE("Logits by key are those by query, turned over", "[attention][row_logits]") {
  const sample head(110, 300, 16, 8);
  const std::vector<float> bias = random_numbers(300, 40);
  const kvfit::matrix first = head.queries.topRows(70);
  const kvfit::matrix second = head.queries.bottomRows(40);
  const query_block blocks[] = {{first, 0, 0.25F}, {second, 20}};
  const kvfit::query_set queries(blocks);
  const kv_block cache{.keys = head.keys, .values = head.values, .bias = bias};
  const kvfit::logit_rule rule{.soft_cap = 20, .causal = true};
  for (const std::vector<index_t>& rows :
       {std::vector<index_t>{7}, std::vector<index_t>{299, 0, 3, 3, 150}}) {
    const kvfit::matrix by_query = row_logits(cache, queries, rule, rows);
    kvfit::matrix by_key(static_cast<index_t>(rows.size()), 110);
    kvfit::logits_by_key(cache, queries, rule, rows, by_key.data());
    CHECK(by_key == by_query.transpose());
  }
}

TEST_CASE("Other keys may stand in the place of chosen rows", "[attention][row_logits]") {
  const sample head(20, 50, 16, 8);
  const std::vector<float> bias = random_numbers(50, 40);
  const std::vector<index_t> rows = {3, 20, 49};
  const kvfit::matrix stand_in = random_matrix(3, 16, 60);
  const kv_block cache{.keys = head.keys, .values = head.values, .bias = bias};
  kvfit::matrix logits;
  kvfit::row_logits_into(cache, head.queries, {}, rows, stand_in, logits);
  sample replaced = head;
  for (index_t j = 0; j < 3; ++j) {
    replaced.keys.row(rows[static_cast<std::size_t>(j)]) = stand_in.row(j);
  }
  const kv_block expected_cache{.keys = replaced.keys, .values = replaced.values, .bias = bias};
  const oracle_logits all = make_logits(expected_cache, head.queries, {});
  worst_case worst;
  for (index_t i = 0; i < 20; ++i) {
    for (index_t j = 0; j < 3; ++j) {
      const index_t row = rows[static_cast<std::size_t>(j)];
      worst.see(std::abs(static_cast<double>(logits(i, j)) - all.logit(i, row)),
                fp32_rounding * 32 * all.magnitude(i, row), i);
    }
  }
  INFO("logits: " << worst.text());
  CHECK(worst.ratio <= 1);
}

TEST_CASE("Threads make panels of chosen rows' logits, the same bytes",
          "[attention][row_logits][threads]") {
  const sample head(300, 200, 32, 8);
  const std::vector<query_block> blocks = {
      query_block(kvfit::row_view(head.queries).middle_rows(0, 170), 150, 0.02F),
      query_block(kvfit::row_view(head.queries).middle_rows(170, 130), 260, 0.01F)};
  const std::span<const query_block> queries(blocks);
  const std::vector<float> bias = random_numbers(200, 40);
  const kvfit::matrix mask_a = random_matrix(170, 200, 41);
  const kvfit::matrix mask_b = random_matrix(130, 200, 42);
  const std::vector<kvfit::row_view> masks = {mask_a, mask_b};
  const kvfit::logit_rule rule = {.causal = true, .window = 180};
  const kv_block cache{
      .keys = head.keys, .values = head.values, .bias = bias, .first_position = 4, .masks = masks};
  std::vector<index_t> rows(200);
  std::iota(rows.begin(), rows.end(), index_t{0});
  kvfit::matrix alone;
  kvfit::row_logits_into(cache, queries, rule, rows, head.keys, alone);
  int loops = 0;
  kvfit::external_executor backwards{[&](index_t count, const auto& body) {
    ++loops;
    for (index_t i = count; i-- > 0;) body(i);
  }};
  kvfit::thread_pool pool(3);
  for (const kvfit::executor_ref& threads :
       {kvfit::executor_ref(pool), kvfit::executor_ref(backwards, 9)}) {
    kvfit::matrix shared;
    kvfit::row_logits_into(cache, queries, rule, rows, head.keys, shared, threads);
    CHECK(same_bytes(shared, alone));
  }
  CHECK(loops == 1);
}

}  // namespace kvfit_test
