// SPDX-License-Identifier: MIT
#include <functional>

#include "attention/samples.hpp"

namespace kvfit_test {

using kvfit::attend;
using kvfit::kv_block;
using kvfit::logit_rule;
using kvfit::query_block;

namespace {

/// A head with two query blocks and everything a rule can ask for.
struct furnished {
  furnished() {
    blocks = {query_block(kvfit::row_view(head.queries).middle_rows(0, 70)),
              query_block(kvfit::row_view(head.queries).middle_rows(70, 33))};
    for (query_block& block : blocks) block.first_position = 210;  // keys stand at 0 … 299
    for (std::size_t b = 0; b < 2; ++b) {
      mask_numbers.push_back(random_matrix(blocks[b].rows.rows(), 300, 50 + b));
      for (index_t i = 0; i < mask_numbers[b].size(); i += 5) mask_numbers[b].data()[i] = hidden;
    }
    masks.assign(mask_numbers.begin(), mask_numbers.end());
    bias[17] = hidden;
    bias[299] = hidden;
    for (std::size_t j = 0; j < positions.size(); ++j) {
      positions[j] = static_cast<index_t>(j + j / 3);  // every fourth one is missing
    }
    cache = head.cache();
  }
  [[nodiscard]] std::span<const query_block> queries() const { return blocks; }

  sample head{103, 300, 16, 20};
  std::vector<query_block> blocks;
  std::vector<float> bias = random_numbers(300, 40, 2);
  std::vector<kvfit::matrix> mask_numbers;
  std::vector<kvfit::row_view> masks;
  std::vector<index_t> positions = std::vector<index_t>(300);
  kv_block cache;
  logit_rule rule;
};

struct variation {
  const char* what;
  std::function<void(furnished&)> apply;
};

std::vector<variation> variations() {
  return {
      {"no change", [](furnished&) {}},
      {"scale 1", [](furnished& f) { f.rule.scale = 1.0F; }},
      {"a negative scale", [](furnished& f) { f.rule.scale = -0.3F; }},
      {"scale 0", [](furnished& f) { f.rule.scale = 0.0F; }},
      {"a soft cap that bites", [](furnished& f) { f.rule.soft_cap = 0.7F; }},
      {"a wide soft cap", [](furnished& f) { f.rule.soft_cap = 50; }},
      {"a bias with hidden keys", [](furnished& f) { f.cache.bias = f.bias; }},
      {"masks", [](furnished& f) { f.cache.masks = f.masks; }},
      {"causal from within the block", [](furnished& f) { f.rule.causal = true; }},
      {"causal with keys of a later part",
       [](furnished& f) {
         f.rule.causal = true;
         f.cache.first_position = 100;
       }},
      {"causal with positions of its own",
       [](furnished& f) {
         f.rule.causal = true;
         f.cache.positions = f.positions;
       }},
      {"causal with queries that skip rows",
       [](furnished& f) {
         f.rule.causal = true;
         f.blocks[0].first_position = 3;
         f.blocks[0].position_step = 4;
         f.blocks[1].position_step = -2;
       }},
      {"a window",
       [](furnished& f) { f.rule.window = 25; }},  // with keys in front of the query visible
      {"a causal window",
       [](furnished& f) {
         f.rule.causal = true;
         f.rule.window = 25;
       }},
      {"ALiBi, a slope per head",
       [](furnished& f) {
         f.blocks[0].alibi_slope = 0.25F;
         f.blocks[1].alibi_slope = 0.0625F;
       }},
      {"ALiBi on one head alone, on positions of its own",
       [](furnished& f) {
         f.blocks[1].alibi_slope = 0.5F;
         f.cache.positions = f.positions;
       }},
      {"sinks",
       [](furnished& f) {
         f.blocks[0].sink_logit = 3;
         f.blocks[1].sink_logit = 1;
       }},
      {"everything at once",
       [](furnished& f) {
         f.rule = {.scale = 0.4F, .soft_cap = 3, .causal = true, .window = 160};
         f.cache.bias = f.bias;
         f.cache.masks = f.masks;
         f.cache.positions = f.positions;
         f.blocks[0].alibi_slope = 0.03F;
         f.blocks[0].sink_logit = 1;
         f.blocks[1].alibi_slope = -0.01F;
         f.blocks[1].position_step = 3;
       }},
  };
}

/// How many of the keys at `positions` a query at `at` sees: uniform attention tells.
std::vector<bool> seen(index_t at, std::span<const index_t> positions, const logit_rule& rule) {
  const auto count = static_cast<index_t>(positions.size());
  const kvfit::matrix q = kvfit::matrix::Zero(1, 2);
  const kvfit::matrix k = kvfit::matrix::Zero(count, 2);
  const kvfit::matrix v = kvfit::matrix::Identity(count, count);
  const auto y =
      attend(query_block(q, at), {{.keys = k, .values = v, .positions = positions}}, rule);
  REQUIRE(y);
  std::vector<bool> is_seen;
  for (index_t j = 0; j < count; ++j) is_seen.push_back(y->output(0, j) > 0);
  return is_seen;
}

}  // namespace

TEST_CASE("§9.6 scale, soft cap, bias, mask, positions, ALiBi and sinks act as the rule says",
          "[attention][rule]") {
  for (const variation& varied : variations()) {
    DYNAMIC_SECTION(varied.what) {
      furnished f;
      varied.apply(f);
      check_attention(attend(f.queries(), {f.cache}, f.rule),
                      attend_in_double(f.queries(), f.cache, f.rule), 16);
    }
  }
}

TEST_CASE("Every part of the rule changes the result", "[attention][rule]") {
  // Else the case above would pass with the part left out of kvfit and oracle alike.
  const furnished plain;
  const oracle_attention without = attend_in_double(plain.queries(), plain.cache, plain.rule);
  for (const variation& varied : variations()) {
    if (std::string(varied.what) == "no change") continue;
    CAPTURE(varied.what);
    furnished f;
    varied.apply(f);
    const auto with = attend(f.queries(), {f.cache}, f.rule);
    REQUIRE(with);
    for (const auto& [first, count] : {std::pair{0, 70}, std::pair{70, 33}}) {
      const bool is_touched =
          std::string(varied.what).find("one head alone") == std::string::npos || first == 70;
      const double change = (with->log_mass.segment(first, count).cast<double>() -
                             without.log_mass.segment(first, count))
                                .cwiseAbs()
                                .maxCoeff();
      CAPTURE(first, change);
      CHECK((change > 1e-3) == is_touched);
    }
  }
}

TEST_CASE("§9.6 queries scaled beforehand need scale 1 and are not scaled twice",
          "[attention][rule]") {
  const sample head(20, 90, 64, 16);
  const kvfit::matrix scaled = head.queries / 8;  // √64, exactly
  const auto plain = attend(head.queries, {head.cache()});
  const auto prescaled = attend(scaled, {head.cache()}, {.scale = 1.0F});
  REQUIRE(plain);
  REQUIRE(prescaled);
  INFO("a power of two: only where the product is scaled differs");
  check_close(*plain, *prescaled, 1e-6, 1e-6);
}

TEST_CASE(
    "§9.7 queries keep their length: attention is right where their norms differ from the keys'",
    "[attention][rule]") {
  const auto factor = GENERATE(0.01F, 0.5F, 3.0F, 20.0F);
  CAPTURE(factor);
  sample head(20, 90, 32, 16);
  head.queries *= factor;
  check_attention(attend(head.queries, {head.cache()}),
                  attend_in_double(head.queries, head.cache()), 32, bounds::derived);
}

TEST_CASE("A causal query sees keys up to its own position", "[attention][rule]") {
  const std::vector<index_t> at = {8, 9, 10, 11, 12};
  CHECK(seen(10, at, {.causal = true}) == std::vector<bool>{true, true, true, false, false});
  CHECK(seen(7, at, {.causal = true}) == std::vector<bool>(5, false));
  CHECK(seen(12, at, {.causal = true}) == std::vector<bool>(5, true));
}

TEST_CASE("A window of w positions hides what lies w or more back", "[attention][rule]") {
  const std::vector<index_t> at = {7, 8, 9, 10, 11};
  CHECK(seen(10, at, {.window = 1}) == std::vector<bool>{false, false, false, true, true});
  CHECK(seen(10, at, {.window = 3}) == std::vector<bool>{false, true, true, true, true});
  CHECK(seen(10, at, {.causal = true, .window = 3}) ==
        std::vector<bool>{false, true, true, true, false});
  CHECK(seen(10, at, {.window = 100}) == std::vector<bool>(5, true));
}

TEST_CASE("Positions are 64-bit: far tokens and negative ones", "[attention][rule]") {
  const index_t far = index_t{1} << 40;
  const std::vector<index_t> at = {-far, -1, far - 1, far, far + 1};
  CHECK(seen(far, at, {.causal = true}) == std::vector<bool>{true, true, true, true, false});
  CHECK(seen(far, at, {.causal = true, .window = 2}) ==
        std::vector<bool>{false, false, true, true, false});
}

TEST_CASE("ALiBi takes slope × distance from the logit, and adds it in front of the query",
          "[attention][rule]") {
  const kvfit::matrix q = kvfit::matrix::Zero(1, 2);
  const kvfit::matrix k = kvfit::matrix::Zero(1, 2);
  const kvfit::matrix v = kvfit::matrix::Ones(1, 1);
  const auto logit = [&](index_t query_at, index_t key_at) {
    const auto y = attend(query_block(q, query_at, 0.5F),
                          {{.keys = k, .values = v, .first_position = key_at}});
    REQUIRE(y);
    return y->log_mass[0];
  };
  CHECK(logit(10, 10) == 0.0F);
  CHECK(logit(10, 4) == -3.0F);
  CHECK(logit(10, 13) == 1.5F);
}

TEST_CASE("Positions may be given as numbers or as the first one", "[attention][rule]") {
  furnished f;
  f.rule = {.causal = true, .window = 90};
  f.blocks[0].alibi_slope = 0.1F;
  f.cache.first_position = 31;
  const auto counted = attend(f.queries(), {f.cache}, f.rule);
  for (std::size_t j = 0; j < f.positions.size(); ++j) {
    f.positions[j] = 31 + static_cast<index_t>(j);
  }
  f.cache.positions = f.positions;
  f.cache.first_position = -7;  // of no effect
  const auto listed = attend(f.queries(), {f.cache}, f.rule);
  REQUIRE(counted);
  REQUIRE(listed);
  CHECK(same_bytes(counted->output, listed->output));
  CHECK(same_bytes(counted->log_mass, listed->log_mass));
}

}  // namespace kvfit_test
