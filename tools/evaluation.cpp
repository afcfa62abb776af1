// SPDX-License-Identifier: MIT
#include "evaluation.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>

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
  for (std::size_t h = 0; h < heads.size(); ++h) {
    const double x = heads[h].errors.*what;
    const double worst = heads[over.worst_head].errors.*what;
    over.mean += x;
    logs += std::log(x);  // −∞ for 0: the geometric mean is then 0, as it should
    if (smaller_is_worse ? x < worst : x > worst) over.worst_head = h;
  }
  const auto count = static_cast<double>(heads.size());
  over.mean /= count;
  over.geometric = std::exp(logs / count);
  over.worst = heads[over.worst_head].errors.*what;
  return over;
}

void summarise(score_row& row) {
  row.output_error = spread_over(row.heads, &kvfit::fidelity::output_error, false);
  row.mass_error = spread_over(row.heads, &kvfit::fidelity::mass_error, false);
  row.cosine = spread_over(row.heads, &kvfit::fidelity::cosine, true);
  for (const head_score& head : row.heads) {
    row.milliseconds += head.milliseconds;
    row.on = std::max(row.on, head.on);
  }
  row.milliseconds /= static_cast<double>(row.heads.size());
}

/// One item: a head compacted and judged. `full` is null where there are no test queries.
kvfit::result<head_score> score(const head_view& head, head_score at, const head_plan& plan,
                                const full_attention* full) {
  const auto small = compact(head, plan);
  if (!small) return with_place(small.error(), at, std::string(plan.method));
  at.kept = small->keys.rows();
  at.milliseconds = small->seconds * 1000;
  if (full == nullptr) {
    at.on = small->held_out ? judged_on::held_out : judged_on::train;
    at.errors = small->held_out ? *small->held_out : small->train;
    return at;
  }
  const auto errors = judge(head, *full, *small);
  if (!errors) return with_place(errors.error(), at, std::string(plan.method));
  at.errors = *errors;
  return at;
}

}  // namespace

std::string_view name(judged_on what) {
  constexpr std::array<std::string_view, 3> names = {"test", "held_out", "train"};
  return names[static_cast<std::size_t>(what)];
}

kvfit::index budget_at(kvfit::index rows, double ratio) {
  return static_cast<kvfit::index>(std::floor(static_cast<double>(rows) / ratio));
}

kvfit::result<void> check_ratio(const kvfit::capture& capture, double ratio) {
  for (const kvfit::capture_layer& layer : capture.layers) {
    const kvfit::index budget = budget_at(layer.rows(), ratio);
    if (budget >= 1) continue;
    return kvfit::error{kvfit::errc::budget_out_of_range, "layer " + std::to_string(layer.number()),
                        budget, layer.rows(), "the ratio leaves no row"};
  }
  return {};
}

capture_facts facts_of(const kvfit::capture& capture, std::string name) {
  capture_facts facts;
  facts.name = std::move(name);
  facts.scale = capture.scale;
  facts.layers = static_cast<kvfit::index>(capture.layers.size());
  for (const kvfit::capture_layer& layer : capture.layers) {
    facts.heads += layer.heads();
    facts.query_heads += layer.query_heads();
    facts.rows = std::max(facts.rows, layer.rows());
    facts.depth = layer.keys(0).cols();
    for (kvfit::index head = 0; head < layer.heads(); ++head) {
      for (const kvfit::row_view& block : layer.queries(head)) facts.queries += block.rows();
      for (const kvfit::row_view& block : layer.test_queries(head)) {
        facts.test_queries += block.rows();
      }
    }
  }
  return facts;
}

head_view view_of(const kvfit::capture& capture, const kvfit::capture_layer& layer,
                  kvfit::index head) {
  return {layer.keys(head), layer.values(head), layer.queries(head), layer.test_queries(head),
          capture.scale};
}

kvfit::index count_items(const kvfit::capture& capture, const eval_plan& plan) {
  return facts_of(capture, {}).heads *
         static_cast<kvfit::index>(plan.methods.size() * plan.ratios.size());
}

bool has_test_queries(const kvfit::capture& capture) {
  return std::all_of(
      capture.layers.begin(), capture.layers.end(),
      [](const kvfit::capture_layer& layer) { return !layer.test_queries(0).empty(); });
}

kvfit::result<std::vector<score_row>> evaluate(const kvfit::capture& capture,
                                               const std::string& name, const eval_plan& plan,
                                               kvfit::thread_pool& pool, const kvfit::watch& by) {
  std::vector<score_row> rows;
  for (const std::string& method : plan.methods) {
    for (const double ratio : plan.ratios) {
      score_row row;
      row.capture = name;
      row.method = method;
      row.ratio = ratio;
      rows.push_back(std::move(row));
    }
  }
  const bool has_test = has_test_queries(capture);
  const kvfit::index all_items = count_items(capture, plan);
  kvfit::index done_before = 0;

  // Layer by layer, so that the full attention of one layer alone is in memory.
  for (const kvfit::capture_layer& layer : capture.layers) {
    const kvfit::index heads = layer.heads();
    std::vector<head_view> views;
    for (kvfit::index h = 0; h < heads; ++h) views.push_back(view_of(capture, layer, h));
    const auto here = [&](std::size_t h) {
      return head_score{
          .layer = layer.number(), .head = static_cast<kvfit::index>(h), .rows = layer.rows()};
    };

    slots<full_attention> full(views.size());
    if (has_test) {
      const auto all = kvfit::run_watched(pool, heads,
                                          [&](kvfit::index h) noexcept {
                                            const auto at = static_cast<std::size_t>(h);
                                            full[at].emplace(attend_full(views[at]));
                                          },
                                          {.cancel = by.cancel});
      if (!all) return all.error();
      for (std::size_t h = 0; h < views.size(); ++h) {
        if (!*full[h]) return with_place(full[h]->error(), here(h), "full attention");
      }
    }

    slots<head_score> scores(views.size() * rows.size());
    kvfit::watch part{.cancel = by.cancel};
    if (by.progress) {
      part.progress = [&](kvfit::index done, kvfit::index) {
        by.progress(done_before + done, all_items);
      };
    }
    const auto all = kvfit::run_watched(
        pool, static_cast<kvfit::index>(scores.size()),
        [&](kvfit::index i) noexcept {
          const auto item = static_cast<std::size_t>(i);
          const std::size_t h = item % views.size();
          const score_row& row = rows[item / views.size()];
          const head_plan wanted{.method = row.method,
                                 .budget = budget_at(layer.rows(), row.ratio),
                                 .seed = plan.seed};
          scores[item].emplace(score(views[h], here(h), wanted, has_test ? &**full[h] : nullptr));
        },
        part);
    if (!all) return all.error();
    done_before += static_cast<kvfit::index>(scores.size());
    for (std::size_t item = 0; item < scores.size(); ++item) {
      const kvfit::result<head_score>& one = *scores[item];
      if (!one) return one.error();
      rows[item / views.size()].heads.push_back(*one);
    }
  }
  for (score_row& row : rows) summarise(row);
  return rows;
}

}  // namespace kvfit_tool
