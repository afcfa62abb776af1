// SPDX-License-Identifier: MIT
#include "measure/evaluation.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <optional>
#include <utility>

#include "measure/fingerprint.hpp"

namespace kvfit_tool {

namespace {

/// Errors are stored by number, for items are run in any order and may not allocate failures away.
template <class T>
using slots = std::vector<std::optional<kvfit::result<T>>>;

kvfit::error with_place(kvfit::error cause, const head_score& at, const std::string& doing) {
  const std::string place = "layer " + std::to_string(at.layer) + " head " +
                            std::to_string(at.head) + (doing.empty() ? "" : ", " + doing);
  cause.argument = cause.argument.empty() ? place : place + ": " + cause.argument;
  return cause;
}

spread spread_over(const std::vector<head_score>& heads, double kvfit::fidelity::*what,
                   bool smaller_is_worse) {
  spread over;
  double logs = 0;
  std::vector<double> all;
  for (std::size_t h = 0; h < heads.size(); ++h) {
    const double x = heads[h].errors.*what;
    const double worst = heads[over.worst_head].errors.*what;
    all.push_back(x);
    over.mean += x;
    logs += std::log(x);  // −∞ for 0: the geometric mean is then 0, as it should
    // NaN is worse than any number: the worst is not known without it.
    if (std::isnan(worst)) continue;
    if (std::isnan(x) || (smaller_is_worse ? x < worst : x > worst)) over.worst_head = h;
  }
  const auto count = static_cast<double>(heads.size());
  over.mean /= count;
  over.geometric = std::exp(logs / count);
  over.worst = heads[over.worst_head].errors.*what;
  if (std::isnan(over.worst)) {
    over.worst_tenth = over.worst;
    return over;
  }
  const std::size_t tenth = std::max<std::size_t>(1, heads.size() / 10);
  std::sort(all.begin(), all.end());
  if (!smaller_is_worse) std::reverse(all.begin(), all.end());
  for (std::size_t k = 0; k < tenth; ++k) over.worst_tenth += all[k] / static_cast<double>(tenth);
  return over;
}

/// One item: a head compacted and judged. `full` is null where there are no test queries.
kvfit::result<head_score> score(const head_view& head, head_score at, const head_plan& plan,
                                const full_attention* full) {
  const auto small = compact(head, plan);
  if (!small) return with_place(small.error(), at, label_of(plan.what));
  at.kept = small->keys.rows();
  at.milliseconds = small->seconds * 1000;
  if (full == nullptr) {
    at.on = small->held_out ? judged_on::held_out : judged_on::train;
    at.errors = small->held_out ? *small->held_out : small->train;
    return at;
  }
  const auto errors = judge(head, *full, *small);
  if (!errors) return with_place(errors.error(), at, label_of(plan.what));
  at.errors = *errors;
  return at;
}

/// The rows of a plan with nothing measured yet.
std::vector<score_row> rows_of(const eval_plan& plan, int threads) {
  std::vector<score_row> rows(plan.rows.size());
  for (std::size_t r = 0; r < rows.size(); ++r) {
    rows[r].what = plan.rows[r].what;
    rows[r].label = label_of(rows[r].what);
    rows[r].ratio = plan.rows[r].ratio;
    rows[r].threads = threads;
  }
  return rows;
}

head_score place_of(const placed_head& head) {
  return {.layer = head.layer, .head = head.head, .rows = head.view.block.keys.rows()};
}

/// Every head's full attention on its test queries.
kvfit::result<slots<full_attention>> attend_all(const std::vector<placed_head>& heads,
                                                kvfit::thread_pool& pool, const kvfit::watch& by) {
  slots<full_attention> full(heads.size());
  const auto all = kvfit::run_watched(pool, static_cast<kvfit::index_t>(heads.size()),
                                      [&](kvfit::index_t h) noexcept {
                                        const auto at = static_cast<std::size_t>(h);
                                        full[at].emplace(attend_full(heads[at].view));
                                      },
                                      {.cancel = by.cancel});
  if (!all) return all.error();
  for (std::size_t h = 0; h < heads.size(); ++h) {
    if (!*full[h]) return with_place(full[h]->error(), place_of(heads[h]), "full attention");
  }
  return full;
}

/// Scores of all heads in all rows. Items are numbered row by row, so that rows are finished one
/// after the other; threads go on to the next meanwhile.
class row_scores {
 public:
  row_scores(const std::vector<placed_head>& heads, const eval_plan& plan,
             std::vector<score_row>& rows, const on_row& finished)
      : heads_(heads),
        plan_(plan),
        rows_(rows),
        finished_(finished),
        scores_(heads.size() * rows.size()),
        unscored_(rows.size(), heads.size()),
        spent_(rows.size(), 0.0),
        limit_(plan.milliseconds_per_head * static_cast<double>(heads.size())) {}

  [[nodiscard]] kvfit::index_t items() const { return static_cast<kvfit::index_t>(scores_.size()); }

  /// Scores one item, unless its row is given up, and finishes the row with its last item. `full`
  /// is empty where there are no test queries.
  void run(std::size_t item, const slots<full_attention>& full) {
    const std::size_t h = item % heads_.size();
    const std::size_t r = item / heads_.size();
    std::unique_lock<std::mutex> guard(mutex_);
    if (spent_[r] <= limit_) {
      guard.unlock();
      const head_plan wanted{.what = rows_[r].what,
                             .budget = budget_at(heads_[h].view.block.keys.rows(), rows_[r].ratio),
                             .seed = plan_.seed};
      scores_[item].emplace(
          score(heads_[h].view, place_of(heads_[h]), wanted, full.empty() ? nullptr : &**full[h]));
      guard.lock();
      if (*scores_[item]) spent_[r] += (**scores_[item]).milliseconds;
    }
    if (--unscored_[r] == 0) finish(r);
  }

  /// The first error in the order of rows and heads.
  [[nodiscard]] kvfit::result<void> check() const {
    for (const auto& one : scores_) {
      if (one && !*one) return one->error();
    }
    return {};
  }

 private:
  /// Fills a row whose heads are all scored. With the mutex held.
  void finish(std::size_t r) {
    if (spent_[r] > limit_) return;
    const std::size_t first = r * heads_.size();
    for (std::size_t h = 0; h < heads_.size(); ++h) {
      if (!*scores_[first + h]) return;  // check() says it
    }
    for (std::size_t h = 0; h < heads_.size(); ++h) rows_[r].heads.push_back(**scores_[first + h]);
    summarise(rows_[r]);
    if (finished_) finished_(rows_[r]);
  }

  const std::vector<placed_head>& heads_;
  const eval_plan& plan_;
  std::vector<score_row>& rows_;
  const on_row& finished_;
  slots<head_score> scores_;
  std::mutex mutex_;  // guards the two below and calls of `finished_`
  std::vector<std::size_t> unscored_;
  std::vector<double> spent_;
  double limit_;
};

}  // namespace

std::string_view name(judged_on what) {
  constexpr std::array<std::string_view, 3> names = {"test", "held_out", "train"};
  return names[static_cast<std::size_t>(what)];
}

kvfit::index_t budget_at(kvfit::index_t rows, double ratio) {
  return static_cast<kvfit::index_t>(std::floor(static_cast<double>(rows) / ratio));
}

kvfit::result<void> check_ratio(const kvfit::capture& capture, double ratio) {
  for (const kvfit::capture_layer& layer : capture.layers) {
    const kvfit::index_t budget = budget_at(layer.rows(), ratio);
    if (budget >= 1) continue;
    return kvfit::error{kvfit::errc::budget_out_of_range, "layer " + std::to_string(layer.number()),
                        budget, 1,
                        "the ratio leaves none of " + std::to_string(layer.rows()) + " rows"};
  }
  return {};
}

capture_facts facts_of(const kvfit::capture& capture, std::string name) {
  capture_facts facts;
  facts.name = std::move(name);
  facts.fingerprint = fingerprint_of(capture);
  facts.scale = capture.scale;
  facts.layers = static_cast<kvfit::index_t>(capture.layers.size());
  for (const kvfit::capture_layer& layer : capture.layers) {
    facts.heads += layer.heads();
    facts.query_heads += layer.query_heads();
    facts.rows = std::max(facts.rows, layer.rows());
    facts.depth = layer.keys(0).cols();
    for (kvfit::index_t head = 0; head < layer.heads(); ++head) {
      for (const kvfit::row_view& block : layer.queries(head)) facts.queries += block.rows();
      for (const kvfit::row_view& block : layer.test_queries(head)) {
        facts.test_queries += block.rows();
      }
    }
  }
  return facts;
}

head_view view_of(const kvfit::capture_layer& layer, kvfit::index_t head) {
  return {.block = layer.block(head),
          .queries = layer.query_blocks(head),
          .test_queries = layer.test_query_blocks(head),
          .rule = layer.rule().logits,
          .rotation = layer.rule().rotation};
}

std::vector<placed_head> heads_of(const kvfit::capture& capture) {
  std::vector<placed_head> heads;
  for (const kvfit::capture_layer& layer : capture.layers) {
    for (kvfit::index_t head = 0; head < layer.heads(); ++head) {
      heads.push_back({layer.number(), head, view_of(layer, head)});
    }
  }
  return heads;
}

bool has_test_queries(const kvfit::capture& capture) {
  return std::all_of(
      capture.layers.begin(), capture.layers.end(),
      [](const kvfit::capture_layer& layer) { return !layer.test_queries(0).empty(); });
}

void summarise(score_row& row) {
  row.label = label_of(row.what);
  row.output_error = spread_over(row.heads, &kvfit::fidelity::output_error, false);
  row.rms_output_error = spread_over(row.heads, &kvfit::fidelity::rms_output_error, false);
  row.mass_error = spread_over(row.heads, &kvfit::fidelity::mass_error, false);
  row.cosine = spread_over(row.heads, &kvfit::fidelity::cosine, true);
  row.milliseconds = 0;
  for (const head_score& head : row.heads) {
    row.milliseconds += head.milliseconds;
    row.on = std::max(row.on, head.on);
  }
  row.milliseconds /= static_cast<double>(row.heads.size());
}

kvfit::result<std::vector<score_row>> evaluate(const std::vector<placed_head>& heads,
                                               const eval_plan& plan, kvfit::thread_pool& pool,
                                               const kvfit::watch& by, const on_row& finished) {
  std::vector<score_row> rows = rows_of(plan, pool.threads());
  if (rows.empty()) return rows;
  slots<full_attention> full;
  if (std::all_of(heads.begin(), heads.end(),
                  [](const placed_head& each) { return !each.view.test_queries.empty(); })) {
    auto attended = attend_all(heads, pool, by);
    if (!attended) return attended.error();
    full = std::move(*attended);
  }
  row_scores scores(heads, plan, rows, finished);
  const auto all = kvfit::run_watched(
      pool, scores.items(),
      [&](kvfit::index_t i) noexcept { scores.run(static_cast<std::size_t>(i), full); }, by);
  const auto checked = scores.check();
  if (!checked) return checked.error();
  if (!all) return all.error();
  return rows;
}

}  // namespace kvfit_tool
