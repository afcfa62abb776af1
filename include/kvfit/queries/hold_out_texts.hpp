// SPDX-License-Identifier: MIT
/// Parts reference queries by their texts: some of what was read judges, as text, what is fitted on
/// the rest.
#pragma once

#include <cstddef>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/guarded.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/queries/hold_out.hpp"
#include "kvfit/queries/reference_queries.hpp"

namespace kvfit {

/// Which texts judge.
struct text_hold_out {
  index stretch = 64;  ///< ≥ 1 tokens: longer texts give so many from their middle
  index every = 4;     ///< ≥ 2: of the others every so many-th is taken, whole
  index most = 8;      ///< ≥ 0 of these
};

struct parted_texts {
  reference_queries fit;                  ///< no query of a text, or stretch, that judges
  std::vector<std::vector<token>> judge;  ///< to be read after the cache, each by itself
};

}  // namespace kvfit

namespace kvfit::inline KVFIT_ISA {

/// Of every long text read after the cache, a stretch; of short ones (questions with their answers,
/// say) a few. A stretch is to be read by itself: what the model needs of the cache for it, it
/// needs at other positions too. Queries that come from no such text (of the context, keys, random
/// ones) are fitted on.
///
///     auto parts = kvfit::hold_out_texts(*queries);
///     auto curves = kvfit::measure_model_influence(*read, cache, length, parts->judge, grid,
///     compact);
///
/// Errors: `invalid_option` for settings out of range; `empty_input` where no text judges, or no
/// query is left to fit on. Copies the rows fitted on.
[[nodiscard]] inline result<parted_texts> hold_out_texts(const reference_queries& queries,
                                                         const text_hold_out& how = {}) {
  if (how.stretch < 1) return error{errc::invalid_option, "stretch", how.stretch, 1};
  if (how.every < 2) return error{errc::invalid_option, "every", how.every, 2};
  if (how.most < 0) return error{errc::invalid_option, "most", how.most, 0};
  return detail::guard_memory("hold_out_texts", [&]() -> result<parted_texts> {
    parted_texts parts;
    std::vector<char> judges(static_cast<std::size_t>(queries.rows()), 0);
    index texts = 0;
    index taken = 0;
    for (const query_reading& reading : queries.readings) {
      if (!reading.is_after_cache) continue;
      const auto length = static_cast<index>(reading.tokens.size());
      index first = 0;
      index end = length;
      if (length > how.stretch) {
        first = (length - how.stretch) / 2;
        end = first + how.stretch;
      } else {
        if (++texts % how.every != 0 || taken == how.most) continue;
        ++taken;
      }
      parts.judge.emplace_back(reading.tokens.begin() + first, reading.tokens.begin() + end);
      for (std::size_t i = 0; i < reading.rows.size(); ++i) {
        if (reading.rows[i] < first || reading.rows[i] >= end) continue;
        judges[static_cast<std::size_t>(reading.first_row) + i] = 1;
      }
    }
    std::vector<index> fit;
    for (index row = 0; row < queries.rows(); ++row) {
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

}  // namespace kvfit::inline KVFIT_ISA
