// SPDX-License-Identifier: MIT
// Score passes and attention by the host side, beside the CPU and in double.
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "kvfit/attention/score_by.hpp"
#include "kvfit/view/make_view.hpp"
#include "metal/host/fixture.hpp"
#include "support/attention_oracle.hpp"

using namespace host_tests;

namespace {

constexpr float hidden = -std::numeric_limits<float>::infinity();

/// A head with whatever a rule may look at.
struct rich_head {
  kvfit::matrix keys;
  kvfit::matrix values;
  std::vector<kvfit::matrix> rows;
  std::vector<kvfit::matrix> mask_rows;
  std::vector<kvfit::row_view> masks;
  std::vector<float> bias;
  std::vector<kvfit::index_t> positions;
  std::vector<kvfit::query_block> queries;
  kvfit::kv_block cache;
  kvfit::logit_rule rule;

  rich_head(std::mt19937& draw, kvfit::index_t count, kvfit::index_t depth, kvfit::index_t width,
            const std::vector<kvfit::index_t>& blocks)
      : keys(random_matrix(draw, count, depth)), values(random_matrix(draw, count, width)) {
    for (const kvfit::index_t n : blocks) rows.push_back(random_matrix(draw, n, depth));
    for (const kvfit::matrix& of : rows) queries.emplace_back(kvfit::row_view(of));
    cache = {.keys = keys, .values = values};
  }
  rich_head(const rich_head&) = delete;
  rich_head& operator=(const rich_head&) = delete;

  [[nodiscard]] kvfit::query_set set() const { return std::span(queries); }
};

void set_rule(rich_head& head, std::mt19937& draw, int which) {
  const kvfit::index_t keys = head.keys.rows();
  switch (which) {
    case 0:
      break;
    case 1:  // bias and masks, with hidden rows of NaN
      for (kvfit::index_t j = 0; j < keys; ++j) {
        head.bias.push_back(j % 7 == 3 ? hidden : 0.1F * static_cast<float>(j % 5));
        if (j % 7 != 3) continue;
        head.keys.row(j).setConstant(std::numeric_limits<float>::quiet_NaN());
        head.values.row(j).setConstant(std::numeric_limits<float>::quiet_NaN());
      }
      head.cache.bias = head.bias;
      for (const kvfit::matrix& of : head.rows) {
        head.mask_rows.push_back(random_matrix(draw, of.rows(), keys));
        kvfit::matrix& mask = head.mask_rows.back();
        for (kvfit::index_t k = 0; k < mask.size(); k += 3) mask.data()[k] = hidden;
      }
      for (const kvfit::matrix& of : head.mask_rows) head.masks.emplace_back(of);
      head.cache.masks = head.masks;
      break;
    case 2:  // causal, a window, blocks at other positions
      head.rule.causal = true;
      head.rule.window = 30;
      head.cache.first_position = 3;
      for (std::size_t b = 0; b < head.queries.size(); ++b) {
        head.queries[b].first_position = 20 + 13 * static_cast<kvfit::index_t>(b);
      }
      break;
    case 3:  // ALiBi, a table of positions
      head.rule.causal = true;
      for (kvfit::index_t j = 0; j < keys; ++j) head.positions.push_back((j * 7) % keys);
      head.cache.positions = head.positions;
      for (std::size_t b = 0; b < head.queries.size(); ++b) {
        head.queries[b].alibi_slope = 0.03F * static_cast<float>(b + 1);
        head.queries[b].first_position = keys - 5;
        head.queries[b].position_step = -2;
      }
      break;
    default:
      head.rule.soft_cap = 4;
      head.rule.scale = 0.7F;
      break;
  }
}

kvfit::attention_scores scores_of(const kvfit::metal::executor& gpu, const kvfit::kv_block& cache,
                                  const kvfit::query_set& queries, const kvfit::logit_rule& rule,
                                  const kvfit::score_options& options) {
  const auto before = gpu.counts().score_passes;
  auto made = kvfit::detail::score_by({&gpu.state(), &kvfit::metal::run_score_pass}, cache, queries,
                                      rule, options, {}, {}, {});
  INFO((made ? "" : made.error().message()));
  REQUIRE(made);
  CHECK(gpu.counts().score_passes == before + 1);  // and not the CPU's
  return std::move(*made);
}

void check_same(float found, float wanted, double error) {
  if (std::isinf(wanted)) {
    CHECK(found == wanted);
  } else {
    CHECK(std::abs(static_cast<double>(found) - static_cast<double>(wanted)) <= error);
  }
}

void check_scores(const kvfit::attention_scores& found, const kvfit::attention_scores& wanted) {
  REQUIRE(found.max.size() == wanted.max.size());
  for (kvfit::index_t i = 0; i < wanted.max.size(); ++i) {
    check_same(found.max[i], wanted.max[i], 1e-5);
    check_same(found.log_mass[i], wanted.log_mass[i], 1e-5);
    check_same(found.mass[i], wanted.mass[i], 1e-5 * static_cast<double>(wanted.mass[i]));
  }
  REQUIRE(found.output.size() == wanted.output.size());
  for (kvfit::index_t k = 0; k < wanted.output.size(); ++k) {
    check_same(found.output.data()[k], wanted.output.data()[k], 1e-4);
  }
  REQUIRE(found.importance.size() == wanted.importance.size());
  for (kvfit::index_t j = 0; j < wanted.importance.size(); ++j) {
    check_same(found.importance[j], wanted.importance[j],
               1e-5 * static_cast<double>(wanted.importance[j]) + 1e-9);
  }
}

bool same_bytes(const kvfit::attention_output& a, const kvfit::attention_output& b) {
  return a.output == b.output && a.log_mass == b.log_mass;
}

}  // namespace

TEST_CASE("A score pass on the GPU is the CPU's, for every rule and unequal query blocks",
          "[metal][host]") {
  const fresh start;
  std::mt19937 draw(3);
  for (const bool has_matrices : {true, false}) {
    const kvfit::metal::executor gpu = gpu_with(all_on_gpu(has_matrices));
    for (int which = 0; which < 5; ++which) {
      INFO("rule " << which);
      rich_head head(draw, 75, 20, 13, {9, 31});
      set_rule(head, draw, which);
      const kvfit::score_options options{.importance = kvfit::importance_kind::rms,
                                         .pooling = kvfit::pooling_kind::average,
                                         .pooling_width = 5,
                                         .keep_exponentials = 1 << 20,
                                         .window = which == 2 ? 6 : 0};
      const auto wanted = kvfit::score_pass(head.cache, head.set(), head.rule, options);
      REQUIRE(wanted);
      const auto found = scores_of(gpu, head.cache, head.set(), head.rule, options);
      check_scores(found, *wanted);
      REQUIRE(found.exponentials.rows() == 75);
      for (kvfit::index_t i = 0; i < found.shift.size(); ++i) {
        if (std::isinf(wanted->max[i])) continue;
        for (kvfit::index_t j = 0; j < found.exponentials.rows(); ++j) {
          const float raise = std::exp(wanted->shift[i] - wanted->max[i]);
          check_same(found.exponentials(j, i), wanted->exponentials(j, i) * raise, 2e-5);
        }
      }
    }
  }
}

TEST_CASE("A score pass without outputs reads no values", "[metal][host]") {
  const fresh start;
  std::mt19937 draw(13);
  for (const bool has_matrices : {true, false}) {
    const kvfit::metal::executor gpu = gpu_with(all_on_gpu(has_matrices));
    for (int which = 0; which < 5; ++which) {
      INFO("rule " << which);
      rich_head head(draw, 75, 20, 13, {9, 31});
      set_rule(head, draw, which);
      const kvfit::score_options options{.importance = kvfit::importance_kind::rms,
                                         .outputs = false};
      const auto wanted = kvfit::score_pass(head.cache, head.set(), head.rule, options);
      REQUIRE(wanted);
      check_scores(scores_of(gpu, head.cache, head.set(), head.rule, options), *wanted);
    }
  }
#if !defined(KVFIT_TEST_ON_DEVICE)
  CHECK(activity().cost.count("score_pass_fp32_fp32") == 1);
  CHECK(activity().cost.count("attention_fp32_fp32") == 0);
  CHECK(activity().cost.count("attention_fp32_fp32_plain") == 0);
#endif
}

TEST_CASE("Attention on the GPU is the CPU's and the one in double, over two blocks with sinks",
          "[metal][host]") {
  const fresh start;
  std::mt19937 draw(4);
  const kvfit::metal::executor gpu = gpu_with(all_on_gpu());
  for (int which = 0; which < 5; ++which) {
    for (const bool are_alike : {true, false}) {
      INFO("rule " << which << ", blocks " << (are_alike ? "alike" : "unequal"));
      rich_head old(draw, 70, 24, 18, {7, are_alike ? 7 : 12});
      set_rule(old, draw, which);
      if (are_alike) {
        for (auto& block : old.queries) block.first_position = old.queries[0].first_position;
      }
      rich_head live(draw, 33, 24, 18, {1});
      live.cache.first_position = 70;
      if (which == 1) {  // masks of as many blocks
        for (const kvfit::matrix& of : old.rows) {
          live.mask_rows.push_back(random_matrix(draw, of.rows(), 33));
        }
        for (const kvfit::matrix& of : live.mask_rows) live.masks.emplace_back(of);
        live.cache.masks = live.masks;
      }
      old.queries[0].sink_logit = 0.5F;
      const std::vector<kvfit::kv_block> blocks = {old.cache, live.cache};
      const auto wanted = kvfit::attend(old.set(), blocks, old.rule);
      REQUIRE(wanted);
      const auto found = kvfit::metal::attend(gpu, old.set(), blocks, old.rule);
      INFO((found ? "" : found.error().message()));
      REQUIRE(found);
      CHECK((found->output - wanted->output).cwiseAbs().maxCoeff() <= 1e-4F);
      for (kvfit::index_t i = 0; i < wanted->log_mass.size(); ++i) {
        check_same(found->log_mass[i], wanted->log_mass[i], 1e-5);
      }
      if (which == 1) continue;  // rows of NaN
      const auto truth = kvfit_test::attend_in_double(old.set(), blocks, old.rule);
      for (kvfit::index_t i = 0; i < wanted->log_mass.size(); ++i) {
        check_same(found->log_mass[i], static_cast<float>(truth.log_mass[i]),
                   2 * truth.log_mass_error(i, 24));
      }
    }
  }
  CHECK(gpu.counts().handed_over == 0);
}

TEST_CASE("Rows of every type and layout are attended to as the CPU does", "[metal][host]") {
  const fresh start;
  std::mt19937 draw(5);
  const kvfit::matrix queries = random_matrix(draw, 11, 32);
  const kvfit::matrix numbers = random_matrix(draw, 160, 64);
  std::vector<kvfit::fp16> halves;
  std::vector<kvfit::bf16> shorts;
  for (kvfit::index_t k = 0; k < numbers.size(); ++k) {
    halves.push_back(kvfit::to_fp16(numbers.data()[k]));
    shorts.push_back(kvfit::to_bf16(numbers.data()[k]));
  }
  const kvfit::row_view wide(numbers);
  const kvfit::row_view half_rows(halves.data(), 160, 64);
  const kvfit::row_view short_rows(shorts.data(), 160, 64);
  std::vector<kvfit::index_t> listed;
  for (kvfit::index_t j = 0; j < 80; ++j) listed.push_back((j * 37) % 160);
  struct layout {
    const char* name;
    kvfit::row_view keys;
    kvfit::row_view values;
  };
  const std::vector<layout> layouts = {
      {"fp32", wide.middle_cols(0, 32), wide.middle_cols(32, 20)},
      {"fp16", half_rows.middle_cols(0, 32), half_rows.middle_cols(32, 20)},
      {"bf16", short_rows.middle_cols(0, 32), short_rows.middle_cols(32, 20)},
      {"mixed", half_rows.middle_cols(0, 32), wide.middle_cols(32, 20)},
      {"every second row", half_rows.middle_cols(0, 32).every_row(1, 2),
       half_rows.middle_cols(32, 20).every_row(1, 2)},
      {"backwards", kvfit::row_view(numbers.data() + 159 * 64, 160, 32, -64),
       kvfit::row_view(numbers.data() + 159 * 64 + 32, 160, 20, -64)},
      {"transposed", kvfit::row_view(numbers.data(), 32, 100, 100).transposed(),
       kvfit::row_view(numbers.data() + 3200, 20, 100, 100).transposed()},
  };
  for (const bool is_shared : {true, false}) {
    auto options = all_on_gpu();
    if (!is_shared) options.device.share_from = std::numeric_limits<kvfit::index_t>::max();
    const kvfit::metal::executor gpu = gpu_with(options);
    for (const layout& one : layouts) {
      INFO(one.name << (is_shared ? ", shared" : ", copied"));
      const kvfit::kv_block block{.keys = one.keys, .values = one.values};
      const auto wanted = kvfit::attend(queries, {block});
      REQUIRE(wanted);
      const auto found = kvfit::metal::attend(gpu, queries, {block});
      INFO((found ? "" : found.error().message()));
      REQUIRE(found);
      CHECK((found->output - wanted->output).cwiseAbs().maxCoeff() <= 1e-4F);
      CHECK((found->log_mass - wanted->log_mass).cwiseAbs().maxCoeff() <= 1e-5F);
    }
    CHECK(gpu.counts().attentions == static_cast<kvfit::index_t>(layouts.size()));
  }
}

TEST_CASE("Memory of the caller is shared or copied: the same bytes", "[metal][host]") {
  const fresh start;
  std::mt19937 draw(6);
  const kvfit::matrix keys = random_matrix(draw, 300, 16);
  const kvfit::matrix values = random_matrix(draw, 300, 16);
  const kvfit::matrix queries = random_matrix(draw, 40, 16);
  const auto attend_with = [&](const kvfit::metal::executor_options& options) {
    const kvfit::metal::executor gpu = gpu_with(options);
    auto found = kvfit::metal::attend(gpu, queries, {{.keys = keys, .values = values}});
    REQUIRE(found);
    CHECK(gpu.counts().attentions == 1);
    return std::move(*found);
  };
  const auto shared = attend_with(all_on_gpu());
  auto options = all_on_gpu();
  options.device.share_from = 1 << 20;
  CHECK(same_bytes(attend_with(options), shared));
#if !defined(KVFIT_TEST_ON_DEVICE)
  failures().shared_pages = false;  // the system refuses
  CHECK(same_bytes(attend_with(all_on_gpu()), shared));
#endif
}

TEST_CASE("Attention of many heads is one command buffer and one wait", "[metal][host]") {
  const fresh start;
  std::mt19937 draw(7);
  const kvfit::metal::executor gpu = gpu_with(all_on_gpu());
  std::vector<kvfit::matrix> keys, values, queries;
  for (kvfit::index_t h = 0; h < 5; ++h) {
    keys.push_back(random_matrix(draw, 50 + 30 * h, 16));
    values.push_back(random_matrix(draw, 50 + 30 * h, 16));
    queries.push_back(random_matrix(draw, 3, 16));
  }
  std::vector<kvfit::kv_block> blocks;
  for (std::size_t h = 0; h < 5; ++h) blocks.push_back({.keys = keys[h], .values = values[h]});
  std::vector<kvfit::metal::attend_request> requests;
  for (std::size_t h = 0; h < 5; ++h) {
    requests.push_back({.queries = queries[h], .blocks = std::span(&blocks[h], 1)});
  }
  const auto all = kvfit::metal::attend(gpu, requests);
  REQUIRE(all);
#if !defined(KVFIT_TEST_ON_DEVICE)
  CHECK(activity().waits == 1);
  CHECK(activity().command_buffers == 1);
  CHECK(activity().dispatches == 10);
#endif
  REQUIRE(all->size() == 5);
  for (std::size_t h = 0; h < 5; ++h) {
    const auto wanted = kvfit::attend(queries[h], {blocks[h]});
    REQUIRE(wanted);
    CHECK(((*all)[h].output - wanted->output).cwiseAbs().maxCoeff() <= 1e-4F);
  }
}

TEST_CASE("Small attention stays on the CPU, and has its bytes", "[metal][host]") {
  const fresh start;
  std::mt19937 draw(8);
  const kvfit::matrix keys = random_matrix(draw, 60, 16);
  const kvfit::matrix queries = random_matrix(draw, 4, 16);
  const kvfit::kv_block block{.keys = keys, .values = keys};
  const auto wanted = kvfit::attend(queries, {block});
  REQUIRE(wanted);
  auto options = all_on_gpu();
  options.from.attend_from = 4 * 60 * 32 + 1;
  const kvfit::metal::executor gpu = gpu_with(options);
  const auto found = kvfit::metal::attend(gpu, queries, {block});
  REQUIRE(found);
  CHECK(same_bytes(*found, *wanted));
  CHECK(gpu.counts().attentions == 0);
  options.from.attend_from -= 1;
  const kvfit::metal::executor larger = gpu_with(options);
  REQUIRE(kvfit::metal::attend(larger, queries, {block}));
  CHECK(larger.counts().attentions == 1);
}

TEST_CASE("Numbers that are not finite give attend's errors, read beforehand or not",
          "[metal][host]") {
  const fresh start;
  std::mt19937 draw(9);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const kvfit::metal::executor gpu = gpu_with(all_on_gpu());
  for (int which = 0; which < 8; ++which) {
    kvfit::matrix keys = random_matrix(draw, 70, 16);
    kvfit::matrix values = random_matrix(draw, 70, 16);
    kvfit::matrix queries = random_matrix(draw, 35, 16);
    std::vector<float> bias(70, 0.0F);
    kvfit::logit_rule rule;
    if (which == 0) keys(65, 3) = nan;
    if (which == 1) values(11, 15) = std::numeric_limits<float>::infinity();
    if (which == 2) queries(34, 0) = nan;
    if (which == 3) keys.row(5) *= 1e30F, queries.row(7) *= 1e30F;
    if (which == 4) bias[9] = nan;
    if (which == 5) values.setConstant(3e38F), values.row(3) *= -1;
    if (which == 6) rule.scale = nan;
    if (which == 7) bias.resize(69);
    const kvfit::kv_block block{.keys = keys, .values = values, .bias = bias};
    const auto wanted = kvfit::attend(queries, {block}, rule);
    for (const bool checks : {true, false}) {
      const kvfit::metal::attend_request one{.queries = queries,
                                             .blocks = std::span(&block, 1),
                                             .rule = rule,
                                             .checks_numbers = checks};
      const auto found = kvfit::metal::attend(gpu, std::span(&one, 1));
      INFO(which << (checks ? ", checked" : ", unchecked"));
      REQUIRE(found.has_value() == wanted.has_value());
      if (!wanted) CHECK(found.error().message() == wanted.error().message());
    }
    CHECK((which == 5 || !wanted));
  }
}
