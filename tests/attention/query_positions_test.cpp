// SPDX-License-Identifier: MIT
#include <span>
#include <vector>

#include "attention/samples.hpp"
#include "kvfit/attention/split.hpp"

namespace kvfit_test {

using kvfit::attend;
using kvfit::query_block;

namespace {

/// 40 queries that stand at uneven places, some behind all keys, some before most.
struct scattered {
  scattered() : queries(head.queries) {
    for (index_t i = 0; i < 40; ++i) table.push_back((i * i * 7) % 331);
    queries.alibi_slope = 0.05F;
    queries.positions = table;
  }
  scattered(const scattered&) = delete;
  scattered& operator=(const scattered&) = delete;
  ~scattered() = default;

  sample head{40, 300, 16, 20};
  std::vector<index_t> table;
  query_block queries;
};

const kvfit::logit_rule positional = {.causal = true, .window = 120};

}  // namespace

TEST_CASE("a table says where each query stands", "[attention][positions]") {
  const scattered s;
  const auto y = attend(s.queries, {s.head.cache()}, positional);
  REQUIRE(y);
  for (index_t i = 0; i < 40; ++i) {
    // The oracle sees each row alone, at a position of its own.
    const query_block alone(kvfit::row_view(s.head.queries).middle_rows(i, 1),
                            s.table[static_cast<std::size_t>(i)], 0.05F);
    const oracle_attention right = attend_in_double(alone, s.head.cache(), positional);
    INFO("row " << i);
    if (std::isinf(right.log_mass[0])) {
      CHECK(y->log_mass[i] == hidden);
      continue;
    }
    CHECK(std::abs(static_cast<double>(y->log_mass[i]) - right.log_mass[0]) <=
          right.log_mass_error(0, 16));
    CHECK((y->output.row(i).cast<double>() - right.output.row(0)).cwiseAbs().maxCoeff() <=
          right.output_error(0, 16));
  }
}

TEST_CASE("the parts of a split stand where their rows stood in the table",
          "[attention][positions]") {
  const scattered s;
  for (const double share : {1.0, 0.3}) {
    const auto parts = kvfit::split_queries(s.queries, {}, 0.2, share);
    index_t rows = 0;
    for (const kvfit::query_part* part : {&parts.fit, &parts.judge}) {
      for (std::size_t b = 0; b < part->blocks.size(); ++b) {
        const kvfit::block_origin& from = part->origins[b];
        for (index_t i = 0; i < part->blocks[b].rows.rows(); ++i, ++rows) {
          const auto row = static_cast<std::size_t>(from.first + i * from.step);
          CHECK(part->blocks[b].position(i) == s.table[row]);
        }
      }
    }
    CHECK(rows >= 20);
  }
}

TEST_CASE("a table without a place for every row, or out of bounds, is refused",
          "[attention][positions]") {
  scattered s;
  const auto refused = [&](kvfit::errc code) {
    const auto y = attend(s.queries, {s.head.cache()}, positional);
    REQUIRE_FALSE(y.has_value());
    CHECK(y.error().code == code);
  };
  s.queries.positions = std::span(s.table).first(39);
  refused(kvfit::errc::shape_mismatch);
  s.queries.positions = s.table;
  s.queries.first_position = 1;
  refused(kvfit::errc::shape_mismatch);
  s.queries.first_position = 39;
  s.queries.position_step = -1;
  CHECK(attend(s.queries, {s.head.cache()}, positional).has_value());
  s.queries.first_position = 38;
  refused(kvfit::errc::shape_mismatch);
  s.queries.first_position = 0;
  s.queries.position_step = 1;
  s.table[7] = (index_t{1} << 53) + 1;
  refused(kvfit::errc::invalid_option);
}

}  // namespace kvfit_test
