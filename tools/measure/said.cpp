// SPDX-License-Identifier: MIT
#include "measure/said.hpp"

#include <algorithm>

namespace kvfit_tool {

void said_parts::add(const passage& of, const said_figures& said) {
  switch (of.kind) {
    case passage_kind::continuation:
      return text.add(said);
    case passage_kind::off_context:
      return off_context.add(said);
    case passage_kind::answer:
      break;
  }
  answers.add(said);
  if (!of.depth) return;
  const auto part = static_cast<std::size_t>(*of.depth * static_cast<double>(depths));
  by_depth[std::min(part, depths - 1)].add(said);
}

void said_parts::add(const said_parts& more) {
  text.add(more.text);
  answers.add(more.answers);
  off_context.add(more.off_context);
  for (std::size_t i = 0; i < depths; ++i) by_depth[i].add(more.by_depth[i]);
}

}  // namespace kvfit_tool
