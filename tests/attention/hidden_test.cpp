// SPDX-License-Identifier: MIT
// Queries that see nothing, and logits at the ends of fp32.
#include "attention/samples.hpp"
#include "support/dense.hpp"

namespace kvfit_test {

using kvfit::attend;
using kvfit::errc;
using kvfit::kv_block;
using kvfit::logit_rule;
using kvfit::query_block;
using kvfit::score_pass;

namespace {

constexpr auto every_importance = {kvfit::importance_kind::mean, kvfit::importance_kind::rms,
                                   kvfit::importance_kind::max};

/// Output 0, log-mass −∞, importance 0: all is hidden from every query.
void check_nothing_seen(const kv_block& cache, const query_block& queries, const logit_rule& rule) {
  const auto y = attend(queries, {cache}, rule);
  REQUIRE(y);
  CHECK(y->output.isZero(0));
  CHECK((y->log_mass.array() == hidden).all());
  for (const kvfit::importance_kind kind : every_importance) {
    const auto scores = score_pass(cache, queries, rule, {.importance = kind});
    REQUIRE(scores);
    CHECK(scores->output.isZero(0));
    CHECK((scores->log_mass.array() == hidden).all());
    CHECK((scores->max.array() == hidden).all());
    CHECK(scores->importance.isZero(0));
  }
}

/// Both entry points refuse with `non_finite` at this row of the queries.
void check_overflow(const kv_block& cache, const kvfit::query_set& queries, index_t row,
                    const logit_rule& rule = {}) {
  const auto y = attend(queries, {cache}, rule);
  const auto scores = score_pass(cache, queries, rule);
  REQUIRE_FALSE(y);
  REQUIRE_FALSE(scores);
  for (const kvfit::error& cause : {y.error(), scores.error()}) {
    INFO(cause.message());
    CHECK(cause.code == errc::non_finite);
    CHECK(cause.argument == "logits");
    CHECK(cause.actual == row);
  }
}

}  // namespace

TEST_CASE("§9.1 §9.27 a query that sees no key has output 0 and log-mass -infinity",
          "[attention][hidden]") {
  const auto keys = GENERATE(as<index_t>{}, 1, 16, 17, 300);
  const auto n = GENERATE(as<index_t>{}, 1, 65);
  CAPTURE(keys, n);
  const sample head(n, keys, 16, 8);
  const std::vector<float> bias(static_cast<std::size_t>(keys), hidden);
  const kvfit::matrix mask = kvfit::matrix::Constant(n, keys, hidden);
  const std::vector<kvfit::row_view> masks = {mask};
  kv_block cache = head.cache();
  SECTION("by the bias") {
    cache.bias = bias;
    check_nothing_seen(cache, query_block(head.queries), {});
  }
  SECTION("by the mask") {
    cache.masks = masks;
    check_nothing_seen(cache, query_block(head.queries), {});
  }
  SECTION("by bias and mask, under a soft cap, ALiBi and scale 0") {
    cache.bias = bias;
    cache.masks = masks;
    check_nothing_seen(cache, query_block(head.queries, 5, 0.5F), {.scale = 0.0F, .soft_cap = 2});
  }
  SECTION("by causality") {
    check_nothing_seen(cache, query_block(head.queries, -100), {.causal = true});
  }
  SECTION("by the window") {
    check_nothing_seen(cache, query_block(head.queries, 1000), {.window = 50});
  }
}

TEST_CASE("§9.27 hidden queries beside seeing ones", "[attention][hidden]") {
  const sample head(130, 300, 16, 8);
  kvfit::matrix mask = kvfit::matrix::Zero(130, 300);
  for (index_t i = 0; i < 130; i += 3) mask.row(i).setConstant(hidden);
  const std::vector<kvfit::row_view> masks = {mask};
  const kv_block cache{.keys = head.keys, .values = head.values, .masks = masks};
  const oracle_attention expected = attend_in_double(head.queries, cache);
  REQUIRE(expected.log_mass[0] == -infinity);
  REQUIRE(expected.log_mass[1] != -infinity);
  check_attention(attend(head.queries, {cache}), expected, 16);
  const auto scores = score_pass(cache, head.queries);
  REQUIRE(scores);
  check_attention(scores->output, scores->log_mass, expected, 16);
}

TEST_CASE("A hidden key weighs nothing, to the last bit", "[attention][hidden]") {
  const sample head(40, 90, 16, 8);
  std::vector<float> bias(90, 0.0F);
  for (std::size_t j = 0; j < bias.size(); j += 4) bias[j] = hidden;
  sample spoilt = head;
  for (index_t j = 0; j < 90; j += 4) {
    spoilt.keys.row(j) *= 100;
    spoilt.values.row(j).setConstant(1e30F);
  }
  for (const kvfit::importance_kind kind : every_importance) {
    const kvfit::score_options options{.importance = kind};
    const kv_block cache{.keys = head.keys, .values = head.values, .bias = bias};
    const kv_block odd{.keys = spoilt.keys, .values = spoilt.values, .bias = bias};
    const auto a = score_pass(cache, head.queries, {}, options);
    const auto b = score_pass(odd, head.queries, {}, options);
    REQUIRE(a);
    REQUIRE(b);
    CHECK(same_bytes(a->output, b->output));
    CHECK(same_bytes(a->log_mass, b->log_mass));
    CHECK(same_bytes(a->importance, b->importance));
    for (index_t j = 0; j < 90; j += 4) CHECK(a->importance[j] == 0.0F);
  }
}

TEST_CASE("A hidden block is neutral beside another", "[attention][hidden][blocks]") {
  const sample head(40, 90, 16, 8);
  const sample other(1, 50, 16, 8, 3);
  const std::vector<float> bias(50, hidden);
  const kv_block nothing{.keys = other.keys, .values = other.values, .bias = bias};
  const auto alone = attend(head.queries, {head.cache()});
  const auto before = attend(head.queries, {nothing, head.cache()});
  const auto after = attend(head.queries, {head.cache(), nothing});
  REQUIRE(alone);
  REQUIRE(before);
  REQUIRE(after);
  CHECK(same_bytes(alone->output, before->output));
  CHECK(same_bytes(alone->log_mass, before->log_mass));
  CHECK(same_bytes(alone->output, after->output));
  CHECK(same_bytes(alone->log_mass, after->log_mass));

  const auto both_hidden = attend(head.queries, {nothing, nothing});
  REQUIRE(both_hidden);
  CHECK(both_hidden->output.isZero(0));
  CHECK((both_hidden->log_mass.array() == hidden).all());
}

TEST_CASE("A sink beside hidden keys takes all the mass", "[attention][hidden][sink]") {
  const sample head(3, 20, 16, 8);
  const std::vector<float> bias(20, hidden);
  query_block queries(head.queries);
  queries.sink_logit = -2.5F;
  const auto y = attend(queries, {{.keys = head.keys, .values = head.values, .bias = bias}});
  REQUIRE(y);
  CHECK((y->log_mass.array() == -2.5F).all());
  CHECK(y->output.isZero(0));
}

TEST_CASE("§9.9 logits of ±1e4 give finite attention", "[attention][hidden]") {
  const auto size = GENERATE(1e2F, 1e3F, 1e4F);
  CAPTURE(size);
  sample head(70, 300, 16, 8);
  const kvfit::matrix products = oracle::product_in_float(head.queries, head.keys.transpose());
  const float largest = products.cwiseAbs().maxCoeff() / 4;
  head.queries *= size / largest;
  const oracle_attention expected = attend_in_double(head.queries, head.cache());
  REQUIRE(expected.max.maxCoeff() > 0.5 * static_cast<double>(size));
  check_attention(attend(head.queries, {head.cache()}), expected, 16, bounds::derived);
  const auto scores = score_pass(head.cache(), head.queries);
  REQUIRE(scores);
  CHECK(scores->importance.allFinite());
  CHECK(scores->output.allFinite());
  CHECK(scores->log_mass.allFinite());

  SECTION("also where all of them are far below 0") {
    const std::vector<float> bias(300, -3 * size);
    const kv_block low{.keys = head.keys, .values = head.values, .bias = bias};
    check_attention(attend(head.queries, {low}), attend_in_double(head.queries, low), 16,
                    bounds::derived);
  }
}

TEST_CASE("§9.9 logits near the end of fp32 are still right", "[attention][hidden]") {
  kvfit::matrix q(1, 1);
  kvfit::matrix k(3, 1);
  kvfit::matrix v(3, 1);
  q << 1e19F;
  k << 1e19F, -1e19F, 1e18F;
  v << 1, 2, 3;
  const auto y = attend(q, {{.keys = k, .values = v}});
  REQUIRE(y);
  CHECK(y->log_mass[0] == Approx(1e38F));
  CHECK(y->output(0, 0) == 1.0F);
}

TEST_CASE("§9.9 a product that overflows fp32 is an error that names the query",
          "[attention][hidden]") {
  sample head(70, 300, 16, 8);
  head.keys.row(299).setConstant(1e30F);
  std::vector<query_block> blocks = {kvfit::row_view(head.queries).middle_rows(0, 30),
                                     kvfit::row_view(head.queries).middle_rows(30, 40)};
  const std::span<const query_block> queries(blocks);
  head.queries.row(41).setConstant(1e30F);
  SECTION("upwards") {
    check_overflow(head.cache(), queries, 41);
  }
  SECTION("downwards, beside finite logits") {
    head.queries.row(41) *= -1;
    check_overflow(head.cache(), queries, 41);
  }
  SECTION("both ways, in one product") {
    for (index_t j = 0; j < 16; j += 2) head.keys(299, j) = -1e30F;
    check_overflow(head.cache(), queries, 41);
  }
  SECTION("under a soft cap") {
    check_overflow(head.cache(), queries, 41, {.soft_cap = 10});
  }
  SECTION("both ways, under a soft cap") {
    for (index_t j = 0; j < 16; j += 2) head.keys(299, j) = -1e30F;
    check_overflow(head.cache(), queries, 41, {.soft_cap = 10});
  }
  SECTION("with scale 0") {
    check_overflow(head.cache(), queries, 41, {.scale = 0.0F});
  }
  SECTION("by the scale alone") {
    head.queries.row(41).setConstant(1e8F);
    check_overflow(head.cache(), queries, 41, {.scale = 10.0F});
  }
  SECTION("by the scale alone, downwards") {
    head.queries.row(41).setConstant(-1e8F);
    check_overflow(head.cache(), queries, 41, {.scale = 10.0F});
  }
  SECTION("in the first row of all") {
    head.queries.row(0).setConstant(1e30F);
    check_overflow(head.cache(), queries, 0);
  }
}

TEST_CASE("§9.9 large numbers whose products stay within fp32 are no overflow",
          "[attention][hidden]") {
  sample head(70, 300, 16, 8);
  head.queries *= 1e30F;
  head.keys *= 1e-30F;
  check_attention(attend(head.queries, {head.cache()}),
                  attend_in_double(head.queries, head.cache()), 16);
}

TEST_CASE("§9.9 products that all overflow downwards are no masked head", "[attention][hidden]") {
  const auto keys = GENERATE(as<index_t>{}, 1, 300);
  const sample head(3, keys, 16, 8);
  const kvfit::matrix large = kvfit::matrix::Constant(keys, 16, 1e30F);
  const kvfit::matrix low = kvfit::matrix::Constant(3, 16, -1e30F);
  check_overflow({.keys = large, .values = head.values}, low, 0);
}

TEST_CASE("§9.9 a bias and a mask that overflow fp32 together are an error",
          "[attention][hidden]") {
  const sample head(3, 5, 4, 4);
  std::vector<float> bias(5, 0.0F);
  kvfit::matrix mask = kvfit::matrix::Zero(3, 5);
  bias[4] = 3e38F;
  mask(1, 4) = 3e38F;
  const std::vector<kvfit::row_view> masks = {mask};
  check_overflow({.keys = head.keys, .values = head.values, .bias = bias, .masks = masks},
                 head.queries, 1);
}

TEST_CASE("§9.9 values whose sum overflows fp32 are right or an error, never infinite in silence",
          "[attention][hidden]") {
  const kvfit::matrix q = kvfit::matrix::Zero(2, 4);
  const kvfit::matrix k = kvfit::matrix::Zero(5, 4);
  kvfit::matrix v = kvfit::matrix::Constant(5, 2, 3e38F);
  v.col(1).setConstant(1);
  SECTION("all of one sign") {}
  SECTION("of both signs") {
    v(1, 0) = -3e38F;
    v(3, 0) = -3e38F;
  }
  const double mean = v.col(0).cast<double>().mean();
  const auto right_or_refused = [&](const auto& y) {
    if (!y) {
      INFO(y.error().message());
      CHECK(y.error().code == errc::non_finite);
      CHECK(y.error().argument == "output");
      CHECK(y.error().actual == 0);
      CHECK(y.error().expected == 0);
      return;
    }
    CHECK(std::abs(static_cast<double>(y->output(0, 0)) - mean) <= 5 * fp32_rounding * 3e38);
  };
  right_or_refused(attend(q, {{.keys = k, .values = v}}));
  right_or_refused(score_pass({.keys = k, .values = v}, q));
}

TEST_CASE("Zero queries and zero keys give uniform attention", "[attention][hidden]") {
  sample head(5, 33, 16, 8);
  const kvfit::vector mean = head.values.colwise().mean();
  SECTION("queries") {
    head.queries.setZero();
  }
  SECTION("keys") {
    head.keys.setZero();
  }
  const auto y = attend(head.queries, {head.cache()});
  REQUIRE(y);
  const double bound = 33 * fp32_rounding;
  INFO("bound " << bound);
  for (index_t i = 0; i < 5; ++i) {
    CHECK(std::abs(static_cast<double>(y->log_mass[i]) - std::log(33.0)) <= 4 * fp32_rounding);
    CHECK(static_cast<double>((y->output.row(i).transpose() - mean).cwiseAbs().maxCoeff()) <=
          bound);
  }
}

}  // namespace kvfit_test
