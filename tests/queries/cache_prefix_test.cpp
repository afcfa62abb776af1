// SPDX-License-Identifier: MIT
#include "kvfit/queries/cache_prefix.hpp"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "queries/tiny_text.hpp"

namespace kvfit_test {

using kvfit::errc;

namespace {

/// Rows first … end − 1 of a layer as a compacted one: every row, no bias.
kvfit::compacted_layer rows_as_compact(const kvfit::cache_layer& layer, index_t first,
                                       index_t end) {
  kvfit::compacted_layer out;
  out.number = layer.number;
  out.offsets = {0};
  const index_t rows = end - first;
  const auto heads = static_cast<index_t>(layer.heads.size());
  out.keys.resize(heads * rows, layer.heads[0].keys.cols());
  out.values.resize(heads * rows, layer.heads[0].values.cols());
  out.bias = kvfit::vector::Zero(heads * rows);
  for (index_t h = 0; h < heads; ++h) {
    const kvfit::kv_block& head = layer.heads[static_cast<std::size_t>(h)];
    for (index_t j = 0; j < rows; ++j) {
      out.positions.push_back(j);
      out.key_positions.push_back(first + j);
      for (index_t k = 0; k < out.keys.cols(); ++k) {
        out.keys(h * rows + j, k) = head.keys(first + j, k);
      }
      for (index_t k = 0; k < out.values.cols(); ++k) {
        out.values(h * rows + j, k) = head.values(first + j, k);
      }
    }
    out.offsets.push_back((h + 1) * rows);
  }
  out.heads.resize(layer.heads.size());
  return out;
}

std::vector<index_t> positions_seen(const std::vector<kvfit::kv_block>& blocks) {
  std::vector<index_t> seen;
  for (const kvfit::kv_block& block : blocks) {
    for (index_t j = 0; j < block.keys.rows(); ++j) seen.push_back(block.position(j));
  }
  std::sort(seen.begin(), seen.end());
  return seen;
}

}  // namespace

TEST_CASE("rows that a compact block covers are never seen besides it", "[queries][prefix]") {
  const tiny_engine model;
  const tiny_text text(model, 30);
  const auto [first, end] =
      GENERATE(std::pair<index_t, index_t>{0, 30}, std::pair<index_t, index_t>{4, 21},
               std::pair<index_t, index_t>{0, 9}, std::pair<index_t, index_t>{12, 30},
               std::pair<index_t, index_t>{5, 5});
  kvfit::compacted_cache same;
  for (const kvfit::cache_layer& layer : text.full.cache.view().layers) {
    same.layers.push_back(rows_as_compact(layer, first, end));
  }
  auto replaced = kvfit::compacted_prefix(text.prefix, same, first, end);
  REQUIRE(replaced);
  // A second time: the compact rows themselves are replaced.
  replaced = kvfit::compacted_prefix(*replaced, same, first, end);
  REQUIRE(replaced);
  std::vector<index_t> everywhere(30);
  for (index_t i = 0; i < 30; ++i) everywhere[static_cast<std::size_t>(i)] = i;
  for (const auto& layer : replaced->blocks) {
    for (const auto& head : layer) CHECK(positions_seen(head) == everywhere);
  }

  const auto more = model.text(10, 8);
  const auto rest = kvfit::prefill(text.read, more, *replaced);
  REQUIRE(rest);
  const oracle_run oracle = oracle_read(model, joined(text.tokens, more));
  const auto logits = model.logits(rest->hidden);
  for (index_t i = 0; i < 10; ++i) {
    CHECK(difference(logits->row(i), oracle.logits[static_cast<std::size_t>(30 + i)]) <
          tiny_tolerance);
  }
}

TEST_CASE("a compact prefix is read over as the formula says, biases and all",
          "[queries][prefix]") {
  const tiny_engine model;
  const tiny_text text(model, 24);
  oracle_replacement replaced{24, {}};
  kvfit::compacted_cache cache;
  for (const kvfit::cache_layer& layer : text.full.cache.view().layers) {
    kvfit::compacted_layer small = rows_as_compact(layer, 3, 11);
    small.keys += random_matrix(small.keys.rows(), small.keys.cols(), 5, 0.5F);
    small.bias = random_matrix(small.bias.size(), 1, 6).col(0);
    replaced.rows.push_back(oracle_rows(small));
    cache.layers.push_back(std::move(small));
  }
  const auto prefix = kvfit::compacted_prefix(text.prefix, cache);
  REQUIRE(prefix);
  const auto more = model.text(12, 8);
  const auto rest = kvfit::prefill(text.read, more, *prefix);
  REQUIRE(rest);
  const oracle_run oracle = oracle_read(model, joined(text.tokens, more), replaced);
  const auto logits = model.logits(rest->hidden);
  for (index_t i = 0; i < 12; ++i) {
    CHECK(difference(logits->row(i), oracle.logits[static_cast<std::size_t>(24 + i)]) <
          tiny_tolerance);
  }
}

TEST_CASE("a cache of the caller's is a prefix too", "[queries][prefix]") {
  const tiny_engine model;
  const tiny_text text(model, 12);
  const auto more = model.text(5, 8);
  const auto given = kvfit::prefix_of(text.full.cache.view(), 3, 12);
  REQUIRE(given);
  const auto a = kvfit::prefill(text.read, more, text.prefix);
  const auto b = kvfit::prefill(text.read, more, *given);
  REQUIRE(b);
  CHECK(a->hidden == b->hidden);
  const auto missing = kvfit::prefix_of(text.full.cache.view(), 2, 12);
  REQUIRE_FALSE(missing.has_value());
  CHECK(missing.error().actual == 2);
}

TEST_CASE("prefixes that don't fit are refused and left as they were", "[queries][prefix]") {
  const tiny_engine model;
  const tiny_text text(model, 12);
  auto prefix = text.prefix;
  const kvfit::compacted_layer layer = rows_as_compact(text.full.cache.view().layers[1], 2, 9);
  const auto refused = [&](const kvfit::compacted_layer& given, index_t first, index_t end) {
    const auto ok = kvfit::replace_rows(prefix, given, first, end);
    REQUIRE_FALSE(ok.has_value());
    CHECK(positions_seen(prefix.blocks[1][0]).size() == 12);
    return ok.error().code;
  };
  auto other = layer;
  other.number = 3;
  CHECK(refused(other, 2, 9) == errc::invalid_option);
  other = layer;
  other.offsets.pop_back();
  CHECK(refused(other, 2, 9) == errc::shape_mismatch);
  other = layer;
  other.bias.conservativeResize(other.bias.size() - 1);
  CHECK(refused(other, 2, 9) == errc::shape_mismatch);
  other = layer;
  other.keys(3, 1) = std::numeric_limits<float>::infinity();
  CHECK(refused(other, 2, 9) == errc::non_finite);
  CHECK(refused(layer, 2, 13) == errc::invalid_position);
  CHECK(refused(layer, 9, 2) == errc::invalid_position);
  CHECK(refused(layer, 3, 9) == errc::invalid_position);  // its row 2 stays live

  const auto cause = [&](const kvfit::cache_prefix& wrong) {
    const auto read = kvfit::prefill(text.read, model.text(2, 1), wrong);
    REQUIRE_FALSE(read.has_value());
    INFO(read.error().message());
    return read.error().code;
  };
  auto wrong = text.prefix;
  wrong.positions = 11;
  CHECK(cause(wrong) == errc::invalid_position);
  wrong = text.prefix;
  wrong.blocks.pop_back();
  CHECK(cause(wrong) == errc::shape_mismatch);
  wrong = text.prefix;
  wrong.blocks[0].pop_back();
  CHECK(cause(wrong) == errc::shape_mismatch);
  wrong = text.prefix;
  std::swap(wrong.blocks[2][1][0].keys, wrong.blocks[2][1][0].values);
  CHECK(cause(wrong) == errc::shape_mismatch);
  wrong = text.prefix;
  wrong.blocks[2][1][0].first_position = std::numeric_limits<index_t>::max();
  CHECK(cause(wrong) == errc::invalid_option);
  // A block whose parts do not fit together can't be cut.
  const std::vector<index_t> places(11);
  const std::vector<float> biases(13);
  for (const bool is_bias : {true, false}) {
    wrong = text.prefix;
    kvfit::kv_block& torn = wrong.blocks[1][0][0];
    if (is_bias) torn.bias = biases;
    if (!is_bias) torn.positions = places;
    const auto cut = kvfit::replace_rows(wrong, layer, 2, 9);
    REQUIRE_FALSE(cut.has_value());
    CHECK(cut.error().code == errc::shape_mismatch);
  }
  wrong = text.prefix;
  const std::vector<kvfit::row_view> masks(2);
  wrong.blocks[2][1][0].masks = masks;
  CHECK(cause(wrong) == errc::invalid_option);
}

}  // namespace kvfit_test
