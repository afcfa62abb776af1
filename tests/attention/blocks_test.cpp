// SPDX-License-Identifier: MIT
#include <numeric>

#include "attention/samples.hpp"
#include "kvfit/attention/compare.hpp"

namespace kvfit_test {

using kvfit::attend;
using kvfit::kv_block;
using kvfit::query_block;

namespace {

/// Two ways of one sum: logits are the same numbers but for the tile they are computed in, so a few
/// roundings of log-mass and of the weights remain.
constexpr double log_mass_slack = 64 * fp32_rounding;
constexpr double output_slack = 256 * fp32_rounding;

/// The mixture of two results by their masses, in double.
kvfit::attention_output mixture(const kvfit::attention_output& a,
                                const kvfit::attention_output& b) {
  kvfit::attention_output mixed = a;
  for (index_t i = 0; i < a.output.rows(); ++i) {
    const auto la = static_cast<double>(a.log_mass[i]);
    const auto lb = static_cast<double>(b.log_mass[i]);
    const double top = std::max(la, lb);
    const double total = top + std::log(std::exp(la - top) + std::exp(lb - top));
    mixed.output.row(i) = (std::exp(la - total) * a.output.row(i).cast<double>() +
                           std::exp(lb - total) * b.output.row(i).cast<double>())
                              .cast<float>();
    mixed.log_mass[i] = static_cast<float>(total);
  }
  return mixed;
}

}  // namespace

TEST_CASE("Attention over the parts of a block is attention over the block, wherever it is cut",
          "[attention][attend][blocks]") {
  const index_t keys = 300;
  const auto cut = GENERATE(as<index_t>{}, 1, 7, 64, 150, 255, 256, 257, 299);
  CAPTURE(cut);
  const sample head(70, keys, 32, 24);
  const std::vector<float> bias = random_numbers(keys, 40);
  kvfit::matrix mask = random_matrix(70, keys, 41);
  for (index_t i = 0; i < mask.size(); i += 7) mask.data()[i] = hidden;
  const std::vector<kvfit::row_view> masks = {mask};
  const query_block queries(head.queries, 250, 0.01F);
  const kvfit::logit_rule rule = {.soft_cap = 4, .causal = true, .window = 200};
  const kv_block whole{.keys = head.keys, .values = head.values, .bias = bias, .masks = masks};

  const stretch front(whole, 0, cut);
  const stretch back(whole, cut, keys - cut);
  const auto joint = attend(queries, {whole}, rule);
  const auto split = attend(queries, {front.block(), back.block()}, rule);
  const auto swapped = attend(queries, {back.block(), front.block()}, rule);
  REQUIRE(joint);
  REQUIRE(split);
  REQUIRE(swapped);
  check_attention(split, attend_in_double(queries, whole, rule), 32);
  check_close(*joint, *split, log_mass_slack * 4, output_slack);
  check_close(*split, *swapped, log_mass_slack * 4, output_slack);
}

TEST_CASE("Blocks of one key each merge to the whole", "[attention][attend][blocks]") {
  const sample head(9, 65, 16, 8);
  std::vector<stretch> parts;
  std::vector<kv_block> blocks;
  for (index_t j = 0; j < 65; ++j) parts.emplace_back(head.cache(), j, 1);
  for (const stretch& part : parts) blocks.push_back(part.block());
  check_attention(attend(head.queries, blocks), attend_in_double(head.queries, head.cache()), 16);
}

TEST_CASE("§17 the mixture of blocks by mass is joint attention, with and without further keys",
          "[attention][attend][blocks]") {
  const sample head(40, 200, 32, 24, 1);
  const sample live(40, 120, 32, 24, 2);
  const stretch first(head.cache(), 0, 83);
  const stretch second(head.cache(), 83, 117);
  const auto a = attend(head.queries, {first.block()});
  const auto b = attend(head.queries, {second.block()});
  const auto joint = attend(head.queries, {head.cache()});
  REQUIRE(a);
  REQUIRE(b);
  REQUIRE(joint);
  const kvfit::attention_output mixed = mixture(*a, *b);
  check_close(mixed, *joint, log_mass_slack * 4, output_slack);

  const auto extra = attend(head.queries, {live.cache()});
  const auto joint_beside = attend(head.queries, {first.block(), live.cache(), second.block()});
  REQUIRE(extra);
  REQUIRE(joint_beside);
  check_close(mixture(mixed, *extra), *joint_beside, log_mass_slack * 4, output_slack);
}

TEST_CASE("§17 a block of equal mass and output can stand for another beside any further keys",
          "[attention][attend][blocks]") {
  // Twins (same key, two values) become one key with bias ln 2 and the mean value: exact for every
  // query, so the only compact block with no error at all.
  const index_t half = 60;
  const sample head(40, half, 32, 24);
  kvfit::matrix keys(2 * half, 32);
  kvfit::matrix values(2 * half, 24);
  keys << head.keys, head.keys;
  values << head.values, random_matrix(half, 24, 77);
  const kvfit::matrix means = (values.topRows(half) + values.bottomRows(half)) / 2;
  const std::vector<float> twice(static_cast<std::size_t>(half), std::log(2.0F));
  const kv_block full{.keys = keys, .values = values};
  const kv_block compact{.keys = head.keys, .values = means, .bias = twice};

  const auto extra_size = GENERATE(as<index_t>{}, 0, 1, 90);
  const auto extra_bias = GENERATE(-20.0F, 0.0F, 20.0F);
  CAPTURE(extra_size, extra_bias);
  const sample live(1, std::max<index_t>(extra_size, 1), 32, 24, 5);
  const std::vector<float> bias(static_cast<std::size_t>(extra_size), extra_bias);
  std::vector<kv_block> with_full = {full};
  std::vector<kv_block> with_compact = {compact};
  if (extra_size > 0) {
    const kv_block extra{.keys = live.keys, .values = live.values, .bias = bias};
    with_full.push_back(extra);
    with_compact.push_back(extra);
  }
  const auto a = attend(head.queries, with_full);
  const auto b = attend(head.queries, with_compact);
  REQUIRE(a);
  REQUIRE(b);
  check_close(*a, *b, log_mass_slack * 30, output_slack);

  SECTION("and without the bias it can't") {
    with_compact[0].bias = {};
    const auto light = attend(head.queries, with_compact);
    REQUIRE(light);
    const kvfit::fidelity f =
        kvfit::compare(a->output, a->log_mass, light->output, light->log_mass);
    CAPTURE(f.mass_error_max);
    CHECK((extra_bias > 0 && extra_size > 0) != (f.mass_error_max > 0.05));
  }
}

TEST_CASE("§9.4 full and compact scores share one shift across gaps of ±200",
          "[attention][attend][blocks]") {
  const auto gap = GENERATE(-200.0F, -100.0F, -88.0F, -10.0F, 0.0F, 10.0F, 88.0F, 100.0F, 200.0F);
  CAPTURE(gap);
  const sample head(40, 130, 32, 24);
  const std::vector<float> raised(130, gap);
  const kv_block plain = head.cache();
  const kv_block shifted{.keys = head.keys, .values = head.values, .bias = raised};

  SECTION("one block moved as a whole keeps its output, and its log-mass moves by the gap") {
    const auto before = attend(head.queries, {plain});
    const auto after = attend(head.queries, {shifted});
    REQUIRE(before);
    REQUIRE(after);
    auto expected = *before;
    expected.log_mass.array() += gap;
    // s + gap is rounded to units of the gap's size
    const double rounding = fp32_rounding * (8 + std::abs(static_cast<double>(gap)));
    INFO("rounding of a raised logit: " << rounding);
    check_close(expected, *after, 4 * rounding + 1e-6, 16 * rounding + 1e-6);
  }
  SECTION("two blocks, one raised, merge as if scored together") {
    const sample other(1, 90, 32, 24, 9);
    const std::vector<kv_block> blocks = {shifted, other.cache()};
    check_attention(attend(head.queries, blocks), attend_in_double(head.queries, blocks), 32);
  }
  SECTION("logits a gap apart within one block") {
    std::vector<float> half = raised;
    std::fill(half.begin() + 65, half.end(), 0.0F);
    const kv_block mixed{.keys = head.keys, .values = head.values, .bias = half};
    check_attention(attend(head.queries, {mixed}), attend_in_double(head.queries, mixed), 32);
    const auto scores = kvfit::score_pass(mixed, head.queries);
    REQUIRE(scores);
    check_attention(scores->output, scores->log_mass, attend_in_double(head.queries, mixed), 32);
  }
  SECTION("masses of e^±200 are compared without leaving the log domain") {
    const auto full = attend(head.queries, {shifted});
    std::vector<float> little_more = raised;
    for (float& b : little_more) b += 0.5F;
    const auto compact =
        attend(head.queries, {{.keys = head.keys, .values = head.values, .bias = little_more}});
    REQUIRE(full);
    REQUIRE(compact);
    const kvfit::fidelity f =
        kvfit::compare(full->output, full->log_mass, compact->output, compact->log_mass);
    const double bound = 8 * fp32_rounding * (8 + std::abs(static_cast<double>(gap))) + 4e-6;
    CAPTURE(f.mass_error, bound);
    CHECK(std::abs(f.mass_error - std::expm1(0.5)) < bound * std::exp(0.5));
    CHECK(std::abs(f.mass_error_max - std::expm1(0.5)) < bound * std::exp(0.5));
  }
}

TEST_CASE("§17 a constant on every logit of a query changes nothing", "[attention][attend]") {
  const sample head(41, 130, 32, 24);
  kvfit::matrix constants(41, 130);
  for (index_t i = 0; i < 41; ++i) constants.row(i).setConstant(static_cast<float>(15 * (i - 20)));
  const std::vector<kvfit::row_view> masks = {constants};
  const kv_block moved{.keys = head.keys, .values = head.values, .masks = masks};
  const auto before = kvfit::score_pass(head.cache(), head.queries);
  const auto after = kvfit::score_pass(moved, head.queries);
  REQUIRE(before);
  REQUIRE(after);
  const double rounding = 308 * fp32_rounding;  // of logits of size up to 300 + 8
  INFO("rounding of a moved logit: " << rounding);
  const kvfit::vector moves = constants.col(0);
  CHECK((after->max - before->max - moves).cwiseAbs().maxCoeff() <= 2 * rounding);
  CHECK((after->log_mass - before->log_mass - moves).cwiseAbs().maxCoeff() <= 4 * rounding);
  CHECK((after->output - before->output).cwiseAbs().maxCoeff() <= 16 * rounding);
  CHECK((after->importance - before->importance).cwiseAbs().maxCoeff() <= 4 * rounding);
}

TEST_CASE("§9.6 a sink is a key with the value 0", "[attention][attend][sink]") {
  const auto sink = GENERATE(-200.0F, -3.0F, 0.0F, 2.5F, 200.0F);
  CAPTURE(sink);
  const sample head(20, 90, 16, 8);
  query_block queries(head.queries);
  queries.sink_logit = sink;
  const auto y = attend(queries, {head.cache()});
  check_attention(y, attend_in_double(queries, head.cache()), 16, bounds::derived);

  const kvfit::matrix zero_key = kvfit::matrix::Zero(1, 16);
  const kvfit::matrix zero_value = kvfit::matrix::Zero(1, 8);
  const std::vector<float> bias = {sink};
  const auto keyed =
      attend(head.queries, {head.cache(), {.keys = zero_key, .values = zero_value, .bias = bias}});
  REQUIRE(y);
  REQUIRE(keyed);
  CHECK(same_bytes(y->output, keyed->output));
  CHECK(same_bytes(y->log_mass, keyed->log_mass));
}

TEST_CASE("A sink is added once, however many blocks there are", "[attention][attend][sink]") {
  const sample head(20, 90, 16, 8);
  std::vector<query_block> queries = {kvfit::row_view(head.queries).middle_rows(0, 12),
                                      kvfit::row_view(head.queries).middle_rows(12, 8)};
  queries[0].sink_logit = 4;
  queries[1].sink_logit = -1;
  const std::span<const query_block> group(queries);
  const stretch a(head.cache(), 0, 30);
  const stretch b(head.cache(), 30, 1);
  const stretch c(head.cache(), 31, 59);
  check_attention(attend(group, {a.block(), b.block(), c.block()}),
                  attend_in_double(group, head.cache()), 16);
}

TEST_CASE("The score pass leaves sinks out", "[attention][score_pass][sink]") {
  const sample head(20, 90, 16, 8);
  query_block queries(head.queries);
  const auto without = kvfit::score_pass(head.cache(), queries);
  queries.sink_logit = 5;
  const auto with = kvfit::score_pass(head.cache(), queries);
  REQUIRE(without);
  REQUIRE(with);
  CHECK(same_bytes(without->log_mass, with->log_mass));
  CHECK(same_bytes(without->output, with->output));
  CHECK(same_bytes(without->importance, with->importance));
}

}  // namespace kvfit_test
