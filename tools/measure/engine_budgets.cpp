// SPDX-License-Identifier: MIT
#include "measure/engine_budgets.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <mutex>
#include <optional>
#include <span>
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
const std::vector<double> measured_shares = {1.0 / 512, 1.0 / 128, 1.0 / 32, 1.0 / 8, 1.0 / 2, 1};

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

/// A reading that asks for what the prefix has, and the first token of its answer.
struct answered_question {
  std::size_t reading = 0;
  index_t answer = 0;
};

/// Questions of the queries whose answers, as the model gave them, stand word for word in the
/// prefix: those of words that are no names have none there.
std::vector<answered_question> facts_of(const kvfit::reference_queries& queries,
                                        const asked_text& text) {
  const std::vector<llama::token> mark = text.tokenizer->encode(end_of_question);
  std::vector<answered_question> facts;
  for (std::size_t r = 0; r < queries.readings.size(); ++r) {
    const kvfit::query_reading& reading = queries.readings[r];
    const auto& tokens = reading.tokens;
    const auto asked = std::search(tokens.begin(), tokens.end(), mark.begin(), mark.end());
    if (!reading.is_after_cache || asked == tokens.end()) continue;
    const auto answer = asked + std::ssize(mark);
    if (answer == tokens.end()) continue;
    const auto there = std::search(text.tokens.begin(), text.tokens.end(), answer, tokens.end());
    if (there != text.tokens.end()) facts.push_back({r, answer - tokens.begin()});
  }
  return facts;
}

/// Queries to fit on, and what judges.
struct judging {
  kvfit::reference_queries fit;
  std::vector<kvfit::judged_text> texts;
};

kvfit::result<judging> part_queries(const kvfit::reference_queries& queries, const asked_text& text,
                                    budget_judges judged) {
  constexpr std::size_t most = 6;
  kvfit::text_hold_out how;
  std::vector<index_t> answers;
  if (judged == budget_judges::text_and_facts) {
    const std::vector<answered_question> facts = facts_of(queries, text);
    for (std::size_t i = 0; i < facts.size() && answers.size() < most; i += 2) {
      how.named.push_back(facts[i].reading);
      answers.push_back(facts[i].answer);
    }
  }
  auto parts = kvfit::hold_out_texts(queries, how);
  if (!parts) return parts.error();
  judging made{std::move(parts->fit), {}};
  const std::size_t running = parts->judge.size() - answers.size();
  double tokens = 0;
  double said = 0;  // tokens of answers, each predicted from the one before it
  for (std::size_t i = 0; i < parts->judge.size(); ++i) {
    std::vector<llama::token>& read = parts->judge[i];
    if (i < running) {
      tokens += static_cast<double>(read.size());
      made.texts.push_back({.tokens = std::move(read)});
      continue;
    }
    read.pop_back();  // nothing is to be said after the answer
    const index_t first = answers[i - running] - 1;
    said += static_cast<double>(read.size()) - static_cast<double>(first);
    made.texts.push_back({.tokens = std::move(read), .first = first});
  }
  for (std::size_t i = running; i < made.texts.size() && running > 0; ++i) {
    made.texts[i].weight = tokens / said;
  }
  return made;
}

kvfit::result<measured_document> measure_one(const llama::model& engine, const document& of,
                                             const asked_text& text, const query_source& source,
                                             budget_judges judged,
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
  const auto parts = part_queries(*queries, text, judged);
  if (!parts) return parts.error();
  const auto length = static_cast<index_t>(of.prefix.size());
  std::vector<index_t> grid;  // of few rows one more each, so that none stands twice
  const auto least = static_cast<index_t>(2 * (measured_shares.size() - 1));
  if (length < least) {
    return error{errc::invalid_option, "prefix", length, least, "too short to measure budgets on"};
  }
  for (std::size_t i = 0; i + 1 < measured_shares.size(); ++i) {
    const double rows = static_cast<double>(length) * measured_shares[i];
    grid.push_back((std::max)(static_cast<index_t>(std::floor(rows)), static_cast<index_t>(i + 1)));
  }
  const kvfit::cache_view full = prefix->cache.view();
  auto curves = kvfit::measure_model_influence(
      *read, full, length, std::span<const kvfit::judged_text>(parts->texts), grid,
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
                                           const query_source& source, budget_judges judged,
                                           kvfit::thread_pool& pool,
                                           const std::function<bool()>& step) {
  std::vector<std::optional<kvfit::result<measured_document>>> measured(on.size());
  std::mutex mutex;
  const std::function<bool()> one_at_a_time = [&] {
    const std::lock_guard<std::mutex> guard(mutex);
    return step();
  };
  pool.run(static_cast<index_t>(on.size()), [&](index_t i) noexcept {
    const auto at = static_cast<std::size_t>(i);
    measured[at].emplace(without_bad_alloc("budgets", [&] {
      return measure_one(engine, *on[at], texts[at], source, judged, one_at_a_time);
    }));
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
