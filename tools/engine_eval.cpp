// SPDX-License-Identifier: MIT
#include "engine_eval.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <span>
#include <utility>

#include "heads.hpp"
#include "kvfit/cache/allocate.hpp"

namespace kvfit_tool {

namespace {

using kvfit::errc;
using kvfit::error;
using kvfit::index;
using kvfit::matrix;

/// `step()`, a failed allocation turned into its error: items run where nobody catches.
template <class Step>
auto without_bad_alloc(Step&& step) -> decltype(step()) {
  try {
    return step();
  } catch (const std::bad_alloc&) {
    return error{errc::out_of_memory, "engine"};
  }
}

error in(const document& of, error cause) {
  cause.argument = cause.argument.empty() ? of.name : of.name + ": " + cause.argument;
  return cause;
}

/// A document whose prefix has been read; what is said over the full cache is what all is held
/// against.
struct prepared {
  const document* of;
  read_prefix prefix;
  llama::captured_queries queries;
  std::vector<matrix> logits;  ///< a passage each, of its scored rows
  spoken said;
};

/// ln p of a row of logits.
Eigen::RowVectorXd log_softmax(const matrix& logits, index row) {
  const Eigen::RowVectorXd wide = logits.row(row).cast<double>();
  const double most = wide.maxCoeff();
  return wide.array() - (most + std::log((wide.array() - most).exp().sum()));
}

/// Logits of the scored rows of a passage read behind `past`.
kvfit::result<matrix> read_passage(const llama::model& engine, const passage& of,
                                   const kvfit::cache_view& past, index position) {
  llama::live_cache live(engine, position);
  const auto hidden = llama::forward(engine, of.tokens, past, live);
  if (!hidden) return hidden.error();
  return engine.logits(hidden->middleRows(of.first_row, static_cast<index>(of.targets.size())));
}

/// What was said against what should be, and against what the full cache says.
spoken compare(const passage& of, const matrix& full, const matrix& compact) {
  spoken said{.passages = 1};
  bool is_right = true;
  for (index i = 0; i < full.rows(); ++i) {
    const Eigen::RowVectorXd p = log_softmax(full, i);
    const Eigen::RowVectorXd q = log_softmax(compact, i);
    const llama::token target = of.targets[static_cast<std::size_t>(i)];
    index expected = 0;
    index chosen = 0;
    p.maxCoeff(&expected);
    q.maxCoeff(&chosen);
    ++said.tokens;
    said.kl += (p.array().exp() * (p - q).array()).sum();
    said.loss -= q[target];
    said.agreed += chosen == expected ? 1 : 0;
    is_right = is_right && chosen == target;
  }
  said.right = is_right ? 1 : 0;
  return said;
}

kvfit::result<prepared> prepare(const llama::model& engine, const document& of,
                                const query_source& source) {
  prepared made{&of, {of.prefix, llama::live_cache(engine), {}}, {}, {}, {}};
  const auto read = llama::forward(engine, of.prefix, {}, made.prefix.cache, &made.prefix.queries);
  if (!read) return read.error();
  auto queries = source.make(engine, made.prefix);
  if (!queries) return queries.error();
  made.queries = std::move(*queries);
  made.prefix.queries.clear();
  const kvfit::cache_view full = made.prefix.cache.view();
  for (const passage& each : of.passages) {
    auto logits = read_passage(engine, each, full, made.prefix.cache.next_position());
    if (!logits) return logits.error();
    made.said.add(compare(each, *logits, *logits));
    made.logits.push_back(std::move(*logits));
  }
  return made;
}

/// One document under one candidate at one ratio.
struct item_score {
  spoken said;
  double seconds = 0;
};

/// Rows for every head, layer by layer.
kvfit::result<std::vector<index>> rows_for(const kvfit::cache_view& cache, double ratio,
                                           const engine_plan& plan) {
  std::vector<kvfit::head_rows> heads;
  std::vector<index> uniform;
  index total = 0;
  for (const kvfit::cache_layer& layer : cache.layers) {
    for (const kvfit::kv_block& block : layer.heads) {
      const auto number = static_cast<index>(&block - layer.heads.data());
      heads.push_back({{layer.number, number}, block.keys.rows()});
      uniform.push_back(budget_at(block.keys.rows(), ratio));
      total += uniform.back();
    }
  }
  if (!plan.shares) return uniform;
  return kvfit::allocate(heads, total, kvfit::budgets::given{*plan.shares}, {.at_least = 1});
}

kvfit::result<item_score> score(const llama::model& engine, const prepared& at, const row_plan& row,
                                const engine_plan& plan) {
  item_score made;
  kvfit::cache_view past = at.prefix.cache.view();
  const auto budgets = rows_for(past, row.ratio, plan);
  if (!budgets) return budgets.error();
  std::vector<small_head> fitted;
  fitted.reserve(past.layers.size() * past.layers[0].heads.size());  // views point into it
  for (kvfit::cache_layer& layer : past.layers) {
    const auto& queries = at.queries[static_cast<std::size_t>(layer.number)];
    const std::size_t group = queries.size() / layer.heads.size();
    for (std::size_t h = 0; h < layer.heads.size(); ++h) {
      kvfit::kv_block& block = layer.heads[h];
      const std::vector<kvfit::row_view> asked(
          queries.begin() + static_cast<std::ptrdiff_t>(h * group),
          queries.begin() + static_cast<std::ptrdiff_t>((h + 1) * group));
      auto small =
          compact({.keys = block.keys,
                   .values = block.values,
                   .queries = asked,
                   .test_queries = {},
                   .scale = *layer.rule->scale,
                   .rotation = layer.rotation},
                  {.what = row.what, .budget = (*budgets)[fitted.size()], .seed = plan.seed});
      if (!small) return small.error();
      made.seconds += small->seconds;
      fitted.push_back(std::move(*small));
      const small_head& kept = fitted.back();
      block = {.keys = kept.keys,
               .values = kept.values,
               .bias = {kept.bias.data(), static_cast<std::size_t>(kept.bias.size())},
               .positions = kept.positions};
    }
  }
  for (std::size_t p = 0; p < at.of->passages.size(); ++p) {
    const passage& each = at.of->passages[p];
    const auto logits = read_passage(engine, each, past, at.prefix.cache.next_position());
    if (!logits) return logits.error();
    made.said.add(compare(each, at.logits[p], *logits));
  }
  return made;
}

void add_to(engine_row& row, const document& of, const spoken& said, double seconds) {
  (of.is_recall ? row.answers : row.text).add(said);
  row.seconds += seconds;
  ++row.documents;
}

double share(double sum, index count) {
  return count == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(count);
}

/// Every ratio leaves every document a row.
kvfit::result<void> check_ratios(const std::vector<document>& documents, const engine_plan& plan) {
  for (const document& each : documents) {
    const auto rows = static_cast<index>(each.prefix.size());
    for (const row_plan& row : plan.rows) {
      if (budget_at(rows, row.ratio) >= 1) continue;
      return error{errc::budget_out_of_range, each.name, 0, rows, "the ratio leaves no row"};
    }
  }
  return {};
}

}  // namespace

void spoken::add(const spoken& more) {
  tokens += more.tokens;
  kl += more.kl;
  loss += more.loss;
  agreed += more.agreed;
  right += more.right;
  passages += more.passages;
}

double engine_row::kl() const {
  return share(text.kl, text.tokens);
}
double engine_row::top1() const {
  return share(static_cast<double>(text.agreed), text.tokens);
}
double engine_row::recall() const {
  return share(static_cast<double>(answers.right), answers.passages);
}
double engine_row::answer_kl() const {
  return share(answers.kl, answers.tokens);
}
double engine_row::seconds_each() const {
  return share(seconds, documents);
}
double engine_row::perplexity_change(const engine_row& full) const {
  return std::expm1(share(text.loss - full.text.loss, text.tokens));
}

kvfit::result<engine_evaluation> evaluate(const llama::model& engine,
                                          const std::vector<document>& documents,
                                          const engine_plan& plan, kvfit::thread_pool& pool,
                                          const kvfit::watch& by) {
  if (const auto ok = check_ratios(documents, plan); !ok) return ok.error();
  engine_evaluation made;
  made.queries = plan.queries->name;
  made.layers = engine.layers();
  made.seed = plan.seed;
  made.threads = pool.threads();
  for (index l = 0; l < engine.layers(); ++l) made.heads += engine.shape(l).kv_heads;
  made.full = {.what = {.method = "full"}, .label = "full"};
  for (const row_plan& row : plan.rows) {
    made.rows.push_back({.what = row.what, .label = label_of(row.what), .ratio = row.ratio});
  }

  const auto all = static_cast<index>(documents.size() * (1 + plan.rows.size()));
  index before = 0;  // items of earlier rounds
  const auto watched = [&] {
    kvfit::watch here{.cancel = by.cancel};
    if (by.progress) here.progress = [&](index done, index) { by.progress(before + done, all); };
    return here;
  };
  const auto at_once = static_cast<std::size_t>(pool.threads());
  for (std::size_t first = 0; first < documents.size(); first += at_once) {
    const std::size_t count = std::min(at_once, documents.size() - first);
    std::vector<std::optional<kvfit::result<prepared>>> ready(count);
    const auto read = kvfit::run_watched(
        pool, static_cast<index>(count),
        [&](index i) noexcept {
          const auto at = static_cast<std::size_t>(i);
          ready[at].emplace(without_bad_alloc(
              [&] { return prepare(engine, documents[first + at], *plan.queries); }));
        },
        watched());
    for (std::size_t d = 0; d < count; ++d) {
      if (ready[d] && !*ready[d]) return in(documents[first + d], ready[d]->error());
    }
    if (!read) return read.error();
    before += static_cast<index>(count);

    const std::size_t rows = plan.rows.size();
    std::vector<std::optional<kvfit::result<item_score>>> scores(count * rows);
    const auto items = static_cast<index>(scores.size());
    const auto done = kvfit::run_watched(
        pool, items,
        [&](index i) noexcept {
          // From the end, where the slowest methods stand.
          const auto at = static_cast<std::size_t>(items - 1 - i);
          scores[at].emplace(without_bad_alloc(
              [&] { return score(engine, **ready[at % count], plan.rows[at / count], plan); }));
        },
        watched());
    for (std::size_t i = 0; i < scores.size(); ++i) {
      if (scores[i] && !*scores[i]) return in(documents[first + i % count], scores[i]->error());
    }
    if (!done) return done.error();
    before += items;
    for (std::size_t d = 0; d < count; ++d) {
      const document& of = documents[first + d];
      add_to(made.full, of, (**ready[d]).said, 0);
      ++(of.is_recall ? made.recall_documents : made.texts);
      made.prefix = std::max(made.prefix, static_cast<index>(of.prefix.size()));
      for (std::size_t r = 0; r < rows; ++r) {
        const item_score& one = **scores[r * count + d];
        add_to(made.rows[r], of, one.said, one.seconds);
      }
    }
  }
  return made;
}

}  // namespace kvfit_tool
