// SPDX-License-Identifier: MIT
#include "measure/engine_budgets.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <mutex>
#include <optional>
#include <utility>

#include "cli/without_bad_alloc.hpp"
#include "kvfit/queries/hold_out_texts.hpp"
#include "kvfit/queries/model_influence.hpp"
#include "kvfit/queries/prefill.hpp"
#include "measure/engine_queries.hpp"
#include "measure/heads.hpp"

namespace kvfit_tool {

namespace {

using kvfit::errc;
using kvfit::error;
using kvfit::index_t;

/// Shares of its rows that a head is compacted to: a head's loss is steep where few rows are left.
const std::vector<double> measured_shares = {1.0 / 128, 1.0 / 32, 1.0 / 8, 1.0 / 2, 1};

/// How heads are compacted for it: by the default method at a fraction of its price. Curves say
/// which head needs rows, for which a rough fit will do.
candidate measuring() {
  return {.method = "default", .settings = {{"queries_per_row", "4"}, {"refine_steps", "0"}}};
}

struct measured_document {
  std::vector<kvfit::influence_curve> curves;
  double seconds = 0;
  made_queries queries;
};

double seconds_from(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

kvfit::result<measured_document> measure_one(const llama::model& engine, const document& of,
                                             const asked_text& text, const query_source& source,
                                             const std::function<bool()>& step) {
  const auto read = kvfit::make_reader(engine);
  if (!read) return read.error();
  const auto prefix = kvfit::prefill(*read, of.prefix);
  if (!prefix) return prefix.error();
  auto start = std::chrono::steady_clock::now();
  auto queries = gather(*read, of.prefix, kvfit::prefix_of(prefix->cache), text, source);
  if (!queries) return queries.error();
  const double asking = seconds_from(start);
  start = std::chrono::steady_clock::now();
  const auto parts = kvfit::hold_out_texts(*queries);
  if (!parts) return parts.error();
  const auto length = static_cast<index_t>(of.prefix.size());
  std::vector<index_t> grid;
  for (const double share : measured_shares) {
    const auto rows = static_cast<index_t>(std::floor(static_cast<double>(length) * share));
    if (rows > (grid.empty() ? 0 : grid.back()) && rows < length) grid.push_back(rows);
  }
  if (grid.size() + 1 != measured_shares.size()) {
    return error{errc::invalid_option, "prefix", length, 128, "too short to measure budgets on"};
  }
  const kvfit::cache_view full = prefix->cache.view();
  auto curves = kvfit::measure_model_influence(
      *read, full, length, parts->judge, grid,
      [&](const kvfit::head_id& head, index_t rows) -> kvfit::result<kvfit::compacted> {
        if (!step()) return error{errc::cancelled, "budgets", 0, error::none, {}};
        const auto layer = static_cast<std::size_t>(head.layer);
        return compact_one(full.layers[layer], head.head, parts->fit.view(layer),
                           {.what = measuring(), .budget = rows});
      });
  if (!curves) return curves.error();
  return measured_document{std::move(*curves), seconds_from(start), {std::move(*queries), asking}};
}

}  // namespace

kvfit::influence_curve share_curves::of(std::size_t which, index_t rows) const {
  kvfit::influence_curve made;
  for (std::size_t i = 0; i < shares.size(); ++i) {
    const auto at = static_cast<index_t>(std::floor(static_cast<double>(rows) * shares[i]));
    if (!made.points.empty() && at <= made.points.back().rows) continue;
    made.points.push_back({at, losses[which][i]});
  }
  return made;
}

asked_text asked_of(const document& of, const std::vector<document>& all,
                    const llama::tokenizer& tokenizer, llama::token stop) {
  constexpr std::size_t most = 4;
  asked_text made{.tokenizer = &tokenizer, .tokens = of.prefix, .stops = {stop}};
  for (const document& other : all) {
    if (other.is_recall || other.source == of.source || made.others.size() == most) continue;
    made.others.emplace_back(other.prefix.begin() + 1, other.prefix.end());  // BOS begins texts
  }
  return made;
}

kvfit::index_t measuring_steps(const llama::model& engine, std::size_t documents) {
  index_t heads = 0;
  for (index_t l = 0; l < engine.layers(); ++l) heads += engine.shape(l).kv_heads;
  return heads * static_cast<index_t>((measured_shares.size() - 1) * documents);
}

kvfit::result<share_curves> measure_curves(const llama::model& engine,
                                           const std::vector<const document*>& on,
                                           const std::vector<asked_text>& texts,
                                           const query_source& source, kvfit::thread_pool& pool,
                                           const std::function<bool()>& step) {
  std::vector<std::optional<kvfit::result<measured_document>>> measured(on.size());
  std::mutex mutex;
  const std::function<bool()> one_at_a_time = [&] {
    const std::lock_guard<std::mutex> guard(mutex);
    return step();
  };
  pool.run(static_cast<index_t>(on.size()), [&](index_t i) noexcept {
    const auto at = static_cast<std::size_t>(i);
    measured[at].emplace(without_bad_alloc(
        "budgets", [&] { return measure_one(engine, *on[at], texts[at], source, one_at_a_time); }));
  });
  share_curves mean{.shares = measured_shares, .losses = {}, .queries = {}};
  for (std::size_t d = 0; d < on.size(); ++d) {
    if (!*measured[d]) {
      error cause = measured[d]->error();
      if (cause.code != errc::cancelled) cause.argument = on[d]->name + ": " + cause.argument;
      return cause;
    }
    measured_document& one = **measured[d];
    mean.losses.resize(one.curves.size(), std::vector<double>(measured_shares.size(), 0));
    for (std::size_t h = 0; h < one.curves.size(); ++h) {
      for (std::size_t i = 0; i < measured_shares.size(); ++i) {
        mean.losses[h][i] += one.curves[h].points[i].loss / static_cast<double>(on.size());
      }
    }
    mean.seconds += one.seconds;
    mean.queries.push_back(std::move(one.queries));
  }
  return mean;
}

}  // namespace kvfit_tool
