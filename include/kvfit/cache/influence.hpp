// SPDX-License-Identifier: MIT
/// A head's influence curve, measured by the library itself: no engine is needed.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <utility>

#include "kvfit/cache/influence_curve.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/compact/progressive.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/stop.hpp"

namespace kvfit {

/// How a report becomes a loss: weight · (output_error + mass · mass_error), both of the held-out
/// queries; and what is compacted for it.
struct influence_settings {
  double weight = 1;  ///< of this head beside the others, ≥ 0: what its errors do to the answer
  double mass = 0;    ///< of the mass error beside the output error, ≥ 0
  /// One selection serves all budgets (`compact_progressive`): cheaper, and near.
  bool one_selection = false;
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// The influence curve of one head: it is compacted to each of `budgets` rows, and the loss is the
/// error that the report shows on the queries held out.
///
/// A proxy. The paper's curves are changes of the answer's log-perplexity (arXiv:2602.16284,
/// influence curves), which only a model can measure; an error of the head's own output says
/// nothing of what later layers make of it, unless `settings.weight` does. A budget that keeps
/// every row costs 0.
///
/// budgets: rows, ≥ 1, strictly ascending, protected rows included; `options.budget` is not used.
/// options: those of the compactions to come, with `held_out` above 0.
/// Errors: `empty_input` for no budget; `invalid_option` for budgets out of order, settings out of
/// range or no held-out share, and where there are too few queries to hold any out; those of
/// `compact`, whose cap holds here too, and `cancelled` once `stop` is due. Cost: one `compact` a
/// budget, and 16 bytes. Same input, same bytes.
///
///     const kvfit::index_t grid[] = {16, 64, 256, 1024};
///     auto curve = kvfit::measure_influence(cache, queries, options, grid, {.weight = 0.4});
[[nodiscard]] inline result<influence_curve> measure_influence(
    const kv_block& cache, const query_set& queries, const compact_options& options,
    std::span<const index_t> budgets, const influence_settings& settings = {},
    const stop_when& stop = {}) {
  if (budgets.empty()) return error{errc::empty_input, "budgets", 0, error::none, {}};
  for (std::size_t i = 0; i < budgets.size(); ++i) {
    const index_t before = i > 0 ? budgets[i - 1] : 0;
    if (budgets[i] <= before) {
      return error{errc::invalid_option, "budgets", budgets[i], before,
                   "must be at least 1 and ascend"};
    }
  }
  for (const auto& [field, weight] :
       {std::pair{"settings.weight", settings.weight}, std::pair{"settings.mass", settings.mass}}) {
    if (!(weight >= 0 && std::isfinite(weight))) {
      return detail::refuse_number(field, weight, "must be finite and not negative");
    }
  }
  if (!(options.queries.held_out > 0)) {
    return detail::refuse_number(
        "queries.held_out", options.queries.held_out,
        "must be above 0, for a curve needs queries that nothing was fitted on");
  }
  return detail::catch_bad_alloc("measure_influence", [&]() -> result<influence_curve> {
    influence_curve curve;
    curve.points.reserve(budgets.size());
    const auto add = [&](index_t rows, const compact_report& report) -> result<void> {
      double loss = 0;
      if (report.held_out) {
        loss = settings.weight *
               (report.held_out->output_error + settings.mass * report.held_out->mass_error);
      } else if (!report.is_identity && report.masked_queries < queries.rows()) {
        return error{errc::invalid_option, "queries.held_out", error::none, error::none,
                     "too few queries to hold any out"};
      }
      curve.points.push_back({rows, loss});
      return {};
    };
    if (settings.one_selection) {
      const auto all = compact_progressive(cache, queries, options, budgets, stop);
      if (!all) return all.error();
      for (std::size_t i = 0; i < budgets.size(); ++i) {
        if (const auto ok = add(budgets[i], (*all)[i].report); !ok) return ok.error();
      }
      return curve;
    }
    auto asked = options;
    for (const index_t rows : budgets) {
      asked.budget = rows;
      const auto fitted = compact(cache, queries, asked, stop);
      if (!fitted) return fitted.error();
      if (const auto ok = add(rows, fitted->report); !ok) return ok.error();
    }
    return curve;
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
