// SPDX-License-Identifier: MIT
/// A published gradient method on the kept rows of a head.
#pragma once

#include <span>
#include <utility>

#include "kvfit/compact/policy_functions.hpp"
#include "kvfit/compact/stage_values.hpp"
#include "kvfit/compact/value_fit.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/stop.hpp"
#include "kvfit/refine/batch.hpp"
#include "kvfit/refine/compact_point.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Moves keys and biases of `rows`, and with the joint loss values that are fitted before, on all
/// queries fitted on.
inline result<void> move_by_gradient(const stages::problem& of, const stages::targets& full,
                                     const gradient_keys& how, compacted& rows) {
  if (how.loss == gradient_loss::joint) {
    const matrix original = gather_rows(of.cache.values, rows.positions);
    const auto ok =
        fit_values_of(of, full, attention_over(of, full.parts.fit, rows), original, {}, rows);
    if (!ok) return ok;
    rows.report.values = {};  // of the start
  }
  compact_point point{std::move(rows.keys), std::move(rows.bias), std::move(rows.values)};
  {
    const scored_part all{&full.parts.fit, &full.fitted};
    const refine_batch batch =
        make_batch(std::span(&all, 1), {}, of.cache, of.options.rule, rows.positions);
    rows.report.gradient = functions_of(of.options.gradient)
                               .descend(&how, &batch, of.options.rule.soft_cap, &point, of.stop);
  }
  if (const auto ok = check_stop(of.stop, "gradient"); !ok) return ok;
  rows.keys = std::move(point.keys);
  rows.bias = std::move(point.bias);
  rows.values = std::move(point.values);
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
