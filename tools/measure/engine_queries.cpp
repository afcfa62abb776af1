// SPDX-License-Identifier: MIT
#include "measure/engine_queries.hpp"

#include <algorithm>

namespace kvfit_tool {

kvfit::result<kvfit::reference_queries> gather(const model_reader& read,
                                               std::span<const llama::token> tokens,
                                               const kvfit::cache_prefix& cache,
                                               const asked_text& text, const query_source& source) {
  const auto mixture = source.make(text);
  if (!mixture) return mixture.error();
  kvfit::index_t group = 1;
  for (const kvfit::layer_shape& shape : read.shapes()) {
    group = std::max(group, shape.query_heads / shape.kv_heads);
  }
  // No source of a text this long has more rows than the model has positions, times the texts of
  // other documents; questions of very many names are thinned out.
  const kvfit::index_t each = 4 * read.model().positions();
  return kvfit::gather_queries(
      read, tokens, cache, std::span<const kvfit::weighted_source>(*mixture),
      {.budget = group * each * static_cast<kvfit::index_t>(mixture->size()),
       .is_cut_alike = false});
}

}  // namespace kvfit_tool
