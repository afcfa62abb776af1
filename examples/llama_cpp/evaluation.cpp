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

kvfit::cache_queries queries_of(const prepared_document& document) {
  kvfit::cache_queries all;
  for (std::size_t l = 0; l < document.queries.size(); ++l) {
    kvfit::layer_queries& layer = all.emplace_back();
    layer.layer = static_cast<index_t>(l);
    for (const matrix& head : document.queries[l]) {
      kvfit::query_block block(head, document.query_position);
      block.position_step = document.query_step;
      layer.heads.push_back(block);
    }
  }
  return all;
}

index_t rows_at(index_t rows, double ratio) {
  return static_cast<index_t>(static_cast<double>(rows) / ratio);
}

}  // namespace

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

result<prepared_document> prepare(session& model, const document& of, const evaluation_plan& plan) {
  const auto length = static_cast<index_t>(of.prefix.size());
  prepared_document made;
  made.of = &of;
  made.query_step =
      std::max<index_t>(1, (length + plan.queries - 1) / std::max<index_t>(1, plan.queries));
  model.forget_from(0);
  if (plan.asked == query_text::context) model.tap().start_capture(made.query_step);
  if (const auto read = model.read(of.prefix, 0, length); !read) return read.error();
  if (plan.asked == query_text::context) made.queries = model.tap().take_queries();
  auto full = model.save();
  if (!full) return full.error();
  made.full = std::move(*full);
  for (const passage& each : of.passages) {
    auto logits = model.read(each.tokens, length, each.first_row);
    if (!logits) return logits.error();
    made.logits.push_back(std::move(*logits));
    model.forget_from(length);
  }
  if (plan.asked == query_text::repeat) {
    made.query_position = length;
    model.tap().start_capture(made.query_step);
    const auto read = model.read(of.prefix, length, length);
    made.queries = model.tap().take_queries();
    if (!read) return read.error();
    model.forget_from(length);
  }
  return made;
}

result<kvfit::compacted_cache> compact(session& model, const prepared_document& document,
                                       const kvfit::presets::preset& method, double ratio,
                                       const evaluation_plan& plan, kvfit::thread_pool& pool) {
  const auto cache = view_of(document.full, model.tap().layers());
  if (!cache) return cache.error();
  index_t heads = 0;
  for (const kvfit::cache_layer& layer : cache->layers) {
    heads += static_cast<index_t>(layer.heads.size());
  }
  const index_t rows = rows_at(document.full.cells(), ratio);
  kvfit::cache_options asked{.budget = heads * rows, .shares = plan.shares};
  asked.head = method.make(rows);
  if (!plan.with_bias) asked.head = kvfit::presets::without_bias(asked.head);
  asked.head.storage.rows = model.options().cache;
  if (plan.copies_failed) asked.fallback = kvfit::head_fallback::copies;
  return kvfit::compact_cache(*cache, queries_of(document), asked, pool);
}

result<llama::said_figures> read_passages(session& model, const prepared_document& document) {
  const auto length = static_cast<index_t>(document.of->prefix.size());
  llama::said_figures said;
  for (std::size_t p = 0; p < document.of->passages.size(); ++p) {
    const passage& each = document.of->passages[p];
    const auto logits = model.read(each.tokens, length, each.first_row);
    model.forget_from(length);
    if (!logits) return logits.error();
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
    const auto ready = prepare(model, each, plan);
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
        add(rows[place++], *read, took.count());
      }
    }
    model.tap().set_biases({});
  }
  return rows;
}

}  // namespace llama_cpp
