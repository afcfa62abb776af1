// SPDX-License-Identifier: MIT
#include "kvfit/attention/split.hpp"

#include <map>

#include "attention/samples.hpp"

namespace kvfit_test {

using kvfit::query_block;
using kvfit::query_part;
using kvfit::row_view;
using kvfit::split_queries;

namespace {

/// Queries whose numbers tell where they come from: row i of block b holds 1000 b + i.
struct numbered {
  explicit numbered(const std::vector<index_t>& lengths) {
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      kvfit::matrix rows(lengths[b], 3);
      kvfit::matrix mask(lengths[b], 5);
      for (index_t i = 0; i < lengths[b]; ++i) {
        rows.row(i).setConstant(static_cast<float>(1000 * static_cast<index_t>(b) + i));
        mask.row(i).setConstant(-static_cast<float>(1000 * static_cast<index_t>(b) + i));
      }
      memory.push_back(std::move(rows));
      mask_memory.push_back(std::move(mask));
    }
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      query_block block(memory[b], 100 * static_cast<index_t>(b), 0.5F * static_cast<float>(b));
      block.position_step = static_cast<index_t>(b) + 1;
      block.sink_logit = static_cast<float>(b);
      blocks.push_back(block);
      masks.emplace_back(mask_memory[b]);
    }
  }
  [[nodiscard]] std::span<const query_block> queries() const { return blocks; }

  std::vector<kvfit::matrix> memory;
  std::vector<kvfit::matrix> mask_memory;
  std::vector<query_block> blocks;
  std::vector<row_view> masks;
};

/// Reads a part: how often each row is in it. Checks on the way that position, slope, sink and mask
/// belong to the row.
std::map<index_t, int> rows_of(const query_part& part, const numbered& source) {
  std::map<index_t, int> count;
  REQUIRE(part.masks.size() == part.blocks.size());
  for (std::size_t p = 0; p < part.blocks.size(); ++p) {
    const query_block& block = part.blocks[p];
    REQUIRE(part.masks[p].rows() == block.rows.rows());
    for (index_t i = 0; i < block.rows.rows(); ++i) {
      const auto id = static_cast<index_t>(block.rows(i, 0));
      const auto b = static_cast<std::size_t>(id / 1000);
      CHECK(block.rows(i, 2) == static_cast<float>(id));
      CHECK(part.masks[p](i, 4) == -static_cast<float>(id));
      const query_block& whole = source.blocks[b];
      CHECK(block.first_position + i * block.position_step ==
            whole.first_position + id % 1000 * whole.position_step);
      CHECK(block.alibi_slope == whole.alibi_slope);
      CHECK(block.sink_logit == whole.sink_logit);
      ++count[id];
    }
  }
  return count;
}

}  // namespace

TEST_CASE("§9.15 §9.16 a split covers every query of every head once, with its position and mask",
          "[attention][split]") {
  const auto fraction = GENERATE(0.0, 0.01, 0.1, 0.125, 0.2, 0.3, 0.34, 0.5);
  CAPTURE(fraction);
  const numbered source({40, 1, 2, 7, 8, 9, 100});
  const kvfit::query_split parts = split_queries(source.queries(), source.masks, fraction);
  const std::map<index_t, int> fit = rows_of(parts.fit, source);
  const std::map<index_t, int> judge = rows_of(parts.judge, source);
  const index_t stride = fraction > 0 ? static_cast<index_t>(std::lround(1 / fraction)) : 0;
  for (std::size_t b = 0; b < source.blocks.size(); ++b) {
    const index_t rows = source.blocks[b].rows.rows();
    for (index_t i = 0; i < rows; ++i) {
      const index_t id = 1000 * static_cast<index_t>(b) + i;
      CAPTURE(id, stride);
      const bool is_judge = stride > 0 && rows >= stride && i % stride == stride - 1;
      CHECK(fit.count(id) == (is_judge ? 0 : 1));
      CHECK(judge.count(id) == (is_judge ? 1 : 0));
      if (fit.count(id) == 1) CHECK(fit.at(id) == 1);
      if (judge.count(id) == 1) CHECK(judge.at(id) == 1);
    }
  }
  CHECK(parts.fit.set().rows() == static_cast<index_t>(fit.size()));
  CHECK(parts.judge.set().rows() == static_cast<index_t>(judge.size()));
  CHECK(fit.size() + judge.size() == 167);
}

TEST_CASE("A split without masks has none", "[attention][split]") {
  const numbered source({10});
  const kvfit::query_split parts = split_queries(source.queries(), {}, 0.25);
  CHECK(parts.fit.masks.empty());
  CHECK(parts.judge.masks.empty());
  const kvfit::matrix keys = kvfit::matrix::Zero(5, 3);
  const kvfit::kv_block cache{.keys = keys, .values = keys, .masks = source.masks};
  CHECK(parts.fit.beside(cache).masks.empty());
  const kvfit::query_split masked = split_queries(source.queries(), source.masks, 0.25);
  CHECK(masked.judge.beside(cache).masks.data() == masked.judge.masks.data());
  CHECK(masked.judge.beside(cache).masks.size() == masked.judge.blocks.size());
}

TEST_CASE("A split copies no query", "[attention][split]") {
  const numbered source({10});
  const kvfit::query_split parts = split_queries(source.queries(), source.masks, 0.5);
  REQUIRE(parts.judge.blocks.size() == 1);
  CHECK(parts.judge.blocks[0].rows.data() == &source.memory[0](1, 0));
  CHECK(parts.judge.masks[0].data() == &source.mask_memory[0](1, 0));
}

TEST_CASE("A fraction too small for any block holds out nothing", "[attention][split]") {
  const auto fraction = GENERATE(0.0, 1e-3, 1e-12, 1e-18, 1e-19, 1e-30, 1e-300, 5e-324);
  CAPTURE(fraction);
  const numbered source({40, 7});
  const kvfit::query_split parts = split_queries(source.queries(), source.masks, fraction);
  CHECK(parts.judge.blocks.empty());
  CHECK(parts.fit.set().rows() == 47);
}

TEST_CASE("A block without rows is split into nothing", "[attention][split]") {
  const query_block empty(row_view(static_cast<const float*>(nullptr), 0, 4));
  const kvfit::query_split parts = split_queries(empty, {}, 0.25);
  CHECK(parts.fit.set().rows() == 0);
  CHECK(parts.judge.set().rows() == 0);
}

TEST_CASE("§9.15 §9.16 a fit on a share of the queries takes none that is held out and none twice",
          "[attention][split]") {
  const auto fraction = GENERATE(0.0, 0.1, 0.125, 0.25, 0.34, 0.5);
  const auto share = GENERATE(1.0, 0.9, 0.51, 0.5, 1.0 / 3, 0.3, 0.1, 0.037, 0.01, 1e-6);
  CAPTURE(fraction, share);
  const numbered source({40, 1, 2, 7, 8, 9, 100, 101, 997});
  const kvfit::query_split parts = split_queries(source.queries(), source.masks, fraction, share);
  const kvfit::query_split whole = split_queries(source.queries(), source.masks, fraction);
  const std::map<index_t, int> fit = rows_of(parts.fit, source);
  const std::map<index_t, int> not_held = rows_of(whole.fit, source);
  CHECK(rows_of(parts.judge, source) == rows_of(whole.judge, source));

  std::vector<index_t> taken(source.blocks.size(), 0);
  std::vector<index_t> could(source.blocks.size(), 0);
  bool is_once = true;
  for (const auto& [id, count] : fit) {
    is_once = is_once && count == 1 && not_held.count(id) == 1;
    ++taken[static_cast<std::size_t>(id / 1000)];
  }
  for (const auto& [id, count] : not_held) ++could[static_cast<std::size_t>(id / 1000)];
  CHECK(is_once);
  for (std::size_t b = 0; b < source.blocks.size(); ++b) {
    CAPTURE(b, taken[b], could[b]);
    const double wanted = share * static_cast<double>(could[b]);
    CHECK(static_cast<double>(taken[b]) >= wanted * (1 - 1e-9));
    // One in thin, or some of the strided lanes, is a whole number, so up to twice the share; a
    // block in runs takes at least one of each.
    const double runs =
        fraction > 0 ? std::ceil(static_cast<double>(source.blocks[b].rows.rows()) * fraction) : 0;
    CHECK(static_cast<double>(taken[b]) <= 2 * wanted + runs + 1);
  }
}

TEST_CASE("A share of the queries spans every block evenly", "[attention][split]") {
  const auto fraction = GENERATE(0.0, 0.1, 0.25, 0.5);
  const auto share = GENERATE(1.0, 0.7, 0.5, 0.3, 0.1, 0.04);
  CAPTURE(fraction, share);
  const numbered source({60, 400, 997});
  const kvfit::query_split parts = split_queries(source.queries(), source.masks, fraction, share);
  std::map<index_t, int> fit = rows_of(parts.fit, source);
  // A row each 1 / share of those that are not held out, and a held-out one may lie between.
  const double kept = fraction > 0 ? 1 - fraction : 1;
  const double widest = 1 / (share * kept) + (fraction > 0 ? 2 : 0);
  for (std::size_t b = 0; b < source.blocks.size(); ++b) {
    index_t before = -1;
    index_t gap = 0;
    for (const auto& [id, count] : fit) {
      if (id / 1000 != static_cast<index_t>(b)) continue;
      gap = std::max(gap, id % 1000 - before);
      before = id % 1000;
    }
    gap = std::max(gap, source.blocks[b].rows.rows() - before);
    CAPTURE(b, gap, widest);
    CHECK(static_cast<double>(gap) <= widest);
  }
}

TEST_CASE("The origins of a split lead back to its rows", "[attention][split]") {
  const auto fraction = GENERATE(0.0, 0.1, 0.34, 0.5);
  const auto share = GENERATE(1.0, 0.4, 0.05);
  CAPTURE(fraction, share);
  const numbered source({40, 3, 100});
  const kvfit::query_split parts = split_queries(source.queries(), source.masks, fraction, share);
  for (const query_part* part : {&parts.fit, &parts.judge}) {
    REQUIRE(part->origins.size() == part->blocks.size());
    bool leads_back = true;
    for (std::size_t p = 0; p < part->blocks.size(); ++p) {
      const kvfit::block_origin& origin = part->origins[p];
      const row_view& rows = part->blocks[p].rows;
      for (index_t i = 0; i < rows.rows(); ++i) {
        const index_t id =
            1000 * static_cast<index_t>(origin.block) + origin.first + i * origin.step;
        leads_back = leads_back && rows(i, 0) == static_cast<float>(id);
      }
    }
    CHECK(leads_back);
  }
}

TEST_CASE("All queries that are not held out lie in as few blocks as can be",
          "[attention][split]") {
  const numbered source({40, 7});
  const kvfit::query_split parts = split_queries(source.queries(), source.masks, 0.25, 1);
  const auto starts = [&](std::size_t p) { return parts.fit.blocks[p].rows.data(); };
  REQUIRE(parts.fit.blocks.size() == 5);
  for (index_t k = 0; k < 3; ++k) {  // interleaved: ten rows each, four apart
    CHECK(starts(static_cast<std::size_t>(k)) == &source.memory[0](k, 0));
    CHECK(parts.fit.blocks[static_cast<std::size_t>(k)].rows.rows() == 10);
  }
  CHECK(starts(3) == &source.memory[1](0, 0));  // runs around the one held out
  CHECK(parts.fit.blocks[3].rows.rows() == 3);
  CHECK(starts(4) == &source.memory[1](4, 0));
  CHECK(parts.fit.blocks[4].rows.rows() == 3);
}

TEST_CASE("Attention of the parts is attention of the whole, row by row", "[attention][split]") {
  const sample head(50, 60, 16, 8);
  kvfit::matrix mask = random_matrix(50, 60, 40);
  const std::vector<row_view> masks = {mask};
  const query_block queries(head.queries, 20, 0.1F);
  const kvfit::logit_rule rule = {.causal = true};
  const kvfit::kv_block cache{.keys = head.keys, .values = head.values, .masks = masks};
  const auto whole = kvfit::attend(queries, {cache}, rule);
  REQUIRE(whole);
  const kvfit::query_split parts = split_queries(queries, masks, 0.2);
  std::vector<index_t> fit_rows;
  std::vector<index_t> judge_rows;
  for (index_t first = 0; first < 4; ++first) {
    for (index_t i = first; i < 50; i += 5) fit_rows.push_back(i);
  }
  for (index_t i = 4; i < 50; i += 5) judge_rows.push_back(i);
  for (const auto& [part, rows] : {std::pair{&parts.fit, &fit_rows}, {&parts.judge, &judge_rows}}) {
    const auto y = kvfit::attend(part->set(), {part->beside(cache)}, rule);
    REQUIRE(y);
    REQUIRE(y->output.rows() == static_cast<index_t>(rows->size()));
    kvfit::attention_output expected = *y;
    for (std::size_t i = 0; i < rows->size(); ++i) {
      expected.output.row(static_cast<index_t>(i)) = whole->output.row((*rows)[i]);
      expected.log_mass[static_cast<index_t>(i)] = whole->log_mass[(*rows)[i]];
    }
    check_close(*y, expected, 64 * fp32_rounding, 64 * fp32_rounding);
  }
}

}  // namespace kvfit_test
