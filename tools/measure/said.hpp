// SPDX-License-Identifier: MIT
/// What a model says over a compact cache against what it says over the full one, summed up by the
/// kind of passage and by the depth of facts.
#pragma once

#include <array>
#include <cstddef>

#include "engine/said.hpp"
#include "measure/documents.hpp"

namespace kvfit_tool {

using llama::said_figures;

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

}  // namespace kvfit_tool
