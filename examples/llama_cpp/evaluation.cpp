// SPDX-License-Identifier: MIT
#include "llama_cpp/evaluation.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

namespace llama_cpp {

namespace {

using kvfit::errc;
using kvfit::error;

index_t rows_at(index_t rows, double ratio) {
  return static_cast<index_t>(static_cast<double>(rows) / ratio);
}

/// Cells that a compact cache takes: all layers share them.
double longest_head(const kvfit::compacted_cache& cache) {
  index_t longest = 0;
  for (const kvfit::compacted_layer& layer : cache.layers) {
    for (std::size_t h = 0; h < layer.heads.size(); ++h) {
      longest = std::max(longest, layer.rows(h));
    }
  }
  return static_cast<double>(longest);
}

std::vector<std::vector<token>> others_of(const document& of, const std::vector<document>& all) {
  constexpr std::size_t most = 2;
  std::vector<std::vector<token>> texts;
  for (const document& other : all) {
    if (other.is_recall || other.name == of.name || texts.size() == most) continue;
    if (other.prefix.size() > 1) texts.emplace_back(other.prefix.begin() + 1, other.prefix.end());
  }
  return texts;
}

}  // namespace

std::vector<kvfit::influence_curve> share_curves::of(index_t rows) const {
  std::vector<kvfit::influence_curve> made;
  for (const std::vector<double>& head : losses) {
    kvfit::influence_curve& curve = made.emplace_back();
    for (std::size_t i = 0; i < shares.size(); ++i) {
      const auto at = static_cast<index_t>(static_cast<double>(rows) * shares[i]);
      if (!curve.points.empty() && at <= curve.points.back().rows) continue;
      curve.points.push_back({at, head[i]});
    }
    curve.points.push_back({rows, 0});
  }
  return made;
}

double row::kl() const {
  return text.mean_kl();
}
double row::top1() const {
  return text.top1();
}
double row::recall() const {
  return answers.recall();
}
double row::answer_kl() const {
  return answers.mean_kl();
}
double row::seconds_each() const {
  return llama::mean_of(seconds, documents);
}
double row::perplexity_change(const row& full) const {
  return std::expm1(llama::mean_of(text.loss - full.text.loss, text.tokens));
}

result<prepared_document> prepare(session& model, const document& of, const evaluation_plan& plan,
                                  const std::vector<document>& all) {
  const auto length = static_cast<index_t>(of.prefix.size());
  prepared_document made;
  made.of = &of;
  made.query_step =
      std::max<index_t>(1, (length + plan.queries - 1) / std::max<index_t>(1, plan.queries));
  model.tap().clear_biases();
  if (const auto ok = model.forget_from(0); !ok) return ok.error();
  if (plan.asked == query_text::mixture) made.query_step = 1;
  if (plan.asked != query_text::repeat) model.tap().start_capture(made.query_step);
  if (const auto read = model.read(of.prefix, 0, length); !read) return read.error();
  if (plan.asked != query_text::repeat) made.queries = model.tap().take_queries();
  auto full = model.save();
  if (!full) return full.error();
  made.full = std::move(*full);
  if (const auto ok = model.load(made.full); !ok) return ok.error();
  for (const passage& each : of.passages) {
    auto logits = model.read(each.tokens, length, each.first_row);
    if (!logits) return logits.error();
    made.logits.push_back(std::move(*logits));
    if (const auto ok = model.rewind(); !ok) return ok.error();
  }
  if (plan.asked == query_text::mixture) {
    auto mixed =
        ask_mixture(model, of.prefix, std::move(made.queries), others_of(of, all), plan.mixed);
    if (!mixed) return mixed.error();
    made.queries = std::move(mixed->captures);
    made.positions = std::move(mixed->positions);
  }
  if (plan.asked == query_text::repeat) {
    made.query_position = length;
    model.tap().start_capture(made.query_step);
    const auto read = model.read(of.prefix, length, length);
    made.queries = model.tap().take_queries();
    if (!read) return read.error();
    if (const auto ok = model.rewind(); !ok) return ok.error();
  }
  return made;
}

result<kvfit::compacted_cache> compact(session& model, const prepared_document& document,
                                       const kvfit::presets::preset& method, double ratio,
                                       const evaluation_plan& plan, kvfit::thread_pool& pool) {
  const auto cache = rows_of(document.full, document.full.global, model.tap().layers());
  if (!cache) return cache.error();
  index_t heads = 0;
  for (const kvfit::cache_layer& layer : cache->view.layers) {
    heads += static_cast<index_t>(layer.heads.size());
  }
  const index_t rows = rows_at(document.full.cells(), ratio);
  kvfit::cache_options asked{.budget = heads * rows, .shares = plan.shares};
  if (plan.measured) {
    asked.shares = kvfit::budgets::influence{plan.measured->of(document.full.cells())};
  }
  asked.head = method.make(rows);
  if (!plan.with_bias) asked.head = kvfit::presets::without_bias(asked.head);
  asked.head.storage.rows = storage_of(model.options());
  if (plan.copies_failed) asked.fallback = kvfit::head_fallback::copies;
  const auto queries =
      queries_of(document.queries, model.tap().layers(), cache->view,
                 {document.query_position, document.query_step, document.positions});
  return kvfit::compact_cache(cache->view, queries, asked, pool);
}

result<llama::said_figures> read_passages(session& model, const prepared_document& document) {
  const auto length = static_cast<index_t>(document.of->prefix.size());
  llama::said_figures said;
  for (std::size_t p = 0; p < document.of->passages.size(); ++p) {
    const passage& each = document.of->passages[p];
    const auto logits = model.read(each.tokens, length, each.first_row);
    if (!logits) return logits.error();
    if (const auto ok = model.rewind(); !ok) return ok.error();
    said.add(llama::compare(each.targets, document.logits[p], *logits));
  }
  return said;
}

result<std::vector<row>> evaluate(session& model, const std::vector<document>& documents,
                                  const evaluation_plan& plan, kvfit::thread_pool& pool,
                                  const std::function<void(const std::string&)>& said) {
  for (const double ratio : plan.ratios) {
    for (const document& each : documents) {
      if (ratio >= 1 && rows_at(static_cast<index_t>(each.prefix.size()), ratio) >= 1) continue;
      return error{errc::budget_out_of_range, each.name, 0,
                   static_cast<index_t>(each.prefix.size()), "the ratio leaves no row"};
    }
  }
  std::vector<row> rows = {{.method = "full"}, {.method = "put_back"}};
  for (const auto& method : plan.methods) {
    for (const double ratio : plan.ratios) {
      rows.push_back({.method = std::string(method.name), .ratio = ratio});
    }
  }
  for (const document& each : documents) {
    const auto in_document = [&](error cause) {
      cause.argument = each.name + ": " + cause.argument;
      return cause;
    };
    const auto add = [&](row& to, const llama::said_figures& more, double seconds) {
      (each.is_recall ? to.answers : to.text).add(more);
      to.seconds += seconds;
      ++to.documents;
      said(each.name + ": " + to.method);
    };
    const auto ready = prepare(model, each, plan, documents);
    if (!ready) return in_document(ready.error());
    llama::said_figures full;
    for (std::size_t p = 0; p < each.passages.size(); ++p) {
      full.add(llama::compare(each.passages[p].targets, ready->logits[p], ready->logits[p]));
    }
    add(rows[0], full, 0);
    if (const auto ok = model.load(ready->full); !ok) return in_document(ok.error());
    const auto same = read_passages(model, *ready);
    if (!same) return in_document(same.error());
    add(rows[1], *same, 0);
    rows[0].cells += 1;
    rows[1].cells += 1;
    std::size_t place = 2;
    for (const auto& method : plan.methods) {
      for (const double ratio : plan.ratios) {
        const auto start = std::chrono::steady_clock::now();
        const auto small = compact(model, *ready, method, ratio, plan, pool);
        if (!small) return in_document(small.error());
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
        const auto ok = model.put_back(ready->full, *small, plan.with_bias);
        if (!ok) return in_document(ok.error());
        const auto read = read_passages(model, *ready);
        if (!read) return in_document(read.error());
        rows[place].copied += small->fallbacks;
        rows[place].cells += longest_head(*small) / static_cast<double>(ready->full.cells());
        add(rows[place++], *read, took.count());
      }
    }
    model.tap().clear_biases();
  }
  for (row& each : rows) each.cells /= static_cast<double>(std::max<index_t>(1, each.documents));
  return rows;
}

}  // namespace llama_cpp
