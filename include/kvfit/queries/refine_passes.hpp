// SPDX-License-Identifier: MIT
/// Iterative refinement that keeps only what judges better: passes over a compact cache, of which
/// the best is returned.
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/error.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/stop.hpp"

namespace kvfit {

/// How many passes `refine_passes` makes, and when it stops.
struct pass_options {
  index_t passes = 3;  ///< ≥ 0
  /// A pass that lowers the best loss by less than this part of it is the last. ≥ 0.
  double least_gain = 0.005;
  stop_when stop = {};  ///< checked before every pass
};

/// Why there were no more passes.
enum class pass_end : std::uint8_t {
  all_done,   ///< as many as were asked for
  no_gain,    ///< the last one gained less than `least_gain`
  failed,     ///< the last one failed with `cause`
  cancelled,  ///< the caller asked to stop, or the deadline has passed
};

/// The best pass: everything here describes `cache`, but `losses`, which tells of all.
struct refined_passes {
  compacted_cache cache;
  index_t pass = 0;            ///< 0: the cache that was given, 1: the first pass, …
  double loss = 0;             ///< of `cache`, by the judge
  std::vector<double> losses;  ///< of every cache that was judged, from the given one on
  pass_end end = pass_end::all_done;
  std::optional<error> cause;
};

/// Says how bad a compact cache is, on queries that nothing was fitted on: finite, lower is better.
template <class J>
concept cache_judge = requires(J& judge, const compacted_cache& cache) {
  { judge(cache) } -> std::same_as<result<double>>;
};

/// Makes the next cache from the best so far: `next(pass, best)`, pass from 1.
template <class N>
concept cache_pass = requires(N& next, index_t pass, const compacted_cache& best) {
  { next(pass, best) } -> std::same_as<result<compacted_cache>>;
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// Passes of reading with the compact cache active and fitting again, judged after each on queries
/// held out from all of them: the best cache is returned, never the last as such, and each pass
/// starts from the best.
///
///     auto best = kvfit::refine_passes(std::move(small), next, *judge, {.passes = 4});
///
/// next: gathers queries over `compacted_prefix(full, best)`, and compacts the full cache with them
/// (`compact_by_layers`). judge: `held_out_judge`, or the engine's own loss on a text held out. A
/// pass that fails, or whose loss is not finite, ends the passes, and what was best before it is
/// returned with the cause. Errors: `invalid_option` for settings out of range; the judge's, and
/// `non_finite`, for the cache that is given.
template <cache_pass Next, cache_judge Judge>
[[nodiscard]] result<refined_passes> refine_passes(compacted_cache start, Next&& next,
                                                   Judge&& judge,
                                                   const pass_options& options = {}) {
  if (options.passes < 0) {
    return error{errc::invalid_option, "passes", options.passes, 0, "must not be negative"};
  }
  if (!(options.least_gain >= 0 && std::isfinite(options.least_gain))) {
    return detail::refuse_number("least_gain", options.least_gain,
                                 "must be finite and not negative");
  }
  return detail::catch_bad_alloc("refine_passes", [&]() -> result<refined_passes> {
    refined_passes best;
    const result<double> first = judge(start);
    if (!first) return first.error();
    if (!std::isfinite(*first)) {
      return error{errc::non_finite, "loss", 0, error::none, "of the cache that was given"};
    }
    best.cache = std::move(start);
    best.loss = *first;
    best.losses.push_back(*first);
    const auto end_by = [&best](pass_end end, error cause) {
      best.end = end;
      best.cause = std::move(cause);
    };
    for (index_t pass = 1; pass <= options.passes; ++pass) {
      if (const auto ok = check_stop(options.stop, "passes"); !ok) {
        error cause = ok.error();
        cause.actual = pass - 1;
        cause.expected = options.passes;
        end_by(pass_end::cancelled, std::move(cause));
        break;
      }
      result<compacted_cache> made = next(pass, std::as_const(best.cache));
      const result<double> loss = made ? result<double>(judge(*made)) : made.error();
      if (!loss) {
        const bool is_cancelled = loss.error().code == errc::cancelled;
        end_by(is_cancelled ? pass_end::cancelled : pass_end::failed, loss.error());
        break;
      }
      best.losses.push_back(*loss);
      if (!std::isfinite(*loss)) {
        end_by(pass_end::failed, {errc::non_finite, "loss", pass});
        break;
      }
      const double gain = best.loss - *loss;
      const double needed = options.least_gain * best.loss;
      if (gain > 0) {
        best.cache = std::move(*made);
        best.pass = pass;
        best.loss = *loss;
      }
      if (!(gain > 0) || gain < needed) {
        best.end = pass_end::no_gain;
        break;
      }
    }
    return best;
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
