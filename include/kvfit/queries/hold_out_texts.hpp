// SPDX-License-Identifier: MIT
/// Parts reference queries by their texts: some of what was read judges, as text, what is fitted on
/// the rest.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/queries/hold_out.hpp"
#include "kvfit/queries/reference_queries.hpp"
#include "kvfit/queries/subsample.hpp"

namespace kvfit {

/// Which texts judge.
struct text_hold_out {
  index_t stretch = 64;  ///< ≥ 1 tokens: longer texts judge by so many from their middle
  index_t every = 4;     ///< ≥ 2: of the others one in so many judges, whole
  index_t most = 6;      ///< ≥ 1 texts of either length, evenly spread
  /// Readings that judge besides, whole, by their places in `reference_queries::readings`: texts
  /// that the caller knows to matter, such as questions whose answers the context has.
  std::vector<std::size_t> named = {};
};

/// Reference queries of some texts, and the texts held out.
struct held_out_texts {
  reference_queries fit;  ///< no query of a text, or stretch, that judges
  /// To be read after the cache, each by itself; those named come last, in their order.
  std::vector<std::vector<token>> judge;
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// Of long texts read after the cache, a stretch; of short ones (questions with their answers, say)
/// a few. A stretch is to be read by itself: what the model needs of the cache for it, it needs at
/// other positions too. Queries that come from no such text (of the context, keys, random ones) are
/// fitted on.
///
///     auto parts = kvfit::hold_out_texts(*queries);
///     auto curves = kvfit::measure_model_influence(*read, cache, length, parts->judge, grid,
///     compact);
///
/// Errors: `invalid_option` for settings out of range, and for a name that is no text after the
/// cache or stands twice; `empty_input` where no text judges, or no
/// query is left to fit on; those of `hold_out` for the set. Copies the rows fitted on.
[[nodiscard]] inline result<held_out_texts> hold_out_texts(const reference_queries& queries,
                                                           const text_hold_out& how = {}) {
  if (how.stretch < 1) {
    return error{errc::invalid_option, "stretch", how.stretch, 1, "must be at least 1"};
  }
  if (how.every < 2) {
    return error{errc::invalid_option, "every", how.every, 2, "must be at least 2"};
  }
  if (how.most < 1) return error{errc::invalid_option, "most", how.most, 1, "must be at least 1"};
  if (const auto ok = detail::check_rows_of_set(queries); !ok) return ok.error();
  return detail::catch_bad_alloc("hold_out_texts", [&]() -> result<held_out_texts> {
    held_out_texts parts;
    std::vector<char> judges(static_cast<std::size_t>(queries.rows()), 0);
    std::vector<std::size_t> long_ones;
    std::vector<std::size_t> short_ones;
    std::vector<char> is_named(queries.readings.size(), 0);
    for (const std::size_t r : how.named) {
      if (r < is_named.size() && is_named[r] == 0 && queries.readings[r].is_after_cache) {
        is_named[r] = 1;
        continue;
      }
      return error{errc::invalid_option, "named", static_cast<index_t>(r),
                   static_cast<index_t>(queries.readings.size()),
                   "must be readings after the cache, each once"};
    }
    for (std::size_t r = 0; r < queries.readings.size(); ++r) {
      const query_reading& reading = queries.readings[r];
      if (!reading.is_after_cache || is_named[r] != 0) continue;
      const bool is_long = static_cast<index_t>(reading.tokens.size()) > how.stretch;
      (is_long ? long_ones : short_ones).push_back(r);
    }
    const auto let_judge = [&](const query_reading& reading, index_t first, index_t end) {
      parts.judge.emplace_back(reading.tokens.begin() + first, reading.tokens.begin() + end);
      for (std::size_t i = 0; i < reading.rows.size(); ++i) {
        if (reading.rows[i] < first || reading.rows[i] >= end) continue;
        judges[static_cast<std::size_t>(reading.first_row) + i] = 1;
      }
    };
    const auto take = [&](const std::vector<std::size_t>& texts, index_t count) {
      const auto all = static_cast<index_t>(texts.size());
      for (const index_t which : sample_rows(all, count, sampling::stride, 0)) {
        const query_reading& reading = queries.readings[texts[static_cast<std::size_t>(which)]];
        const auto length = static_cast<index_t>(reading.tokens.size());
        const index_t first = std::max<index_t>(0, (length - how.stretch) / 2);
        let_judge(reading, first, (std::min)(length, first + how.stretch));
      }
    };
    take(long_ones, (std::min)(how.most, static_cast<index_t>(long_ones.size())));
    take(short_ones, (std::min)(how.most, static_cast<index_t>(short_ones.size()) / how.every));
    for (const std::size_t r : how.named) {
      let_judge(queries.readings[r], 0, static_cast<index_t>(queries.readings[r].tokens.size()));
    }
    std::vector<index_t> fit;
    for (index_t row = 0; row < queries.rows(); ++row) {
      if (judges[static_cast<std::size_t>(row)] == 0) fit.push_back(row);
    }
    if (parts.judge.empty()) {
      return error{errc::empty_input, "readings", 0, error::none, "no text after the cache"};
    }
    if (fit.empty()) {
      return error{errc::empty_input, "queries", 0, error::none, "all are of texts that judge"};
    }
    parts.fit = detail::take_queries(queries, fit);
    return parts;
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
