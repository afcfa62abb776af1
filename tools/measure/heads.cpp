// SPDX-License-Identifier: MIT
#include "measure/heads.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>
#include <variant>

#include "cli/method_options.hpp"
#include "cli/without_bad_alloc.hpp"
#include "kvfit/attention/attend.hpp"
#include "kvfit/attention/compare.hpp"
#include "kvfit/cache/compact_cache.hpp"
#include "kvfit/cache/rolling.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/presets.hpp"
#include "measure/evaluation.hpp"

namespace kvfit_tool {

namespace {

/// The options of a preset with what the plan sets on top. Layers of a cache have their own rule
/// and rotation, which go before these.
kvfit::result<kvfit::compact_options> options_of(const head_plan& plan,
                                                 const kvfit::logit_rule& rule = {},
                                                 const std::optional<kvfit::rope>& rotation = {}) {
  const auto preset = kvfit::presets::find(plan.what.method);
  if (!preset) {
    return kvfit::error{kvfit::errc::invalid_option, "method", kvfit::error::none,
                        kvfit::error::none, "no method " + plan.what.method};
  }
  method_options options{preset->make(plan.budget)};
  options.rule = rule;
  options.refine.rotation = rotation;
  options.refine.seed = plan.seed;
  options.storage.rows = plan.storage;
  options.protect = plan.protect;
  if (auto* drawn = options.selection.get_if<kvfit::selection::random>()) {
    drawn->seed = plan.seed;
  }
  if (const std::string wrong = apply_settings(options, plan.what.method, plan.what.settings);
      !wrong.empty()) {
    return kvfit::error{kvfit::errc::invalid_option, "settings", kvfit::error::none,
                        kvfit::error::none, wrong};
  }
  return kvfit::compact_options(std::move(options));
}

small_head small_of(kvfit::compacted&& fitted, double seconds) {
  return {.positions = std::move(fitted.positions),
          .key_positions = std::move(fitted.key_positions),
          .keys = std::move(fitted.keys),
          .bias = std::move(fitted.bias),
          .values = std::move(fitted.values),
          .train = fitted.report.train,
          .held_out = fitted.report.held_out,
          .seconds = seconds};
}

bool has_sinks(const std::vector<kvfit::query_block>& queries) {
  return std::any_of(queries.begin(), queries.end(), [](const kvfit::query_block& block) {
    return std::isfinite(block.sink_logit);
  });
}

kvfit::result<kvfit::attention_output> attend_small(const head_view& head,
                                                    const std::vector<kvfit::query_block>& queries,
                                                    const small_head& small) {
  const std::span<const float> bias(small.bias.data(), static_cast<std::size_t>(small.bias.size()));
  return kvfit::attend(std::span<const kvfit::query_block>(queries),
                       {{.keys = small.keys,
                         .values = small.values,
                         .bias = bias,
                         .positions = small.key_positions}},
                       head.rule);
}

/// The compaction's own errors are those of attention without sinks. Where the head has some, the
/// reference queries are asked again, with them.
kvfit::result<void> judge_with_sinks(const head_view& head, small_head& small) {
  if (!has_sinks(head.queries)) return {};
  const auto full =
      kvfit::attend(std::span<const kvfit::query_block>(head.queries), {head.block}, head.rule);
  if (!full) return full.error();
  const auto fitted = attend_small(head, head.queries, small);
  if (!fitted) return fitted.error();
  small.held_out = std::nullopt;
  small.train = kvfit::compare(full->output, full->log_mass, fitted->output, fitted->log_mass);
  return {};
}

}  // namespace

const std::vector<method>& methods() {
  static const std::vector<method> all = [] {
    std::vector<method> list;
    for (const kvfit::presets::preset& preset : kvfit::presets::all) {
      const kvfit::compact_options options = preset.make(1);
      const bool is_fitted =
          !options.bias.holds<kvfit::bias::zero>() || !options.values.holds<kvfit::values::copy>();
      list.push_back({preset.name, preset.summary, is_fitted});
    }
    return list;
  }();
  return all;
}

const method* find_method(std::string_view name) {
  const auto found = std::find_if(methods().begin(), methods().end(),
                                  [&](const method& candidate) { return candidate.name == name; });
  return found == methods().end() ? nullptr : &*found;
}

kvfit::result<small_head> compact(const head_view& head, const head_plan& plan) {
  const auto options = options_of(plan, head.rule, head.rotation);
  if (!options) return options.error();
  return without_bad_alloc("attend", [&]() -> kvfit::result<small_head> {
    const auto start = std::chrono::steady_clock::now();
    auto fitted =
        kvfit::compact(head.block, std::span<const kvfit::query_block>(head.queries), *options);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    if (!fitted) return fitted.error();
    small_head small = small_of(std::move(*fitted), taken.count());
    if (const auto ok = judge_with_sinks(head, small); !ok) return ok.error();
    return small;
  });
}

kvfit::result<void> compact_capture(const kvfit::capture& capture, const cache_request& request,
                                    kvfit::thread_pool& pool,
                                    const std::function<kvfit::result<void>(finished_head&&)>& take,
                                    const kvfit::watch& by) {
  kvfit::cache_view cache;
  kvfit::cache_queries queries;
  std::vector<kvfit::index_t> rows;
  const std::vector<placed_head> places = heads_of(capture);
  for (const placed_head& at : places) {
    if (cache.layers.empty() || cache.layers.back().number != at.layer) {
      cache.layers.push_back(
          {.number = at.layer, .rule = at.view.rule, .rotation = at.view.rotation});
      queries.push_back({.layer = at.layer, .heads = {}});
    }
    cache.layers.back().heads.push_back(at.view.block);
    for (const kvfit::query_block& block : at.view.queries) queries.back().heads.push_back(block);
    rows.push_back(budget_at(at.view.block.keys.rows(), request.ratio));
  }
  const auto head = options_of(request.head);
  if (!head) return head.error();
  kvfit::cache_options options{
      .budget = std::accumulate(rows.begin(), rows.end(), kvfit::index_t{0}), .head = *head};
  if (request.copies_failed) options.fallback = kvfit::head_fallback::copies;
  switch (request.shares) {
    case share_policy::uniform:
      options.shares = kvfit::budgets::rows{std::move(rows)};
      break;
    case share_policy::pyramid:
      options.shares = kvfit::budgets::pyramid{};
      break;
    case share_policy::global:
      options.shares = kvfit::budgets::global_ranking{};
      break;
    case share_policy::given:
      options.shares = kvfit::budgets::given{request.given};
      break;
  }
  return without_bad_alloc("attend", [&]() -> kvfit::result<void> {
    const auto plan = kvfit::plan_cache(cache, queries, options, pool, by);
    if (!plan) return plan.error();
    return kvfit::compact_heads(
        cache, *plan, options, pool,
        [&](std::size_t place, kvfit::compacted_head&& done) -> kvfit::result<void> {
          small_head small = small_of(std::move(done.rows), done.report.report.seconds.total);
          if (const auto ok = judge_with_sinks(places[place].view, small); !ok) return ok;
          return take({place, std::move(small), done.report.cause});
        },
        by);
  });
}

kvfit::result<full_attention> attend_full(const head_view& head) {
  return without_bad_alloc("attend", [&]() -> kvfit::result<full_attention> {
    auto full = kvfit::attend(std::span<const kvfit::query_block>(head.test_queries), {head.block},
                              head.rule);
    if (!full) return full.error();
    return full_attention{std::move(full->output), std::move(full->log_mass)};
  });
}

kvfit::result<kvfit::fidelity> judge(const head_view& head, const full_attention& full,
                                     const small_head& small) {
  return without_bad_alloc("attend", [&]() -> kvfit::result<kvfit::fidelity> {
    const auto fitted = attend_small(head, head.test_queries, small);
    if (!fitted) return fitted.error();
    return kvfit::compare(full.output, full.log_mass, fitted->output, fitted->log_mass);
  });
}

kvfit::result<kvfit::compacted> compact_one(const kvfit::cache_layer& layer, kvfit::index_t head,
                                            const kvfit::layer_queries& queries,
                                            const head_plan& plan) {
  const auto options = options_of(plan, layer.rule.value_or(kvfit::logit_rule{}), layer.rotation);
  if (!options) return options.error();
  const std::size_t group = queries.heads.size() / layer.heads.size();
  const auto at = static_cast<std::size_t>(head);
  return kvfit::compact(layer.heads[at], std::span(queries.heads).subspan(at * group, group),
                        *options);
}

kvfit::result<kvfit::compacted_cache> compact_all(const kvfit::cache_view& cache,
                                                  const kvfit::cache_queries& queries,
                                                  const head_plan& plan,
                                                  std::vector<kvfit::index_t> rows) {
  const auto head = options_of(plan);
  if (!head) return head.error();
  kvfit::thread_pool alone(1);
  return kvfit::compact_cache(
      cache, queries, {.head = *head, .shares = kvfit::budgets::rows{std::move(rows)}}, alone);
}

kvfit::result<kvfit::compacted_cache> compact_ranked(const kvfit::cache_view& cache,
                                                     const kvfit::cache_queries& queries,
                                                     const head_plan& plan, ranked_together within,
                                                     kvfit::index_t total) {
  const auto head = options_of(plan);
  if (!head) return head.error();
  const auto* own = head->selection.get_if<kvfit::selection::highest_attention>();
  const auto by =
      own != nullptr
          ? *own
          : kvfit::selection::highest_attention{.importance = kvfit::importance_kind::max};
  kvfit::cache_options options{.budget = total, .head = *head};
  if (within == ranked_together::all_heads) {
    options.shares = kvfit::budgets::global_ranking{.by = by};
  } else {
    options.shares = kvfit::budgets::layer_ranking{.by = by};
  }
  kvfit::thread_pool alone(1);
  return kvfit::compact_cache(cache, queries, options, alone);
}

kvfit::result<std::shared_ptr<const kvfit::compacted_cache>> compact_again(
    std::shared_ptr<const kvfit::compacted_cache> block, const kvfit::cache_view& live,
    kvfit::index_t first_live, const kvfit::cache_queries& queries, const head_plan& plan,
    std::vector<kvfit::index_t> rows) {
  const auto head = options_of(plan);
  if (!head) return head.error();
  const kvfit::index_t tokens = live.layers.front().heads.front().keys.rows();
  // Lengths only say when a round is due; what it leaves is said by `rows`.
  kvfit::rolling_options options{.trigger = 2, .target = 1, .sinks = 0, .recent = 0, .cache = {}};
  options.cache.head = *head;
  options.cache.shares = kvfit::budgets::rows{std::move(rows)};
  auto roll = kvfit::rolling_cache::make(
      options, {.block = std::move(block),
                .length = first_live + tokens,
                .live_first = first_live,
                .next_position = first_live + tokens,
                .live_positions = {{.first = first_live, .rows = tokens}}});
  if (!roll) return roll.error();
  const auto round = roll->begin(live);
  if (!round) return round.error();
  kvfit::thread_pool alone(1);
  const auto applied = roll->apply(round->run(queries, alone));
  if (!applied) return applied.error();
  return roll->block();
}

}  // namespace kvfit_tool
