// SPDX-License-Identifier: MIT
// Rows that a bias of -infinity hides: unwritten memory, which nothing may look at.
#include <limits>
#include <vector>

#include "attention/samples.hpp"
#include "kvfit/attention/row_order.hpp"
#include "kvfit/view/store.hpp"
#include "kvfit/view/writable_view.hpp"
#include "support/watched_rows.hpp"

namespace kvfit_test {

using kvfit::attend;
using kvfit::errc;
using kvfit::kv_block;
using kvfit::query_block;
using kvfit::row_view;
using kvfit::score_pass;

namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// A head whose rows are hidden in runs: at both ends, across the ends of tiles, one by one; with
/// masks and positions. `spoilt` has NaN and infinity in hidden rows, in the masks' columns of
/// them, and positions that are none.
struct partly_hidden {
  static constexpr index_t rows = 700;
  static constexpr index_t n = 40;

  partly_hidden() {
    for (index_t j = 0; j < rows; ++j) {
      const bool is_hidden = j < 5 || j >= rows - 9 || (j > 250 && j < 262) || j % 17 == 3;
      bias.push_back(is_hidden ? hidden : 0.01F * static_cast<float>(j % 11));
      positions.push_back(j < 300 ? 400 + j : j - 300);  // a ring
    }
    clean_mask = random_matrix(n, rows, 77, 0.3F);
    spoilt_keys = made.keys;
    spoilt_values = made.values;
    spoilt_mask = clean_mask;
    spoilt_positions = positions;
    for (index_t j = 0; j < rows; ++j) {
      if (!is_hidden(j)) continue;
      spoilt_keys.row(j).setConstant(j % 2 == 0 ? nan : infinity_of(j));
      spoilt_values.row(j).setConstant(nan);
      spoilt_mask.col(j).setConstant(nan);
      spoilt_positions[static_cast<std::size_t>(j)] =
          j % 3 == 0 ? std::numeric_limits<index_t>::max() : std::numeric_limits<index_t>::min();
    }
    clean_masks.emplace_back(clean_mask);
    spoilt_masks.emplace_back(spoilt_mask);
  }

  static float infinity_of(index_t j) {
    return j % 4 == 1 ? std::numeric_limits<float>::infinity() : hidden;
  }
  [[nodiscard]] bool is_hidden(index_t j) const {
    return bias[static_cast<std::size_t>(j)] == hidden;
  }
  [[nodiscard]] kv_block clean() const {
    return {.keys = made.keys,
            .values = made.values,
            .bias = bias,
            .positions = positions,
            .masks = clean_masks};
  }
  [[nodiscard]] kv_block spoilt() const {
    return {.keys = spoilt_keys,
            .values = spoilt_values,
            .bias = bias,
            .positions = spoilt_positions,
            .masks = spoilt_masks};
  }
  [[nodiscard]] query_block queries() const { return query_block(made.queries, 690, 0.002F); }

  sample made{n, rows, 16, 8};
  std::vector<float> bias;
  std::vector<index_t> positions;
  std::vector<index_t> spoilt_positions;
  kvfit::matrix spoilt_keys;
  kvfit::matrix spoilt_values;
  kvfit::matrix clean_mask;
  kvfit::matrix spoilt_mask;
  std::vector<row_view> clean_masks;
  std::vector<row_view> spoilt_masks;
};

}  // namespace

TEST_CASE("H: rows hidden by a bias are never read by attention, nor by the score pass",
          "[attention][hidden]") {
  const partly_hidden of;
  const kvfit::logit_rule rule{.causal = true, .window = 650};
  const auto precision = GENERATE(kvfit::precision_kind::fp32, kvfit::precision_kind::bf16);
  const auto y = attend(of.queries(), {of.clean()}, rule);
  const auto scores = score_pass(of.clean(), of.queries(), rule,
                                 {.keep_exponentials = index_t{1} << 30, .precision = precision});
  REQUIRE(y);
  REQUIRE(scores);
  const auto check = [&](const kv_block& cache) {
    const auto again = attend(of.queries(), {cache}, rule);
    REQUIRE(again);
    CHECK(same_bytes(again->output, y->output));
    CHECK(same_bytes(again->log_mass, y->log_mass));
    const auto scored = score_pass(cache, of.queries(), rule,
                                   {.keep_exponentials = index_t{1} << 30, .precision = precision});
    REQUIRE(scored);
    CHECK(same_bytes(scored->output, scores->output));
    CHECK(same_bytes(scored->importance, scores->importance));
    CHECK(same_bytes(scored->exponentials, scores->exponentials));
    for (index_t j = 0; j < partly_hidden::rows; ++j) {
      if (of.is_hidden(j)) CHECK(scored->importance[j] == 0.0F);
    }
  };
  SECTION("fp32 in place") {
    check(of.spoilt());
  }
  SECTION("values transposed") {
    const kvfit::matrix across = of.spoilt_values.transpose();
    kv_block cache = of.spoilt();
    cache.values = row_view(across).transposed();
    check(cache);
  }
  SECTION("rows that a decoder is asked for") {
    const watched_rows keys(of.spoilt_keys);
    const watched_rows values(of.spoilt_values);
    kv_block cache = of.spoilt();
    cache.keys = keys.view();
    cache.values = values.view();
    check(cache);
    for (index_t j = 0; j < partly_hidden::rows; ++j) {
      CHECK(keys.was_asked(j) == !of.is_hidden(j));
      CHECK(values.was_asked(j) == !of.is_hidden(j));
    }
  }
}

TEST_CASE("H: hidden rows of a live suffix are never read either", "[attention][hidden]") {
  const partly_hidden of;
  kv_block clean = of.clean();
  kv_block spoilt = of.spoilt();
  clean.masks = spoilt.masks = {};
  const sample prefix(1, 30, 16, 8, 9);
  const auto y = attend(of.made.queries, {prefix.cache(), clean});
  const auto again = attend(of.made.queries, {prefix.cache(), spoilt});
  REQUIRE(y);
  REQUIRE(again);
  CHECK(same_bytes(again->output, y->output));
  CHECK(same_bytes(again->log_mass, y->log_mass));
}

TEST_CASE("NaN in a row that is not hidden is refused as ever, by its own number",
          "[attention][hidden]") {
  partly_hidden of;
  const auto cause = [&] {
    const auto scores = score_pass(of.spoilt(), of.queries());
    REQUIRE_FALSE(scores);
    CHECK(scores.error().code == errc::non_finite);
    return scores.error();
  };
  SECTION("keys") {
    of.spoilt_keys(400, 3) = nan;
    CHECK(cause().message() == "non_finite: keys: 400, column 3");
  }
  SECTION("values") {
    of.spoilt_values(6, 7) = nan;
    CHECK(cause().message() == "non_finite: values: 6, column 7");
  }
  SECTION("masks") {
    of.spoilt_mask(2, 401) = nan;
    CHECK(cause().argument == "masks");
    CHECK(cause().expected == 401);
  }
  SECTION("a position") {
    of.spoilt_positions[7] = std::numeric_limits<index_t>::max();
    const auto scores = score_pass(of.spoilt(), of.queries());
    REQUIRE_FALSE(scores);
    CHECK(scores.error().argument == "positions");
  }
}

TEST_CASE("the order of rows: what is hidden where, and whether visible positions ascend",
          "[attention][hidden]") {
  const sample made(1, 8, 4, 4);
  kv_block cache = made.cache();
  CHECK(kvfit::order_of(cache).is_plain());
  const std::vector<float> bias = {hidden, hidden, 0, 0, hidden, 0, 0, hidden};
  cache.bias = bias;
  const kvfit::row_order order = kvfit::order_of(cache);
  CHECK(order.hidden_first == 2);
  CHECK(order.hidden_last == 1);
  CHECK(order.hidden_between == 1);
  CHECK(order.is_ascending);
  CHECK_FALSE(order.is_plain());
  std::vector<index_t> positions = {9, 9, 3, 3, -1, 4, 7, 0};  // of hidden rows: anything
  cache.positions = positions;
  CHECK(kvfit::order_of(cache).is_ascending);
  positions[6] = 2;
  CHECK_FALSE(kvfit::order_of(cache).is_ascending);
  const std::vector<float> all(8, hidden);
  cache.bias = all;
  CHECK(kvfit::order_of(cache).hidden() == 8);
}

}  // namespace kvfit_test
