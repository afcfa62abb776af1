// SPDX-License-Identifier: MIT
/// What a model says over a compact cache against what it says over the full one, summed up by the
/// kind of passage and by the depth of facts.
#pragma once

#include <array>
#include <cstddef>

#include "kvfit/core/index.hpp"
#include "kvfit/core/matrix.hpp"
#include "measure/documents.hpp"

namespace kvfit_tool {

/// Sums over passages; `kl` and all else divided by their counts are the figures.
struct said_figures {
  kvfit::index_t tokens = 0;  ///< distributions compared
  double kl = 0;              ///< Σ KL(full ‖ compact), nats
  double loss = 0;            ///< Σ −ln p(target)
  kvfit::index_t agreed = 0;  ///< most likely tokens that are the full cache's
  kvfit::index_t right = 0;   ///< passages whose targets all are the most likely tokens
  kvfit::index_t passages = 0;

  void add(const said_figures& more);

  [[nodiscard]] double mean_kl() const;  ///< nats a token; NaN without tokens
  [[nodiscard]] double top1() const;     ///< share of agreed tokens
  [[nodiscard]] double recall() const;   ///< share of right passages; NaN without passages
};

/// Parts of the context that facts are told apart by: quarters.
inline constexpr std::size_t depths = 4;

/// Figures of all kinds of passages.
struct said_parts {
  said_figures text = {};         ///< on true continuations
  said_figures answers = {};      ///< on answers
  said_figures off_context = {};  ///< on texts that have nothing to do with the context
  /// `answers` by the part of the context in which the fact stands; questions of unknown depth are
  /// in none.
  std::array<said_figures, depths> by_depth = {};

  void add(const passage& of, const said_figures& said);
  void add(const said_parts& more);
};

/// What was said against what should be, and against what the full cache says: logits of the
/// passage's scored rows.
said_figures compare(const passage& of, const kvfit::matrix& full, const kvfit::matrix& compact);

}  // namespace kvfit_tool
