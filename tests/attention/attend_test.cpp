// SPDX-License-Identifier: MIT
#include "attention/samples.hpp"

namespace kvfit_test {

using kvfit::attend;
using kvfit::kv_block;
using kvfit::query_block;

// Queries are taken by reference, so a matrix that dies at the end of the statement is refused.
static_assert(std::is_convertible_v<const kvfit::matrix&, kvfit::query_set>);
static_assert(std::is_convertible_v<kvfit::row_view, kvfit::query_set>);
static_assert(std::is_convertible_v<query_block, kvfit::query_set>);
static_assert(std::is_convertible_v<std::span<const query_block>, kvfit::query_set>);
static_assert(!std::is_constructible_v<kvfit::query_set, kvfit::matrix>);
static_assert(!std::is_constructible_v<kvfit::query_set, Eigen::MatrixXd&>);

TEST_CASE("attend equals attention in double at every size around the tiles",
          "[attention][attend]") {
  const auto n = GENERATE(as<index_t>{}, 1, 7, 64, 65, 255, 256, 257, 600);
  const auto keys = GENERATE(as<index_t>{}, 1, 7, 64, 65, 255, 256, 257, 600);
  CAPTURE(n, keys);
  const sample head(n, keys, 24, 40);
  check_attention(attend(head.queries, {head.cache()}),
                  attend_in_double(head.queries, head.cache()), 24);
}

TEST_CASE("§9.34 attend takes any head sizes, keys and values apart", "[attention][attend]") {
  const auto depth = GENERATE(as<index_t>{}, 1, 3, 16, 17, 64, 80, 128, 256);
  const auto width = GENERATE(as<index_t>{}, 1, 5, 64, 129);
  CAPTURE(depth, width);
  const sample head(19, 70, depth, width);
  check_attention(attend(head.queries, {head.cache()}),
                  attend_in_double(head.queries, head.cache()), depth);
}

TEST_CASE("attend counts the rows of several query blocks through", "[attention][attend]") {
  const sample head(267, 300, 32, 24);
  const std::vector<index_t> lengths = {65, 1, 7, 64, 130};  // heads of one GQA group
  std::vector<query_block> blocks;
  index_t first = 0;
  for (const index_t length : lengths) {
    blocks.emplace_back(kvfit::row_view(head.queries).middle_rows(first, length));
    first += length;
  }
  REQUIRE(first == head.queries.rows());
  const std::span<const query_block> group(blocks);
  const auto joint = attend(group, {head.cache()});
  check_attention(joint, attend_in_double(group, head.cache()), 32);

  SECTION("and a block's rows do not depend on the blocks beside it") {
    first = 0;
    for (const query_block& block : blocks) {
      const auto alone = attend(block, {head.cache()});
      REQUIRE(alone);
      const kvfit::matrix output = joint->output.middleRows(first, block.rows.rows());
      const kvfit::vector log_mass = joint->log_mass.segment(first, block.rows.rows());
      CHECK(same_bytes(alone->output, output));
      CHECK(same_bytes(alone->log_mass, log_mass));
      first += block.rows.rows();
    }
  }
}

TEST_CASE("§9.27 one query and one key: the output is the value, the log-mass the logit",
          "[attention][attend]") {
  kvfit::matrix q(1, 4);
  kvfit::matrix k(1, 4);
  kvfit::matrix v(1, 3);
  q << 1, 2, 3, 4;
  k << 0.5F, -1, 2, 0.25F;
  v << 7, -8, 9;
  const auto y = attend(q, {{.keys = k, .values = v}});
  REQUIRE(y);
  CHECK(y->log_mass[0] == 2.75F);  // (0.5 − 2 + 6 + 1) / √4
  CHECK(y->output == v);
}

TEST_CASE("attend by hand: weights 1/4 and 3/4", "[attention][attend]") {
  const kvfit::matrix q = kvfit::matrix::Constant(1, 1, 1);
  kvfit::matrix k(2, 1);
  kvfit::matrix v(2, 2);
  k << 0, std::log(3.0F);
  v << 4, 0,  //
      8, -4;
  const auto y = attend(q, {{.keys = k, .values = v}});
  REQUIRE(y);
  INFO("four roundings of fp32");
  CHECK(y->log_mass[0] == Approx(std::log(4.0)).epsilon(4 * fp32_rounding));
  CHECK(y->output(0, 0) == Approx(7).epsilon(4 * fp32_rounding));
  CHECK(y->output(0, 1) == Approx(-3).epsilon(4 * fp32_rounding));
}

TEST_CASE("attend gives the same bytes twice", "[attention][attend]") {
  const sample head(70, 300, 32, 24);
  const auto once = attend(head.queries, {head.cache()});
  const auto twice = attend(head.queries, {head.cache()});
  REQUIRE(once);
  REQUIRE(twice);
  CHECK(same_bytes(once->output, twice->output));
  CHECK(same_bytes(once->log_mass, twice->log_mass));
}

TEST_CASE("J: a block without rows adds nothing to attention", "[attention][attend]") {
  const sample s(5, 40, 8, 6);
  const kvfit::matrix no_keys(0, 8);
  const kvfit::matrix no_values(0, 6);
  const kvfit::kv_block empty{.keys = no_keys, .values = no_values};
  const auto alone = kvfit::attend(s.queries, {s.cache()});
  REQUIRE(alone.has_value());
  for (const auto& both : {kvfit::attend(s.queries, {empty, s.cache()}),
                           kvfit::attend(s.queries, {s.cache(), empty})}) {
    REQUIRE(both.has_value());
    CHECK(both->output == alone->output);
    CHECK(both->log_mass == alone->log_mass);
  }
  kvfit::query_block with_sink(s.queries);
  with_sink.sink_logit = 1.5F;
  const auto nothing = kvfit::attend(with_sink, {empty, empty});
  REQUIRE(nothing.has_value());
  CHECK(nothing->output == kvfit::matrix::Zero(5, 6));
  CHECK(nothing->log_mass == kvfit::vector::Constant(5, 1.5F));
  CHECK(kvfit::attend(with_sink, {kvfit::kv_block{}, empty}));
  const std::vector<float> bias = {1};
  kvfit::kv_block odd = empty;
  odd.bias = bias;
  const auto refused = kvfit::attend(s.queries, {odd, s.cache()});
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == kvfit::errc::shape_mismatch);
  const kvfit::matrix wide(0, 9);
  CHECK_FALSE(
      kvfit::attend(s.queries, {kvfit::kv_block{.keys = wide, .values = no_values}, s.cache()}));
  const kvfit::matrix wrong(0, 7);
  CHECK_FALSE(kvfit::attend(s.queries, {kvfit::kv_block{.keys = wrong, .values = no_values}}));
}

}  // namespace kvfit_test
