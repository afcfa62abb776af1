// SPDX-License-Identifier: MIT
/// `generate()`: an engine goes on with a text, token by token.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/random.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/queries/reader.hpp"
#include "kvfit/queries/sampler.hpp"

namespace kvfit {

/// When a text ends of itself.
struct generation_limits {
  index_t tokens = 256;          ///< ≥ 0: no more than these
  std::vector<token> stop = {};  ///< a token of these ends the text, and is not part of it
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Logits of the token after the last of `hidden`.
template <engine E, executor X>
result<matrix> next_logits(const reader<E, X>& read, const matrix& hidden) {
  const matrix last = hidden.bottomRows(1);
  auto logits = read.model().logits(last);
  if (!logits) return logits.error();
  if (logits->rows() != 1 || logits->cols() != read.model().vocabulary()) {
    return error{errc::shape_mismatch, "logits", logits->cols(), read.model().vocabulary(),
                 "one row, a column per token"};
  }
  return logits;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// Goes on from `logits` (1 × vocabulary): draws a token, reads it over `before` and `live`, and so
/// on, until the sampler, a stop token or a limit ends the text, the engine's positions too.
/// Returns the tokens drawn; all but the last have been read, and stand in `live`.
///
/// Errors: those of `reader::read`; `invalid_option` for a token outside the vocabulary drawn by
/// the sampler, or a negative limit. Cost: one pass through the layers a token.
template <engine E, executor X>
[[nodiscard]] result<std::vector<token>> generate(const reader<E, X>& read,
                                                  const cache_prefix& before, live_cache& live,
                                                  matrix logits, const sampler& draw,
                                                  random_source& random,
                                                  const generation_limits& limits = {}) {
  if (limits.tokens < 0) {
    return error{errc::invalid_option, "tokens", limits.tokens, 0, "must not be negative"};
  }
  if (!draw) return error{errc::invalid_option, "sampler", error::none, error::none, "none given"};
  if (logits.rows() != 1 || logits.cols() != read.model().vocabulary()) {
    return error{errc::shape_mismatch, "logits", logits.cols(), read.model().vocabulary(),
                 "one row, a column per token"};
  }
  if (live.layers() != read.layers()) {
    return error{errc::shape_mismatch, "live", live.layers(), read.layers(), "layers"};
  }
  return detail::catch_bad_alloc("generate", [&]() -> result<std::vector<token>> {
    const index_t left = read.model().positions() - live.first_position() - live.rows(0);
    const index_t most = (std::min)(limits.tokens, left);
    std::vector<token> text;
    while (static_cast<index_t>(text.size()) < most) {
      const auto columns = static_cast<std::size_t>(logits.cols());
      const std::optional<token> next =
          draw(std::span<const float>(logits.data(), columns), random);
      if (!next) break;
      if (std::find(limits.stop.begin(), limits.stop.end(), *next) != limits.stop.end()) break;
      if (*next < 0 || *next >= read.model().vocabulary()) {
        return error{errc::invalid_option, "sampler", *next, read.model().vocabulary(),
                     "drew a token that is not in the vocabulary"};
      }
      text.push_back(*next);
      if (static_cast<index_t>(text.size()) == most) break;
      const auto hidden = read.read(before, live, std::span<const token>(&*next, 1));
      if (!hidden) return hidden.error();
      auto after = detail::next_logits(read, *hidden);
      if (!after) return after.error();
      logits = std::move(*after);
    }
    return text;
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
