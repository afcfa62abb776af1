// SPDX-License-Identifier: MIT
#include "kvfit/attention/score_pass.hpp"

#include <chrono>
#include <numeric>

#include "attention/samples.hpp"
#include "kvfit/parallel/thread_pool.hpp"

namespace kvfit_test {

using kvfit::importance_kind;
using kvfit::kv_block;
using kvfit::pooling_kind;
using kvfit::query_block;
using kvfit::score_pass;

namespace {

constexpr auto every_kind = {importance_kind::mean, importance_kind::rms, importance_kind::max};

/// Relative error of a key's importance: that of the weights, then n sums in fp32. Below, squares
/// of weights under 1e-19 vanish in fp32.
void check_importance(const kvfit::vector& found, const VectorXd& wanted,
                      const oracle_attention& expected, index_t depth) {
  REQUIRE(found.size() == wanted.size());
  const index_t n = expected.weights.rows();
  double logit_error = 0;
  for (index_t i = 0; i < n; ++i)
    logit_error = std::max(logit_error, expected.logit_error(i, depth));
  const double relative =
      std::expm1(2 * logit_error) + 2e-6 + fp32_rounding * static_cast<double>(n + 16);
  worst_case worst;
  for (index_t j = 0; j < found.size(); ++j) {
    worst.see(std::abs(static_cast<double>(found[j]) - wanted[j]), relative * wanted[j] + 1.1e-19,
              j);
  }
  INFO("importance: " << worst.text());
  CHECK(worst.ratio <= 1);
}

}  // namespace

TEST_CASE("The score pass equals attention in double at every size around the tiles",
          "[attention][score_pass]") {
  const auto n = GENERATE(as<index_t>{}, 1, 7, 64, 65, 600);
  const auto keys = GENERATE(as<index_t>{}, 1, 7, 255, 256, 257, 600);
  CAPTURE(n, keys);
  const sample head(n, keys, 24, 40);
  const oracle_attention expected = attend_in_double(head.queries, head.cache());
  for (const importance_kind kind : every_kind) {
    CAPTURE(static_cast<int>(kind));
    const auto scores = score_pass(head.cache(), head.queries, {}, {.importance = kind});
    REQUIRE(scores);
    check_attention(scores->output, scores->log_mass, expected, 24);
    check_importance(scores->importance, importance_of(expected.weights, kind), expected, 24);
    worst_case max;
    for (index_t i = 0; i < n; ++i) {
      max.see(std::abs(static_cast<double>(scores->max[i]) - expected.max[i]),
              expected.logit_error(i, 24), i);
    }
    INFO("max: " << max.text());
    CHECK(max.ratio <= 1);
  }
}

TEST_CASE("The score pass agrees with attend to the last bit but one", "[attention][score_pass]") {
  const sample head(130, 300, 32, 24);
  const auto scores = score_pass(head.cache(), head.queries);
  const auto y = kvfit::attend(head.queries, {head.cache()});
  REQUIRE(scores);
  REQUIRE(y);
  check_close({scores->output, scores->log_mass}, *y, 32 * fp32_rounding, 4 * fp32_rounding);
}

TEST_CASE("Importance counts the queries of every block, under the whole rule",
          "[attention][score_pass]") {
  const sample head(110, 300, 16, 8);
  std::vector<query_block> blocks = {
      query_block(kvfit::row_view(head.queries).middle_rows(0, 70), 150, 0.02F),
      query_block(kvfit::row_view(head.queries).middle_rows(70, 40), 260, 0.01F)};
  const std::vector<float> bias = random_numbers(300, 40);
  const kv_block cache{.keys = head.keys, .values = head.values, .bias = bias};
  const kvfit::logit_rule rule = {.soft_cap = 3, .causal = true, .window = 180};
  const std::span<const query_block> queries(blocks);
  const oracle_attention expected = attend_in_double(queries, cache, rule);
  for (const importance_kind kind : every_kind) {
    CAPTURE(static_cast<int>(kind));
    const auto scores = score_pass(cache, queries, rule, {.importance = kind});
    REQUIRE(scores);
    check_attention(scores->output, scores->log_mass, expected, 16);
    check_importance(scores->importance, importance_of(expected.weights, kind), expected, 16);
  }
}

TEST_CASE("An observation window counts the last queries of every block, and nothing else changes",
          "[attention][score_pass]") {
  // Panels of 96: the window begins inside one, at its edge, or before the block.
  const auto window = GENERATE(as<index_t>{}, 1, 7, 34, 35, 103, 104, 1000);
  CAPTURE(window);
  const sample head(230 + 5 + 104, 300, 16, 8);
  const kvfit::row_view rows(head.queries);
  const std::vector<query_block> blocks = {rows.middle_rows(0, 230), rows.middle_rows(230, 5),
                                           rows.middle_rows(235, 104)};
  const std::span<const query_block> queries(blocks);
  const oracle_attention expected = attend_in_double(queries, head.cache());
  std::vector<index_t> observed;
  for (const auto& [first, count] : {std::pair<index_t, index_t>{0, 230}, {230, 5}, {235, 104}}) {
    for (index_t i = std::max<index_t>(count - window, 0); i < count; ++i)
      observed.push_back(first + i);
  }
  oracle_attention seen = expected;
  seen.weights.resize(static_cast<index_t>(observed.size()), 300);
  seen.magnitude.resize(static_cast<index_t>(observed.size()));
  for (std::size_t i = 0; i < observed.size(); ++i) {
    seen.weights.row(static_cast<index_t>(i)) = expected.weights.row(observed[i]);
    seen.magnitude[static_cast<index_t>(i)] = expected.magnitude[observed[i]];
  }
  for (const importance_kind kind : every_kind) {
    CAPTURE(static_cast<int>(kind));
    const auto all = score_pass(head.cache(), queries, {}, {.importance = kind});
    const auto scores =
        score_pass(head.cache(), queries, {}, {.importance = kind, .window = window});
    REQUIRE(all);
    REQUIRE(scores);
    check_importance(scores->importance, importance_of(seen.weights, kind), seen, 16);
    CHECK(same_bytes(scores->output, all->output));
    CHECK(same_bytes(scores->log_mass, all->log_mass));
    if (window >= 230) CHECK(same_bytes(scores->importance, all->importance));
  }
}

TEST_CASE("A score pass ends early on a wish or a deadline", "[attention][score_pass]") {
  const sample head(20, 40, 8, 6);
  const kv_block cache{.keys = kvfit::row_view(head.keys), .values = head.values};
  kvfit::cancellation wish;
  CHECK(score_pass(cache, head.queries, {}, {}, {.cancel = &wish}));
  wish.request();
  for (const kvfit::stop_when& stop :
       {kvfit::stop_when{.cancel = &wish},
        kvfit::stop_when{.deadline = std::chrono::steady_clock::now()}}) {
    const auto ended = score_pass(cache, head.queries, {}, {}, stop);
    REQUIRE_FALSE(ended);
    CHECK(ended.error().code == kvfit::errc::cancelled);
    CHECK(ended.error().argument == "score pass");
  }
}

TEST_CASE("A score pass on several threads gives the same bytes, and the first error",
          "[attention][score_pass][threads]") {
  sample head(150, 2300, 8, 6);
  const kv_block cache{.keys = kvfit::row_view(head.keys), .values = head.values};
  kvfit::thread_pool pool(3);
  for (const importance_kind kind :
       {importance_kind::none, importance_kind::mean, importance_kind::rms, importance_kind::max}) {
    for (const index_t kept : {index_t{0}, index_t{1} << 30}) {
      const kvfit::score_options options{
          .importance = kind, .keep_exponentials = kept, .window = 77, .panel = 16};
      const auto alone = score_pass(cache, head.queries, {}, options);
      REQUIRE(alone);
      for (const index_t at_once : {1, 2, 4, 50}) {
        kvfit::score_options shared = options;
        shared.panels_at_once = at_once;
        const auto found = score_pass(cache, head.queries, {}, shared, {}, pool);
        REQUIRE(found);
        CHECK(same_bytes(found->max, alone->max));
        CHECK(same_bytes(found->mass, alone->mass));
        CHECK(same_bytes(found->log_mass, alone->log_mass));
        CHECK(same_bytes(found->output, alone->output));
        CHECK(same_bytes(found->importance, alone->importance));
        CHECK(same_bytes(found->exponentials, alone->exponentials));
        CHECK(same_bytes(found->shift, alone->shift));
      }
    }
  }
  const auto none = score_pass(cache, head.queries, {}, {.panels_at_once = 0});
  REQUIRE_FALSE(none);
  CHECK(none.error().code == kvfit::errc::invalid_option);
  CHECK(none.error().argument == "panels_at_once");

  // Two panels of one group overflow: the error is the first one's.
  head.keys.row(0).setConstant(1e30F);
  head.queries.row(20).setConstant(1e30F);
  head.queries.row(37).setConstant(1e30F);
  const auto failed =
      score_pass(cache, head.queries, {}, {.panel = 16, .panels_at_once = 4}, {}, pool);
  REQUIRE_FALSE(failed);
  CHECK(failed.error().code == kvfit::errc::non_finite);
  CHECK(failed.error().actual == 20);
}

TEST_CASE("A negative observation window is refused with its size", "[attention][score_pass]") {
  const sample head(3, 10, 4, 4);
  const auto scores = score_pass(head.cache(), head.queries, {}, {.window = -3});
  REQUIRE_FALSE(scores);
  CHECK(scores.error().code == kvfit::errc::invalid_option);
  CHECK(scores.error().argument == "window");
  CHECK(scores.error().actual == -3);
}

TEST_CASE("§9.4 logits that climb from tile to tile give the same attention, kept or not",
          "[attention][score_pass]") {
  const auto climb = GENERATE(0.0F, 3.0F, 15.0F, 30.0F, -30.0F);  // from one 256 keys to the next
  const auto start = GENERATE(0.0F, -infinity);                   // the first keys may be hidden
  CAPTURE(climb, start);
  const index_t n = 130;
  const index_t keys = 1100;
  const sample head(n, keys, 24, 40);
  std::vector<float> bias(static_cast<std::size_t>(keys));
  for (index_t j = 0; j < keys; ++j) {
    bias[static_cast<std::size_t>(j)] = j < 256 ? start : climb * static_cast<float>(j / 256);
  }
  const kv_block cache{.keys = head.keys, .values = head.values, .bias = bias};
  const oracle_attention expected = attend_in_double(head.queries, cache);
  for (const importance_kind kind : every_kind) {
    const auto scores = score_pass(cache, head.queries, {},
                                   {.importance = kind, .keep_exponentials = n * keys * 4});
    REQUIRE(scores);
    check_attention(scores->output, scores->log_mass, expected, 24);
    check_importance(scores->importance, importance_of(expected.weights, kind), expected, 24);
    REQUIRE(scores->exponentials.rows() == keys);
    REQUIRE(scores->exponentials.cols() == n);
    REQUIRE(scores->shift.size() == n);
    worst_case weight;
    for (index_t i = 0; i < n; ++i) {
      CHECK(scores->shift[i] <= scores->max[i]);
      CHECK(scores->shift[i] >= scores->max[i] - 16);
      const double to_share = std::exp(static_cast<double>(scores->shift[i]) -
                                       static_cast<double>(scores->log_mass[i]));
      const double relative = std::expm1(3 * expected.logit_error(i, 24)) + 1e-5;
      for (index_t j = 0; j < keys; ++j) {
        const double share = static_cast<double>(scores->exponentials(j, i)) * to_share;
        weight.see(std::abs(share - expected.weights(i, j)),
                   relative * expected.weights(i, j) + 1e-30, j);
      }
    }
    INFO("kept exponentials: " << weight.text());
    CHECK(weight.ratio <= 1);
  }
}

TEST_CASE("Exponentials are kept where they fit the bytes allowed, not otherwise",
          "[attention][score_pass]") {
  const sample head(10, 30, 24, 40);
  const auto kept = [&](index_t bytes) {
    return score_pass(head.cache(), head.queries, {}, {.keep_exponentials = bytes})
        ->exponentials.size();
  };
  CHECK(kept(10 * 30 * 4) == 300);
  CHECK(kept(10 * 30 * 4 - 1) == 0);
  CHECK(kept(0) == 0);
}

TEST_CASE("A score pass without outputs equals the one with them to the bit",
          "[attention][score_pass]") {
  const index_t n = 130;
  const index_t keys = 700;
  const auto precision = GENERATE(kvfit::precision_kind::fp32, kvfit::precision_kind::bf16);
  const sample head(n, keys, 24, 40);
  std::vector<float> bias(static_cast<std::size_t>(keys), 0.0F);  // shifts are raised on the way
  for (index_t j = 256; j < keys; ++j) bias[static_cast<std::size_t>(j)] = j < 512 ? 20.0F : 60.0F;
  for (const importance_kind kind : every_kind) {
    for (const index_t kept : {index_t{0}, 4 * n * keys}) {
      const kv_block cache{.keys = head.keys, .values = head.values, .bias = bias};
      kvfit::score_options options{
          .importance = kind, .keep_exponentials = kept, .precision = precision};
      const auto with = score_pass(cache, head.queries, {}, options);
      options.outputs = false;
      const auto without = score_pass(cache, head.queries, {}, options);
      REQUIRE(with);
      REQUIRE(without);
      CHECK(with->output.rows() == n);
      CHECK(without->output.size() == 0);
      CHECK(same_bytes(without->max, with->max));
      CHECK(same_bytes(without->mass, with->mass));
      CHECK(same_bytes(without->log_mass, with->log_mass));
      CHECK(same_bytes(without->importance, with->importance));
      CHECK(same_bytes(without->exponentials, with->exponentials));
      CHECK(same_bytes(without->shift, with->shift));
    }
  }
}

TEST_CASE("Mean importance adds up to 1", "[attention][score_pass]") {
  const sample head(70, 300, 16, 8);
  const auto scores =
      score_pass(head.cache(), head.queries, {}, {.importance = importance_kind::mean});
  REQUIRE(scores);
  CHECK(std::abs(scores->importance.cast<double>().sum() - 1) <= 1e-6 + 70 * fp32_rounding);
}

TEST_CASE("Importance that is not asked for is empty", "[attention][score_pass]") {
  const sample head(7, 30, 16, 8);
  const auto scores =
      score_pass(head.cache(), head.queries, {},
                 {.importance = importance_kind::none, .pooling = pooling_kind::max});
  REQUIRE(scores);
  CHECK(scores->importance.size() == 0);
  check_attention(scores->output, scores->log_mass, attend_in_double(head.queries, head.cache()),
                  16);
}

TEST_CASE("Pooled importance equals the plain formula at every width", "[attention][score_pass]") {
  const auto keys = GENERATE(as<index_t>{}, 1, 2, 7, 60);
  const auto width = GENERATE(as<index_t>{}, 1, 3, 7, 61, 1001);
  const auto pooling = GENERATE(pooling_kind::none, pooling_kind::average, pooling_kind::max);
  CAPTURE(keys, width, static_cast<int>(pooling));
  const sample head(9, keys, 16, 8);
  const oracle_attention expected = attend_in_double(head.queries, head.cache());
  for (const importance_kind kind : every_kind) {
    const auto scores =
        score_pass(head.cache(), head.queries, {},
                   {.importance = kind, .pooling = pooling, .pooling_width = width});
    REQUIRE(scores);
    check_importance(scores->importance,
                     pool_of(importance_of(expected.weights, kind), pooling, width), expected, 16);
  }
}

TEST_CASE("Pooling by hand: the average counts zeros beyond the ends", "[attention][score_pass]") {
  // One query and logits that are logarithms, so that the weights are 1/10, 2/10, 3/10, 4/10.
  const kvfit::matrix q = kvfit::matrix::Ones(1, 1);
  const kvfit::matrix v = kvfit::matrix::Ones(4, 1);
  kvfit::matrix k(4, 1);
  k << std::log(1.0F), std::log(4.0F), std::log(2.0F), std::log(3.0F);
  const auto pooled = [&](pooling_kind kind) {
    const auto scores =
        score_pass({.keys = k, .values = v}, q, {}, {.pooling = kind, .pooling_width = 3});
    REQUIRE(scores);
    return scores->importance;
  };
  const kvfit::vector average = pooled(pooling_kind::average);
  const kvfit::vector max = pooled(pooling_kind::max);
  const std::vector<double> averages = {5.0 / 30, 7.0 / 30, 9.0 / 30, 5.0 / 30};
  const std::vector<double> maxima = {0.4, 0.4, 0.4, 0.3};
  for (index_t j = 0; j < 4; ++j) {
    const auto at = static_cast<std::size_t>(j);
    CHECK(average[j] == Approx(averages[at]).epsilon(16 * fp32_rounding));
    CHECK(max[j] == Approx(maxima[at]).epsilon(16 * fp32_rounding));
  }
}

TEST_CASE("An even or empty pooling window is refused with its width", "[attention][score_pass]") {
  const auto width = GENERATE(as<index_t>{}, 0, 2, 6, -1, -7);
  CAPTURE(width);
  const sample head(3, 10, 4, 4);
  const auto scores = score_pass(head.cache(), head.queries, {}, {.pooling_width = width});
  REQUIRE_FALSE(scores);
  CHECK(scores.error().code == kvfit::errc::invalid_option);
  CHECK(scores.error().argument == "pooling_width");
  CHECK(scores.error().actual == width);
}

TEST_CASE("Importance of permuted keys is permuted, and nothing else changes",
          "[attention][score_pass]") {
  const index_t count = 300;
  const sample head(70, count, 16, 8);
  const std::vector<float> bias = random_numbers(count, 40);
  std::vector<std::size_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), std::size_t{0});
  kvfit::random_source random(7);
  for (std::size_t j = order.size() - 1; j > 0; --j)
    std::swap(order[j], order[random.below(j + 1)]);

  sample mixed = head;
  std::vector<float> mixed_bias;
  for (std::size_t j = 0; j < order.size(); ++j) {
    mixed.keys.row(static_cast<index_t>(j)) = head.keys.row(static_cast<index_t>(order[j]));
    mixed.values.row(static_cast<index_t>(j)) = head.values.row(static_cast<index_t>(order[j]));
    mixed_bias.push_back(bias[order[j]]);
  }
  for (const importance_kind kind : every_kind) {
    CAPTURE(static_cast<int>(kind));
    const kvfit::score_options options{.importance = kind};
    const auto a = score_pass({.keys = head.keys, .values = head.values, .bias = bias},
                              head.queries, {}, options);
    const auto b = score_pass({.keys = mixed.keys, .values = mixed.values, .bias = mixed_bias},
                              head.queries, {}, options);
    REQUIRE(a);
    REQUIRE(b);
    worst_case worst;
    for (index_t j = 0; j < count; ++j) {
      const auto original = static_cast<double>(
          a->importance[static_cast<index_t>(order[static_cast<std::size_t>(j)])]);
      worst.see(std::abs(static_cast<double>(b->importance[j]) - original), 1e-5 * original, j);
    }
    INFO("importance: " << worst.text());
    CHECK(worst.ratio <= 1);
    check_close({a->output, a->log_mass}, {b->output, b->log_mass}, 64 * fp32_rounding,
                256 * fp32_rounding);
  }
}

TEST_CASE("§17 permuting queries, or taking each twice, leaves importance alone",
          "[attention][score_pass]") {
  const sample head(70, 200, 16, 8);
  const kvfit::row_view rows(head.queries);
  const kvfit::row_view reversed(&head.queries(69, 0), 70, 16, -16);
  const std::vector<query_block> twice = {rows, reversed};
  for (const importance_kind kind : every_kind) {
    CAPTURE(static_cast<int>(kind));
    const kvfit::score_options options{.importance = kind};
    const auto once = score_pass(head.cache(), rows, {}, options);
    const auto back = score_pass(head.cache(), reversed, {}, options);
    const auto doubled = score_pass(head.cache(), std::span<const query_block>(twice), {}, options);
    REQUIRE(once);
    REQUIRE(back);
    REQUIRE(doubled);
    worst_case worst;
    for (index_t j = 0; j < 200; ++j) {
      const auto wanted = static_cast<double>(once->importance[j]);
      const double bound = 160 * fp32_rounding * wanted;
      worst.see(std::abs(static_cast<double>(back->importance[j]) - wanted), bound, j);
      worst.see(std::abs(static_cast<double>(doubled->importance[j]) - wanted), bound, j);
    }
    INFO("importance: " << worst.text());
    CHECK(worst.ratio <= 1);
    for (index_t i = 0; i < 70; ++i) {
      CHECK(doubled->log_mass[i] == Approx(doubled->log_mass[139 - i]).epsilon(1e-6));
    }
  }
}

}  // namespace kvfit_test
