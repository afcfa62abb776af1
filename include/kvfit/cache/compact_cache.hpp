// SPDX-License-Identifier: MIT
/// `compact_cache()`: all heads of all layers in, a ragged compact cache out.
#pragma once

#include <cstddef>
#include <mutex>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/cache/compacted_layers.hpp"
#include "kvfit/cache/exchange.hpp"
#include "kvfit/cache/fit_head.hpp"
#include "kvfit/cache/kept_scores.hpp"
#include "kvfit/cache/over_heads.hpp"
#include "kvfit/cache/plan_cache.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/progress.hpp"
#include "kvfit/parallel/serial.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Puts the heads of one layer one after the other, and lets go of each when it has been copied.
inline compacted_layer stack_heads(std::span<compacted_head> heads) {
  compacted_layer layer;
  layer.number = heads.front().report.id.layer;
  layer.offsets = {0};
  for (const compacted_head& head : heads) {
    layer.offsets.push_back(layer.offsets.back() + head.rows.keys.rows());
  }
  const index_t rows = layer.offsets.back();
  layer.keys.resize(rows, heads.front().rows.keys.cols());
  layer.values.resize(rows, heads.front().rows.values.cols());
  layer.bias.resize(rows);
  layer.positions.reserve(static_cast<std::size_t>(rows));
  layer.key_positions.reserve(static_cast<std::size_t>(rows));
  index_t first = 0;
  for (compacted_head& head : heads) {
    const compacted own = std::move(head.rows);
    const index_t count = own.keys.rows();
    layer.keys.middleRows(first, count) = own.keys;
    layer.values.middleRows(first, count) = own.values;
    layer.bias.segment(first, count) = own.bias;
    layer.positions.insert(layer.positions.end(), own.positions.begin(), own.positions.end());
    layer.key_positions.insert(layer.key_positions.end(), own.key_positions.begin(),
                               own.key_positions.end());
    layer.heads.push_back(std::move(head.report));
    first += count;
  }
  return layer;
}

/// `compact_heads`; `failed_at`, if given, is told the place in the plan whose error is returned.
template <executor E, class Take>
result<void> compact_tasks(const cache_view& cache, const cache_plan& plan,
                           const cache_options& options, E&& how, Take&& take, const watch& by,
                           index_t* failed_at = nullptr) {
  std::vector<char> is_known;
  for (const known_scores& of : plan.known) is_known.push_back(of.max.empty() ? 0 : 1);
  const auto at_once = heads_within_memory(cache, plan.tasks, plan.rows, options, failed_at,
                                           kept_bytes(is_known, plan.tasks));
  if (!at_once) return at_once.error();
  std::mutex taking;
  return over_heads(
      how, static_cast<index_t>(plan.tasks.size()), *at_once, by,
      [&](index_t i) -> result<void> {
        const auto place = static_cast<std::size_t>(i);
        const head_task& task = plan.tasks[place];
        const auto own = head_options(options, cache.layers[task.layer], plan.rows[place]);
        const known_scores* known = plan.known.empty() ? nullptr : &plan.known[place];
        auto head = fit_head(task, own, options.fallback, by.stop(), known);
        if (!head) return head.error();
        const std::lock_guard<std::mutex> guard(taking);
        return take(place, std::move(*head));
      },
      failed_at);
}

/// The plan of all processes' heads, and as many of these as `with` brings together.
template <executor E>
result<std::vector<compacted_head>> plan_and_fit(head_exchange& with, const cache_view& cache,
                                                 const cache_queries& queries,
                                                 const cache_options& options, E&& how,
                                                 const watch& by, cache_plan& plan) {
  auto made = plan_heads(with, cache, queries, options, how, by);
  if (!made) return made.error();
  plan = std::move(*made);
  const cache_plan& own = with.own(plan);
  std::vector<compacted_head> heads;
  auto ok = with.step([&](index_t& failed_at) -> result<void> {
    heads.resize(own.tasks.size());
    const auto put = [&](std::size_t place, compacted_head&& head) -> result<void> {
      heads[place] = std::move(head);
      return {};
    };
    return compact_tasks(cache, own, options, how, put, by, &failed_at);
  });
  if (ok) ok = with.share_heads(plan, heads);
  if (!ok) return ok.error();
  return heads;
}

/// The heads of `tasks`, layer after layer of `cache`, each of which is let go of when it has been
/// copied; the layers that are not compacted are listed as skipped.
inline compacted_cache assemble(const cache_view& cache, std::span<const index_t> skip,
                                std::span<const head_task> tasks, std::span<compacted_head> heads) {
  compacted_cache out;
  for (const compacted_head& head : heads) {
    out.rows_before += head.report.rows_before;
    out.rows += head.report.rows;
    out.fallbacks += head.report.outcome == head_outcome::fallback ? 1 : 0;
  }
  for (std::size_t place = 0, first = 0; place < cache.layers.size(); ++place) {
    std::size_t end = first;
    while (end < heads.size() && tasks[end].layer == place) ++end;
    if (end > first) {
      out.layers.push_back(stack_heads(heads.subspan(first, end - first)));
    } else if (!is_compacted(cache.layers[place], skip)) {
      out.skipped.push_back(cache.layers[place].number);
    }
    first = end;
  }
  return out;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// Carries out a plan, handing over each head as it is done, so that no more than those under way
/// are held: for results that go to a file or back into the engine's memory.
///
/// take(place, head): `result<void>(std::size_t, compacted_head&&)`, called once a task, `place`
/// its number in the plan; never by two threads at once, in no order. Its error ends the call. What
/// it was given before an error is the caller's to undo.
///
/// Errors: those of `compact` that are found on the way, with the head's name in front ("L3H1:
/// values"), of several heads the first in order; those of `take`; `cancelled`. An exception can
/// only be one of a caller's own policy, and passes after the heads under way have ended.
template <executor E, class Take>
[[nodiscard]] result<void> compact_heads(const cache_view& cache, const cache_plan& plan,
                                         const cache_options& options, E&& how, Take&& take,
                                         const watch& by = {}) {
  return detail::compact_tasks(cache, plan, options, how, take, by);
}

/// Compacts every head of every global layer to the rows that the budget policy gives it, on the
/// executor's threads; a head is one item.
///
/// Each head is `compact(block, queries of its group, options.head)` with its own budget, bit for
/// bit. Sliding layers and those in `options.skip` are left as they are and listed. A head's rows
/// are those of its own budget; none are padded.
///
/// Errors, before anything is compacted: those of `plan_cache`. On the way: those of
/// `compact_heads`; then nothing is returned. Same input, same bytes, at any number of threads.
/// Cost: that of the heads; holds the results, once more those of one layer, and the workspaces of
/// the heads under way (`heads_at_once`).
///
///     thread_pool pool;
///     auto small = compact_cache(cache, queries, {.budget = rows_of(cache) / 20}, pool);
///     if (!small) return small.error();
///     attend(query, {small->layers[l].block(h), live[l][h]});
template <executor E>
[[nodiscard]] result<compacted_cache> compact_cache(const cache_view& cache,
                                                    const cache_queries& queries,
                                                    const cache_options& options, E&& how,
                                                    const watch& by = {}) {
  return detail::catch_bad_alloc("compact_cache", [&]() -> result<compacted_cache> {
    detail::head_exchange alone;
    cache_plan plan;
    auto heads = detail::plan_and_fit(alone, cache, queries, options, how, by, plan);
    if (!heads) return heads.error();
    return detail::assemble(cache, options.skip, plan.tasks, *heads);
  });
}

/// The same on the calling thread.
[[nodiscard]] inline result<compacted_cache> compact_cache(const cache_view& cache,
                                                           const cache_queries& queries,
                                                           const cache_options& options) {
  return compact_cache(cache, queries, options, serial{});
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
