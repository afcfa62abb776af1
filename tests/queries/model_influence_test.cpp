// SPDX-License-Identifier: MIT
#include "kvfit/queries/model_influence.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/cache/allocate.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/queries/gather.hpp"
#include "kvfit/queries/hold_out_texts.hpp"
#include "queries/tiny_text.hpp"

namespace kvfit_test {

using kvfit::head_id;
using kvfit::measure_model_influence;

namespace {

/// A head's first rows, as they are, with a bias each.
kvfit::compacted first_rows(const kvfit::kv_block& head, index_t rows) {
  kvfit::compacted small;
  small.keys.resize(rows, head.keys.cols());
  small.values.resize(rows, head.values.cols());
  small.bias = kvfit::vector::Constant(rows, 0.25F);
  for (index_t i = 0; i < rows; ++i) {
    kvfit::load_row(head.keys, i, small.keys.row(i).data());
    kvfit::load_row(head.values, i, small.values.row(i).data());
    small.positions.push_back(i);
    small.key_positions.push_back(i);
  }
  return small;
}

/// Mean KL of what the model says of all texts, each read from its beginning over both prefixes.
double mean_divergence(const tiny_text& text, const kvfit::cache_prefix& small,
                       const std::vector<std::vector<kvfit::token>>& texts) {
  double sum = 0;
  double tokens = 0;
  for (const auto& each : texts) {
    std::vector<kvfit::matrix> logits;
    for (const kvfit::cache_prefix* prefix : {&text.prefix, &small}) {
      const auto read = kvfit::prefill(text.read, each, *prefix);
      REQUIRE(read);
      logits.push_back(*text.read.model().logits(read->hidden));
    }
    for (index_t i = 0; i < logits[0].rows(); ++i) {
      std::vector<double> norms;
      for (const kvfit::matrix& said : logits) {
        double norm = 0;
        for (index_t k = 0; k < said.cols(); ++k) norm += std::exp(static_cast<double>(said(i, k)));
        norms.push_back(std::log(norm));
      }
      for (index_t k = 0; k < logits[0].cols(); ++k) {
        const double p = static_cast<double>(logits[0](i, k)) - norms[0];
        const double q = static_cast<double>(logits[1](i, k)) - norms[1];
        sum += std::exp(p) * (p - q);
      }
      tokens += 1;
    }
  }
  return sum / tokens;
}

}  // namespace

TEST_CASE("a head's influence is what the model says once that head alone is compact",
          "[queries][influence]") {
  const tiny_engine model;
  const tiny_text text(model, 24);
  const kvfit::cache_view full = text.full.cache.view();
  const std::vector<std::vector<kvfit::token>> texts = {model.text(7, 1), model.text(3, 2)};
  const std::vector<index_t> grid = {1, 5, 24, 30};
  index_t calls = 0;
  const auto curves = measure_model_influence(
      text.read, full, 24, texts, grid,
      [&](const head_id& head, index_t rows) -> kvfit::result<kvfit::compacted> {
        ++calls;
        return first_rows(full.layers[static_cast<std::size_t>(head.layer)]
                              .heads[static_cast<std::size_t>(head.head)],
                          rows);
      });
  REQUIRE(curves);
  REQUIRE(curves->size() == 6);
  CHECK(calls == 12);  // from 24 rows on there is nothing to compact
  for (std::size_t l = 0; l < 3; ++l) {
    for (std::size_t h = 0; h < 2; ++h) {
      const auto& points = (*curves)[2 * l + h].points;
      REQUIRE(points.size() == 3);
      CHECK(points[2].rows == 24);
      CHECK(points[2].loss == 0);
      for (const std::size_t p : {std::size_t{0}, std::size_t{1}}) {
        CHECK(points[p].rows == grid[p]);
        const kvfit::compacted small = first_rows(full.layers[l].heads[h], grid[p]);
        kvfit::cache_prefix prefix = text.prefix;
        prefix.blocks[l][h] = {small.block()};
        const double expected = mean_divergence(text, prefix, texts);
        CHECK(expected > 1e-6);
        CHECK(points[p].loss == Approx(expected).epsilon(1e-3).margin(1e-7));
      }
    }
  }
}

TEST_CASE("influence is judged on the tokens that count, each by its weight",
          "[queries][influence]") {
  const tiny_engine model;
  const tiny_text text(model, 24);
  const kvfit::cache_view full = text.full.cache.view();
  const std::vector<kvfit::token> running = model.text(7, 1);
  const std::vector<kvfit::token> question = model.text(6, 2);
  const std::vector<kvfit::token> begun(question.begin(), question.begin() + 4);
  const std::vector<index_t> grid = {5};
  const auto losses = [&](const std::vector<kvfit::judged_text>& texts) {
    const auto curves = measure_model_influence(
        text.read, full, 24, std::span<const kvfit::judged_text>(texts), grid,
        [&](const head_id& head, index_t rows) -> kvfit::result<kvfit::compacted> {
          return first_rows(full.layers[static_cast<std::size_t>(head.layer)]
                                .heads[static_cast<std::size_t>(head.head)],
                            rows);
        });
    REQUIRE(curves);
    std::vector<double> all;
    for (const auto& curve : *curves) all.push_back(curve.points[0].loss);
    return all;
  };
  const auto of_text = losses({{.tokens = running}});
  const auto of_question = losses({{.tokens = question}});
  const auto of_begun = losses({{.tokens = begun}});
  const auto of_end = losses({{.tokens = question, .first = 4}});
  const auto of_both =
      losses({{.tokens = running}, {.tokens = question, .first = 4, .weight = 3.5}});
  for (std::size_t h = 0; h < of_text.size(); ++h) {
    CHECK(of_end[h] ==
          Approx((6 * of_question[h] - 4 * of_begun[h]) / 2).epsilon(1e-3).margin(1e-7));
    CHECK(of_both[h] == Approx((of_text[h] + of_end[h]) / 2).epsilon(1e-9));  // 7 · 1 and 2 · 3.5
    CHECK(of_both[h] != of_text[h]);
  }
}

TEST_CASE("a judging text's first token and weight must be within their ranges",
          "[queries][influence]") {
  const tiny_engine model;
  const tiny_text text(model, 12);
  const kvfit::cache_view full = text.full.cache.view();
  const std::vector<index_t> grid = {2};
  const auto refused = [&](index_t first, double weight) {
    const std::vector<kvfit::judged_text> texts = {
        {.tokens = model.text(4, 1), .first = first, .weight = weight}};
    const auto curves = measure_model_influence(
        text.read, full, 12, std::span<const kvfit::judged_text>(texts), grid,
        [&](const head_id&, index_t) -> kvfit::result<kvfit::compacted> {
          FAIL("nothing is compacted before texts are checked");
          return kvfit::compacted{};
        });
    REQUIRE_FALSE(curves);
    CHECK(curves.error().code == kvfit::errc::invalid_option);
    return curves.error().argument;
  };
  CHECK(refused(-1, 1) == "first");
  CHECK(refused(4, 1) == "first");
  CHECK(refused(0, -1) == "weight");
  CHECK(refused(0, std::numeric_limits<double>::quiet_NaN()) == "weight");
  CHECK(refused(0, std::numeric_limits<double>::infinity()) == "weight");
  CHECK(refused(0, 0) == "weight");
}

TEST_CASE("what is wrong with a measurement of influence is an error", "[queries][influence]") {
  const tiny_engine model;
  const tiny_text text(model, 12);
  const kvfit::cache_view full = text.full.cache.view();
  const std::vector<std::vector<kvfit::token>> texts = {model.text(4, 1)};
  const std::vector<index_t> grid = {2, 4};
  const auto keep = [&](const head_id& head, index_t rows) -> kvfit::result<kvfit::compacted> {
    return first_rows(full.layers[static_cast<std::size_t>(head.layer)]
                          .heads[static_cast<std::size_t>(head.head)],
                      rows);
  };
  const auto code = [&](const kvfit::cache_view& cache, index_t positions,
                        const std::vector<std::vector<kvfit::token>>& read,
                        const std::vector<index_t>& rows) {
    const auto curves = measure_model_influence(text.read, cache, positions, read, rows, keep);
    REQUIRE(!curves);
    return curves.error().code;
  };
  CHECK(code(full, 12, {}, grid) == kvfit::errc::empty_input);
  CHECK(code(full, 12, texts, {}) == kvfit::errc::empty_input);
  CHECK(code(full, 12, texts, {0, 2}) == kvfit::errc::invalid_option);
  CHECK(code(full, 12, texts, {2, 2}) == kvfit::errc::invalid_option);
  CHECK(code(full, 11, texts, grid) == kvfit::errc::invalid_position);
  CHECK(code(full, 12, {{}}, grid) == kvfit::errc::empty_input);
  CHECK(code(full, 12, {{29}}, grid) == kvfit::errc::invalid_option);
  kvfit::cache_view sliding = full;
  for (auto& layer : sliding.layers) layer.kind = kvfit::layer_kind::sliding;
  CHECK(code(sliding, 12, texts, grid) == kvfit::errc::empty_input);
  const auto failed =
      measure_model_influence(text.read, full, 12, texts, grid,
                              [](const head_id& head, index_t) -> kvfit::result<kvfit::compacted> {
                                return kvfit::error{kvfit::errc::all_masked, kvfit::name(head)};
                              });
  REQUIRE(!failed);
  CHECK(failed.error().argument == "L0H0");
}

TEST_CASE("a head that the model hangs on gets the rows, by what it says alone",
          "[queries][influence]") {
  tiny_engine model;
  // Values of one head count a hundred times in what leaves its layer; its own errors do not show.
  model.stack[1].output *= 0.01F;
  model.stack[0].output *= 0.01F;
  model.stack[2].output *= 0.01F;
  model.stack[1].output.middleRows(2 * 6, 2 * 6) *= 300.0F;  // the query heads of KV head 1
  const tiny_text text(model, 32);
  const kvfit::cache_view full = text.full.cache.view();
  const std::vector<std::vector<kvfit::token>> texts = {model.text(16, 1)};
  const std::vector<index_t> grid = {2, 8, 16};
  const auto curves = measure_model_influence(
      text.read, full, 32, texts, grid,
      [&](const head_id& head, index_t rows) -> kvfit::result<kvfit::compacted> {
        return first_rows(full.layers[static_cast<std::size_t>(head.layer)]
                              .heads[static_cast<std::size_t>(head.head)],
                          rows);
      });
  REQUIRE(curves);
  std::vector<kvfit::head_rows> heads;
  for (index_t l = 0; l < 3; ++l) {
    for (index_t h = 0; h < 2; ++h) heads.push_back({{l, h}, 32});
  }
  const auto rows = kvfit::allocate(heads, 60, kvfit::budgets::influence{*curves}, {.at_least = 2});
  REQUIRE(rows);
  CHECK((*rows)[3] == *std::max_element(rows->begin(), rows->end()));
  CHECK((*rows)[3] >= 30);
}

TEST_CASE("texts are held out whole or by their middle, and leave no query behind",
          "[queries][hold-out]") {
  const tiny_engine model;
  const tiny_text text(model, 40);
  std::vector<std::vector<kvfit::token>> questions;
  for (std::uint64_t q = 0; q < 9; ++q) questions.push_back(model.text(5, q));
  const kvfit::query_mixture mixture = {{kvfit::sources::repeat{}, 0.4},
                                        {kvfit::sources::texts{questions}, 0.3},
                                        {kvfit::sources::context{}, 0.3}};
  const auto all = kvfit::gather_queries(text.read, text.tokens, text.prefix, mixture,
                                         {.budget = 1000, .is_cut_alike = false});
  REQUIRE(all);
  REQUIRE(all->rows() == 40 + 45 + 40);
  const auto parts = kvfit::hold_out_texts(*all, {.stretch = 10, .every = 4, .most = 8});
  REQUIRE(parts);
  REQUIRE(parts->judge.size() == 3);
  CHECK(parts->judge[0] ==
        std::vector<kvfit::token>(text.tokens.begin() + 15, text.tokens.begin() + 25));
  CHECK(parts->judge[1] == questions[0]);
  CHECK(parts->judge[2] == questions[8]);
  CHECK(parts->fit.rows() == all->rows() - 10 - 5 - 5);
  index_t row = 0;
  for (index_t i = 0; i < all->rows(); ++i) {
    const bool judges =
        (i >= 15 && i < 25) || (i >= 40 && i < 40 + 5) || (i >= 40 + 40 && i < 40 + 45);
    if (judges) continue;
    CHECK(parts->fit.layers[1].heads[2].row(row) == all->layers[1].heads[2].row(i));
    ++row;
  }
  const auto fewer = kvfit::hold_out_texts(*all, {.stretch = 10, .every = 4, .most = 1});
  REQUIRE(fewer);
  CHECK(fewer->judge.size() == 2);

  const auto named = kvfit::hold_out_texts(
      *all, {.stretch = 10, .every = 4, .most = 1, .named = {4, 2}});  // questions 3 and 1
  REQUIRE(named);
  REQUIRE(named->judge.size() == 4);
  CHECK(std::count(questions.begin(), questions.end(), named->judge[1]) == 1);  // one drawn
  CHECK(named->judge[1] != questions[3]);
  CHECK(named->judge[1] != questions[1]);
  CHECK(named->judge[2] == questions[3]);
  CHECK(named->judge[3] == questions[1]);
  CHECK(named->fit.rows() == all->rows() - 10 - 5 - 5 - 5);
  const auto the_same = kvfit::hold_out_texts(*all, {.stretch = 10, .named = {1}});
  REQUIRE(the_same);  // named, and so none of those drawn
  CHECK(the_same->judge.back() == questions[0]);
  CHECK(std::count(the_same->judge.begin(), the_same->judge.end(), questions[0]) == 1);

  const auto code = [&](const kvfit::text_hold_out& how) {
    return kvfit::hold_out_texts(*all, how).error().code;
  };
  CHECK(code({.stretch = 0}) == kvfit::errc::invalid_option);
  CHECK(code({.every = 1}) == kvfit::errc::invalid_option);
  CHECK(code({.most = 0}) == kvfit::errc::invalid_option);
  CHECK(code({.named = {all->readings.size()}}) == kvfit::errc::invalid_option);
  CHECK(code({.named = {2, 2}}) == kvfit::errc::invalid_option);
  CHECK(code({.named = {all->readings.size() - 1}}) == kvfit::errc::invalid_option);  // the context
  const auto unread = kvfit::gather_queries(text.read, text.tokens, text.prefix,
                                            kvfit::sources::cache_keys{}, {.budget = 20});
  REQUIRE(unread);
  CHECK(kvfit::hold_out_texts(*unread).error().code == kvfit::errc::empty_input);
  const auto repeat = kvfit::gather_queries(text.read, text.tokens, text.prefix,
                                            kvfit::sources::texts{{model.text(10, 3)}});
  REQUIRE(repeat);
  // One text of ten tokens is no text that one in four of could judge; twice it is, and all of it.
  CHECK(kvfit::hold_out_texts(*repeat, {.stretch = 10}).error().code == kvfit::errc::empty_input);
  CHECK(kvfit::hold_out_texts(*repeat, {.stretch = 9})->fit.rows() == 1);
}

}  // namespace kvfit_test
