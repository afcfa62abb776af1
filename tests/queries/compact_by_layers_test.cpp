// SPDX-License-Identifier: MIT
#include "kvfit/queries/compact_by_layers.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "kvfit/queries/gather.hpp"
#include "kvfit/queries/held_out_judge.hpp"
#include "kvfit/queries/hold_out.hpp"
#include "kvfit/queries/refine_passes.hpp"
#include "kvfit/queries/refit_by_layers.hpp"
#include "queries/tiny_text.hpp"

namespace kvfit_test {

using kvfit::compact_by_layers;
using kvfit::errc;
using kvfit::gather_queries;
using kvfit::reference_queries;
namespace sources = kvfit::sources;

namespace {

constexpr index_t context_length = 32;

/// Compacts each layer of a text to some rows a head, and counts how often it was asked.
struct tiny_compaction {
  const kvfit::cache_view& full;
  index_t budget = 6;
  std::vector<index_t> asked = {};

  kvfit::result<kvfit::compacted_layer> operator()(index_t layer,
                                                   const kvfit::layer_queries& given) {
    asked.push_back(layer);
    CHECK(given.layer == layer);
    return compact_heads(full.layers[static_cast<std::size_t>(layer)], given, budget);
  }
};

reference_queries gathered(const tiny_text& text, const kvfit::query_mixture& mixture,
                           index_t budget = 10000) {
  auto queries = gather_queries(text.read, text.tokens, text.prefix, mixture, {.budget = budget});
  REQUIRE(queries);
  return std::move(*queries);
}

}  // namespace

TEST_CASE("each layer is compacted with what the model asks over compacted layers below",
          "[queries][on-policy]") {
  tiny_engine model;
  if (GENERATE(false, true)) {  // a layer between that is not compacted
    model.stack[1].shape.kind = kvfit::layer_kind::sliding;
    model.stack[1].shape.rule.window = 9;
  }
  const tiny_text text(model, context_length, {.chunk = 13});
  const kvfit::cache_view full = text.full.cache.view();
  const kvfit::query_mixture mixture = {{sources::repeat{}, 0.5},
                                        {sources::texts{{model.text(20, 1)}}, 0.25},
                                        {sources::context{}, 0.125},
                                        {sources::random_vectors{}, 0.125}};
  const reference_queries off_policy = gathered(text, mixture, 96);
  tiny_compaction compact{full};
  const auto made =
      compact_by_layers(text.read, text.prefix, off_policy, {0, context_length}, compact);
  REQUIRE(made);
  const bool is_sliding = full.layers[1].kind == kvfit::layer_kind::sliding;
  CHECK(compact.asked == (is_sliding ? std::vector<index_t>{0, 2} : std::vector<index_t>{0, 1, 2}));
  CHECK(made->cache.skipped == (is_sliding ? std::vector<index_t>{1} : std::vector<index_t>{}));
  CHECK(made->cache.rows == static_cast<index_t>(compact.asked.size()) * 2 * 6);
  CHECK(made->cache.rows_before == static_cast<index_t>(compact.asked.size()) * 2 * context_length);
  CHECK(made->cache.fallbacks == 0);

  // The first global layer has the same queries, bit for bit; the next ones have others.
  const reference_queries& on_policy = made->queries;
  CHECK(on_policy.positions == off_policy.positions);
  CHECK(on_policy.layers[0].heads == off_policy.layers[0].heads);
  CHECK(on_policy.layers[1].heads != off_policy.layers[1].heads);

  // The oracle reads everything at once, with the compacted rows in their place.
  oracle_replacement replaced{static_cast<std::size_t>(context_length), {}};
  replaced.rows.resize(3);
  for (const kvfit::compacted_layer& layer : made->cache.layers) {
    replaced.rows[static_cast<std::size_t>(layer.number)] = oracle_rows(layer);
  }
  double most = 0;
  double moved = 0;
  REQUIRE(on_policy.readings.size() == 3);
  for (const kvfit::query_reading& reading : on_policy.readings) {
    if (!reading.is_after_cache) continue;
    const oracle_run oracle = oracle_read(model, joined(text.tokens, reading.tokens), replaced);
    for (std::size_t l = 0; l < on_policy.layers.size(); ++l) {
      const auto layer = static_cast<std::size_t>(on_policy.layers[l].number);
      for (std::size_t i = 0; i < reading.rows.size(); ++i) {
        const auto at = static_cast<std::size_t>(context_length + reading.rows[i]);
        const index_t row = reading.first_row + static_cast<index_t>(i);
        for (std::size_t h = 0; h < 4; ++h) {
          const numbers& right = oracle.layers[layer][at].queries[h];
          most = std::max(most, difference(on_policy.layers[l].heads[h].row(row), right));
          moved = std::max(moved, difference(off_policy.layers[l].heads[h].row(row), right));
        }
      }
    }
  }
  CHECK(most < tiny_tolerance);
  CHECK(moved > 0.05);

  // Context and random vectors stay what they were.
  const index_t kept = on_policy.readings[2].first_row;
  for (std::size_t l = 0; l < on_policy.layers.size(); ++l) {
    for (std::size_t h = 0; h < 4; ++h) {
      const index_t rest = on_policy.rows() - kept;
      CHECK(rest == 12);
      CHECK(on_policy.layers[l].heads[h].bottomRows(rest) ==
            off_policy.layers[l].heads[h].bottomRows(rest));
    }
  }
}

TEST_CASE("L layers cost L passes a text", "[queries][on-policy]") {
  const tiny_engine model(5);
  const tiny_text text(model, context_length);
  const kvfit::cache_view full = text.full.cache.view();
  const sources::texts two{{model.text(20, 1), model.text(11, 2)}};
  reference_queries queries = gathered(text, {{two, 1}});
  model.projections.assign(5, 0);
  model.finishes.assign(5, 0);
  const auto made = compact_by_layers(text.read, text.prefix, std::move(queries),
                                      {0, context_length}, tiny_compaction{full});
  REQUIRE(made);
  CHECK(made->layer_passes == 10);
  CHECK(model.projections == std::vector<index_t>(5, 31));
  CHECK(model.finishes == std::vector<index_t>{31, 31, 31, 31, 0});  // nothing is above the last
}

TEST_CASE("rows outside the range stay live beside the compacted ones", "[queries][on-policy]") {
  const tiny_engine model;
  const tiny_text text(model, context_length);
  kvfit::cache_view middle = text.full.cache.view();
  for (kvfit::cache_layer& layer : middle.layers) {
    for (kvfit::kv_block& head : layer.heads) {
      head = {.keys = head.keys.middle_rows(4, 20),
              .values = head.values.middle_rows(4, 20),
              .first_position = 4};
    }
  }
  const auto made =
      compact_by_layers(text.read, text.prefix, gathered(text, {{sources::repeat{}, 1}}), {4, 24},
                        tiny_compaction{middle, 5});
  REQUIRE(made);
  // What stays, then what was compacted, as the oracle takes it.
  oracle_replacement replaced{static_cast<std::size_t>(context_length), {}};
  const oracle_run before = oracle_read(model, text.tokens);
  for (std::size_t l = 0; l < 3; ++l) {
    auto heads = oracle_rows(made->cache.layers[l]);
    for (std::size_t h = 0; h < 2; ++h) {
      CHECK(heads[h].size() == 5);
      for (std::size_t i = 0; i < 32; ++i) {
        if (i < 4 || i >= 24) heads[h].push_back(before.layers[l][i].rows[h]);
      }
    }
    replaced.rows.push_back(std::move(heads));
  }
  const oracle_run oracle = oracle_read(model, joined(text.tokens, text.tokens), replaced);
  double most = 0;
  for (index_t i = 0; i < 32; ++i) {
    for (std::size_t h = 0; h < 4; ++h) {
      most =
          std::max(most, difference(made->queries.layers[2].heads[h].row(i),
                                    oracle.layers[2][static_cast<std::size_t>(32 + i)].queries[h]));
    }
  }
  CHECK(most < tiny_tolerance);
}

TEST_CASE("a refit gets what stands, and goes on from what it returns", "[queries][on-policy]") {
  const tiny_engine model;
  const tiny_text text(model, context_length);
  const kvfit::cache_view full = text.full.cache.view();
  const reference_queries queries = gathered(text, {{sources::repeat{}, 1}});
  const auto start = compact_by_layers(text.read, text.prefix, queries, {0, context_length},
                                       tiny_compaction{full, 8});
  REQUIRE(start);
  std::vector<index_t> handed;
  const auto refit = [&](index_t layer, const kvfit::layer_queries& given,
                         const kvfit::compacted_layer& current) {
    CHECK(current.number == layer);
    CHECK(current.offsets.back() == 16);
    handed.push_back(layer);
    return compact_heads(full.layers[static_cast<std::size_t>(layer)], given, 4);
  };
  const auto renewed = kvfit::refit_by_layers(text.read, text.prefix, queries, {0, context_length},
                                              start->cache, refit);
  REQUIRE(renewed);
  CHECK(handed == std::vector<index_t>{0, 1, 2});
  CHECK(renewed->cache.rows == 24);
  // The same as compacting anew: what was below is renewed when the layer is asked.
  const auto anew = compact_by_layers(text.read, text.prefix, queries, {0, context_length},
                                      tiny_compaction{full, 4});
  REQUIRE(anew);
  CHECK(renewed->queries.layers[2].heads == anew->queries.layers[2].heads);

  kvfit::compacted_cache partial = start->cache;
  partial.layers.pop_back();
  const auto refused =
      kvfit::refit_by_layers(text.read, text.prefix, queries, {0, context_length}, partial, refit);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == errc::missing_entry);
}

TEST_CASE("what is wrong on the way up is an error", "[queries][on-policy]") {
  const tiny_engine model;
  kvfit::cancellation stop;
  const tiny_text text(model, context_length, {.stop = {.cancel = &stop}});
  const kvfit::cache_view full = text.full.cache.view();
  const reference_queries queries = gathered(text, {{sources::repeat{}, 1}});
  const auto cause = [&](const reference_queries& given, auto&& compact) {
    const auto made =
        compact_by_layers(text.read, text.prefix, given, {0, context_length}, compact);
    REQUIRE_FALSE(made.has_value());
    INFO(made.error().message());
    return made.error();
  };
  tiny_compaction compact{full};
  CHECK(cause(queries, [&](index_t layer, const kvfit::layer_queries& given) {
          auto small = compact_heads(full.layers[0], given, 4);
          small->number = layer + 1;
          return small;
        }).argument == "layer.number");
  CHECK(cause(queries,
              [](index_t, const kvfit::layer_queries&) -> kvfit::result<kvfit::compacted_layer> {
                return kvfit::error{errc::all_masked, "mine"};
              })
            .argument == "mine");
  auto wrong = queries;
  wrong.layers.pop_back();
  CHECK(cause(wrong, compact).code == errc::shape_mismatch);
  wrong = queries;
  wrong.layers[1].heads.pop_back();
  CHECK(cause(wrong, compact).code == errc::shape_mismatch);
  wrong = queries;
  wrong.readings[0].position = 31;
  CHECK(cause(wrong, compact).code == errc::invalid_position);
  wrong = queries;
  wrong.readings[0].rows.back() = 99;
  CHECK(cause(wrong, compact).code == errc::invalid_position);
  CHECK(compact.asked.empty());
  const auto stopped = cause(queries, [&](index_t layer, const kvfit::layer_queries& given) {
    stop.request();
    return compact_heads(full.layers[static_cast<std::size_t>(layer)], given, 4);
  });
  CHECK(stopped.code == errc::cancelled);
  CHECK(stopped.actual == 1);
  CHECK(stopped.expected == 3);
}

TEST_CASE("held-out queries are every s-th, and the parts keep their texts",
          "[queries][hold-out]") {
  const tiny_engine model;
  const tiny_text text(model, 20);
  const reference_queries all =
      gathered(text,
               {{sources::texts{{model.text(10, 1), model.text(2, 2)}}, 0.5},
                {sources::random_vectors{}, 0.5}},
               48);
  REQUIRE(all.rows() == 24);
  const auto parts = kvfit::hold_out(all, 4);
  REQUIRE(parts);
  CHECK(parts->fit.rows() == 18);
  CHECK(parts->judge.rows() == 6);
  index_t fit = 0;
  index_t judge = 0;
  for (index_t i = 0; i < 24; ++i) {
    const reference_queries& part = i % 4 == 3 ? parts->judge : parts->fit;
    const index_t row = i % 4 == 3 ? judge++ : fit++;
    CHECK(part.positions[static_cast<std::size_t>(row)] ==
          all.positions[static_cast<std::size_t>(i)]);
    for (std::size_t l = 0; l < 3; ++l) {
      for (std::size_t h = 0; h < 4; ++h) {
        CHECK(part.layers[l].heads[h].row(row) == all.layers[l].heads[h].row(i));
      }
    }
  }
  REQUIRE(parts->judge.readings.size() == 2);
  CHECK(parts->judge.readings[0].rows == std::vector<index_t>{3, 7});
  CHECK(parts->judge.readings[1].rows == std::vector<index_t>{1});
  CHECK(parts->judge.readings[1].first_row == 2);
  CHECK(parts->fit.readings[1].rows == std::vector<index_t>{0});
  CHECK(parts->fit.readings[1].first_row == 8);
  CHECK(kvfit::hold_out(all, 1).error().code == errc::invalid_option);
  CHECK(kvfit::hold_out(all, 25).error().code == errc::invalid_option);
}

TEST_CASE("the judge's loss is the mean error of the heads", "[queries][judge]") {
  const tiny_engine model;
  const tiny_text text(model, context_length);
  const kvfit::cache_view full = text.full.cache.view();
  const reference_queries queries = gathered(text, {{sources::repeat{}, 1}});
  const kvfit::cache_queries asked = queries.view();
  const auto judge = kvfit::held_out_judge::make(full, asked, {.mass = 0.5});
  REQUIRE(judge);
  kvfit::compacted_cache cache;
  double sum = 0;
  for (std::size_t l = 0; l < 3; ++l) {
    auto layer = compact_heads(full.layers[l], asked[l], 5);
    REQUIRE(layer);
    cache.layers.push_back(std::move(*layer));
    const kvfit::compacted_layer& small = cache.layers.back();
    // In double: relative output errors and mass errors, query by query.
    for (std::size_t h = 0; h < 2; ++h) {
      double head = 0;
      for (std::size_t g = 0; g < 2; ++g) {
        const kvfit::query_block& block = asked[l].heads[2 * h + g];
        for (index_t i = 0; i < block.rows.rows(); ++i) {
          const auto attention = [&](const kvfit::kv_block& rows) {
            std::pair<Eigen::VectorXd, double> y{Eigen::VectorXd::Zero(6), 0.0};
            for (index_t j = 0; j < rows.keys.rows(); ++j) {
              double logit = 0;
              for (index_t k = 0; k < 8; ++k) {
                logit +=
                    static_cast<double>(block.rows(i, k)) * static_cast<double>(rows.keys(j, k));
              }
              logit /= std::sqrt(8.0);
              if (!rows.bias.empty()) {
                logit += static_cast<double>(rows.bias[static_cast<std::size_t>(j)]);
              }
              y.second += std::exp(logit);
              for (index_t k = 0; k < 6; ++k) {
                y.first[k] += std::exp(logit) * static_cast<double>(rows.values(j, k));
              }
            }
            y.first /= y.second;
            return y;
          };
          const auto right = attention(full.layers[l].heads[h]);
          const auto found = attention(small.block(h));
          head += (right.first - found.first).norm() / right.first.norm() +
                  0.5 * std::abs(found.second / right.second - 1);
        }
      }
      sum += head / static_cast<double>(2 * context_length);
    }
  }
  const auto loss = (*judge)(cache);
  REQUIRE(loss);
  CHECK(*loss == Approx(sum / 6).epsilon(1e-4));

  kvfit::compacted_layer& last = cache.layers.back();
  auto torn = cache;
  torn.layers.back().bias.conservativeResize(last.bias.size() - 1);
  CHECK((*judge)(torn).error().code == errc::shape_mismatch);
  torn = cache;
  torn.layers.back().values.conservativeResize(last.values.rows(), 5);
  CHECK((*judge)(torn).error().code == errc::shape_mismatch);
  last.offsets = {0, 0, 0};  // its heads lose all their rows
  last.keys.resize(0, 8);
  last.values.resize(0, 6);
  last.bias.resize(0);
  last.positions.clear();
  last.key_positions.clear();
  const auto emptied = (*judge)(cache);
  REQUIRE(emptied);
  CHECK(*emptied > *loss);
  cache.layers.pop_back();
  CHECK((*judge)(cache).error().code == errc::missing_entry);
  CHECK(kvfit::held_out_judge::make(full, {}).error().code == errc::empty_input);
  CHECK(kvfit::held_out_judge::make(full, asked, {.mass = -1}).error().argument == "mass");
}

TEST_CASE("a causal judge holds queries against the keys that stand before them alone",
          "[queries][judge]") {
  const tiny_engine model;
  const tiny_text text(model, context_length);
  const kvfit::cache_view full = text.full.cache.view();
  const reference_queries all = gathered(text, {{sources::context{}, 1}});
  std::vector<index_t> first_half(context_length / 2);
  std::iota(first_half.begin(), first_half.end(), index_t{0});
  const reference_queries early = kvfit::detail::take_queries(all, first_half);
  // The first half of every head, as it is: all that these queries saw.
  kvfit::compacted_cache half;
  for (const kvfit::cache_layer& layer : full.layers) {
    kvfit::compacted_layer kept;
    kept.number = layer.number;
    kept.offsets = {0, 16, 32};
    kept.keys.resize(32, 8);
    kept.values.resize(32, 6);
    kept.bias = kvfit::vector::Zero(32);
    for (index_t row = 0; row < 32; ++row) {
      const kvfit::kv_block& head = layer.heads[static_cast<std::size_t>(row / 16)];
      kept.positions.push_back(row % 16);
      for (index_t k = 0; k < 8; ++k) kept.keys(row, k) = head.keys(row % 16, k);
      for (index_t k = 0; k < 6; ++k) kept.values(row, k) = head.values(row % 16, k);
    }
    kept.key_positions = kept.positions;
    kept.heads.resize(2);
    half.layers.push_back(std::move(kept));
  }
  const auto causal = kvfit::held_out_judge::make(full, early.view(), {.is_causal = true});
  const auto blind = kvfit::held_out_judge::make(full, early.view());
  REQUIRE(causal);
  REQUIRE(blind);
  CHECK(*(*causal)(half) < 1e-5);
  CHECK(*(*blind)(half) > 0.1);
}

TEST_CASE("the best pass is returned, and described, whatever comes after it",
          "[queries][passes]") {
  // A cache's rows stand for its loss.
  const auto judged_as = [](double loss) {
    kvfit::compacted_cache cache;
    cache.rows = static_cast<index_t>(loss);
    return cache;
  };
  const auto judge = [](const kvfit::compacted_cache& cache) {
    return kvfit::result<double>(static_cast<double>(cache.rows));
  };
  const auto refine = [&](std::vector<double> losses, const kvfit::pass_options& options) {
    std::vector<index_t> given;
    const auto next = [&](index_t pass, const kvfit::compacted_cache& best) {
      given.push_back(best.rows);
      return kvfit::result<kvfit::compacted_cache>(
          judged_as(losses[static_cast<std::size_t>(pass)]));
    };
    auto refined = kvfit::refine_passes(judged_as(losses[0]), next, judge, options);
    REQUIRE(refined);
    CHECK(static_cast<double>(refined->cache.rows) == refined->loss);
    CHECK(refined->losses[static_cast<std::size_t>(refined->pass)] == refined->loss);
    losses.resize(refined->losses.size());
    CHECK(refined->losses == losses);
    for (std::size_t i = 0; i < given.size(); ++i) {
      CHECK(static_cast<double>(given[i]) == losses[i]);  // each pass starts from the best so far
    }
    return std::move(*refined);
  };
  using kvfit::pass_end;
  const auto falling = refine({100, 80, 60, 50}, {.passes = 3});
  CHECK(falling.pass == 3);
  CHECK(falling.end == pass_end::all_done);
  const auto worse = refine({100, 80, 90, 10}, {.passes = 3});
  CHECK(worse.pass == 1);
  CHECK(worse.end == pass_end::no_gain);
  CHECK(worse.losses.size() == 3);
  const auto slow = refine({1000, 900, 896, 10}, {.passes = 3, .least_gain = 0.005});
  CHECK(slow.pass == 2);  // better, if by too little to go on
  CHECK(slow.end == pass_end::no_gain);
  CHECK(refine({100, 200, 10}, {.passes = 2}).pass == 0);
  CHECK(refine({100, 10}, {.passes = 0}).losses.size() == 1);
  CHECK(refine({0, 0, 0}, {.passes = 2}).end == pass_end::no_gain);
}

TEST_CASE("a pass that fails, is stopped or judges as no number leaves the best before it",
          "[queries][passes]") {
  using kvfit::compacted_cache;
  using kvfit::pass_end;
  using kvfit::result;
  kvfit::cancellation stop;
  int calls = 0;
  const auto judge = [&calls](const compacted_cache&) {
    ++calls;
    return result<double>(calls == 3 ? std::nan("") : 10.0 - calls);
  };
  const auto next = [](index_t pass, const compacted_cache&) -> result<compacted_cache> {
    if (pass == 2) return kvfit::error{errc::out_of_memory, "pass"};
    return compacted_cache{};
  };
  const auto failed = kvfit::refine_passes({}, next, judge);
  REQUIRE(failed);
  CHECK(failed->end == pass_end::failed);
  REQUIRE(failed->cause);
  CHECK(failed->cause->argument == "pass");
  CHECK(failed->pass == 1);

  calls = 1;
  const auto always = [](index_t, const compacted_cache&) -> result<compacted_cache> {
    return compacted_cache{};
  };
  const auto no_number = kvfit::refine_passes({}, always, judge);
  REQUIRE(no_number);
  CHECK(no_number->end == pass_end::failed);
  CHECK(no_number->cause->code == errc::non_finite);
  CHECK(no_number->pass == 0);

  calls = 2;
  CHECK(kvfit::refine_passes({}, always, judge).error().code == errc::non_finite);
  CHECK(kvfit::refine_passes({}, always, judge, {.passes = -1}).error().argument == "passes");
  CHECK(kvfit::refine_passes({}, always, judge, {.least_gain = -1}).error().argument ==
        "least_gain");
  stop.request();
  calls = 10;
  const auto stopped = kvfit::refine_passes({}, always, judge, {.stop = {.cancel = &stop}});
  REQUIRE(stopped);
  CHECK(stopped->end == pass_end::cancelled);
  CHECK(stopped->losses.size() == 1);
  CHECK(stopped->cause->detail == "asked to stop");
  calls = 10;
  const auto late = kvfit::refine_passes({}, always, judge,
                                         {.stop = {.deadline = std::chrono::steady_clock::now()}});
  REQUIRE(late);
  CHECK(late->end == pass_end::cancelled);
  CHECK(late->pass == 0);
  CHECK(late->losses.size() == 1);
  CHECK(late->cause->detail == "the deadline has passed");
}

TEST_CASE("passes over a compact model end no worse than they began", "[queries][passes]") {
  const tiny_engine model;
  const tiny_text text(model, context_length);
  const kvfit::cache_view full = text.full.cache.view();
  const reference_queries held = gathered(text, {{sources::texts{{model.text(24, 5)}}, 1}});
  const auto judge = kvfit::held_out_judge::make(full, held.view());
  REQUIRE(judge);
  const auto start = compact_by_layers(text.read, text.prefix,
                                       gathered(text, {{sources::random_vectors{}, 1}}, 64),
                                       {0, context_length}, tiny_compaction{full});
  REQUIRE(start);
  CHECK(start->layer_passes == 0);  // random vectors are no text
  // Each pass lets the compact model answer, reads what it answered, and fits again.
  const auto next =
      [&](index_t pass,
          const kvfit::compacted_cache& best) -> kvfit::result<kvfit::compacted_cache> {
    const auto active = kvfit::compacted_prefix(text.prefix, best);
    if (!active) return active.error();
    sources::self_study study{.prompts = {model.text(4, 2), model.text(4, 3)},
                              .limits = {.tokens = 12}};
    study.seed = static_cast<std::uint64_t>(pass);
    const kvfit::query_mixture mixture = {{study, 0.5}, {sources::repeat{}, 0.5}};
    auto queries = gather_queries(text.read, text.tokens, *active, mixture, {.budget = 96});
    if (!queries) return queries.error();
    auto made = compact_by_layers(text.read, text.prefix, std::move(*queries), {0, context_length},
                                  tiny_compaction{full});
    if (!made) return made.error();
    return std::move(made->cache);
  };
  const auto refined = kvfit::refine_passes(start->cache, next, *judge, {.passes = 3});
  REQUIRE(refined);
  INFO("losses " << refined->losses.front() << ", then " << refined->losses.back());
  CHECK_FALSE(refined->cause.has_value());
  CHECK(refined->pass >= 1);
  CHECK(refined->loss < refined->losses.front());
  CHECK(*(*judge)(refined->cache) == refined->loss);  // the report describes what is returned
}

}  // namespace kvfit_test
