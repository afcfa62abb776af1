// SPDX-License-Identifier: MIT
/// Reference queries of a model for one text, by one of the tool's sources.
#pragma once

#include <span>

#include "engine/model.hpp"
#include "kvfit/queries/gather.hpp"
#include "measure/query_source.hpp"

namespace kvfit_tool {

/// A reader that runs heads on the calling thread: documents go in parallel, not heads.
using model_reader = kvfit::reader<llama::model, const kvfit::serial>;

/// Queries of `source` for a cache of these tokens: every row that its sources have.
kvfit::result<kvfit::reference_queries> gather(const model_reader& read,
                                               std::span<const llama::token> tokens,
                                               const kvfit::cache_prefix& cache,
                                               const asked_text& text, const query_source& source);

}  // namespace kvfit_tool
