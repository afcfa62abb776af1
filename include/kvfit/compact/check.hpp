// SPDX-License-Identifier: MIT
/// Refuses what `compact()` can't do, before anything is computed.
#pragma once

#include <string>

#include "kvfit/attention/check.hpp"
#include "kvfit/attention/score_options.hpp"
#include "kvfit/compact/fit_scores.hpp"
#include "kvfit/compact/protected_rows.hpp"
#include "kvfit/compact/tied_values.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/core/settings.hpp"
#include "kvfit/refine/gradient_keys.hpp"
#include "kvfit/refine/refinement.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// `invalid_option` for a policy that this file can't run.
inline result<void> check_handles(const compact_options& options) {
  if (const auto ok = check_functions("selection", options.selection); !ok) return ok;
  if (const auto ok = check_functions("bias", options.bias); !ok) return ok;
  if (const auto ok = check_functions("values", options.values); !ok) return ok;
  return check_functions("gradient", options.gradient);
}

/// The options for T = `rows` keys of `depth` numbers and values of `width`, but for whether the
/// budget exceeds the protected rows (`check_protected_budget`).
inline result<void> check_options(const compact_options& options, index_t rows, index_t depth,
                                  index_t width) {
  if (const auto ok = check_handles(options); !ok) return ok;
  if (const auto ok = check_settings(options.selection); !ok) return ok;
  if (const auto* joint = options.selection.get_if<selection::joint>(); joint != nullptr) {
    const auto factors = static_cast<index_t>(joint->prior.size());
    if (factors != 0 && factors != rows) {
      return error{errc::shape_mismatch, "joint.prior", factors, rows,
                   "one factor for each row of the cache"};
    }
  }
  if (const auto ok = check_score_options(fit_scores(options, rows, options.budget)); !ok)
    return ok;
  if (const auto ok = check_settings(options.bias); !ok) return ok;
  if (const auto ok = check_settings(options.values); !ok) return ok;
  if (const auto ok = check_refinement(options.refine, depth); !ok) return ok;
  if (const auto ok = check_tied_options(options, depth, width); !ok) return ok;
  if (options.refine.steps.value_or(0) > 0 && !fits_values(options.values) &&
      !options.tied_values_from) {
    return error{errc::invalid_option, "refine.steps", *options.refine.steps, 0,
                 "keys can't be moved under values that are copied"};
  }
  if (!options.gradient.holds<no_gradient>()) {
    if (const auto ok = check_gradient_keys(*options.gradient.get_if<gradient_keys>()); !ok)
      return ok;
    if (options.refine.steps.value_or(0) > 0) {
      return error{errc::invalid_option, "gradient, refine.steps", *options.refine.steps, 0,
                   "keys are moved by one of them, not both"};
    }
    if (!fits_values(options.values)) {
      return error{errc::invalid_option, "gradient", error::none, error::none,
                   "keys can't be moved under values that are copied"};
    }
  }
  if (options.budget < 1) {
    return error{errc::budget_out_of_range, "budget", options.budget, 1, "must be at least 1"};
  }
  if (const auto ok = check_protection(options.protect, rows); !ok) return ok;
  if (!(options.queries.held_out >= 0 && options.queries.held_out <= 0.5)) {
    return refuse_number("queries.held_out", options.queries.held_out, "must be in [0, 0.5]");
  }
  if (!is_number(options.storage.rows) || !is_number(options.storage.bias)) {
    const dtype type =
        is_number(options.storage.rows) ? options.storage.bias : options.storage.rows;
    return error{errc::invalid_option,
                 is_number(options.storage.rows) ? "storage.bias" : "storage.rows", error::none,
                 error::none, std::string(name(type)) + " is no type of single numbers"};
  }
  if (options.queries.per_row < 0) {
    return error{errc::invalid_option, "queries.per_row", options.queries.per_row, 0,
                 "must not be negative"};
  }
  if (options.queries.at_least < 1) {
    return error{errc::invalid_option, "queries.at_least", options.queries.at_least, 1,
                 "must be at least 1"};
  }
  if (options.memory.selection < 0) {
    return error{errc::invalid_option, "memory.selection", options.memory.selection, 0,
                 "must not be negative"};
  }
  if (options.memory.cap.value_or(0) < 0) {
    return error{errc::invalid_option, "memory.cap", *options.memory.cap, 0,
                 "must not be negative"};
  }
  return {};
}

inline result<void> check_compaction(const kv_block& cache, const query_set& queries,
                                     const compact_options& options) {
  if (const auto ok = check_rule(options.rule); !ok) return ok;
  if (const auto ok = check_cache(cache, queries); !ok) return ok;
  if (const auto ok = check_queries(queries, cache.keys.cols()); !ok) return ok;
  if (const auto ok =
          check_options(options, cache.keys.rows(), cache.keys.cols(), cache.values.cols());
      !ok) {
    return ok;
  }
  if (const auto ok = check_named_rows(cache, options.protect); !ok) return ok;
  if (options.tied_values_from) return check_tied_rows(cache, *options.tied_values_from);
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
