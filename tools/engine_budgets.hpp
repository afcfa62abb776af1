// SPDX-License-Identifier: MIT
/// Rows for the heads of a model, by what the model says when one of them alone is compacted.
#pragma once

#include <string_view>
#include <vector>

#include "documents.hpp"
#include "engine/model.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/influence_curve.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "query_source.hpp"

namespace kvfit_tool {

/// Influence curves of all heads, over the share of the rows that a head keeps.
struct share_curves {
  std::vector<double> shares;               ///< ascending, the last one 1
  std::vector<std::vector<double>> losses;  ///< a head each, layer by layer; nats a token
  double seconds = 0;                       ///< that it took, one thread

  /// The curve of head `which` if it has `rows` rows.
  [[nodiscard]] kvfit::influence_curve of(std::size_t which, kvfit::index rows) const;
};

/// What a document is made queries of, with four texts of other books beside it.
asked_text asked_of(const document& of, const std::vector<document>& all,
                    const llama::tokenizer& tokenizer, llama::token stop);

/// Measures them on the prefixes of some documents, by `default`, fitted roughly, with queries of
/// `source`: the mean of the documents' curves. Passages are not looked at; what judges are texts
/// that the queries' other texts were fitted without.
kvfit::result<share_curves> measure_curves(const llama::model& engine,
                                           const std::vector<const document*>& on,
                                           const std::vector<asked_text>& texts,
                                           const query_source& source, kvfit::thread_pool& pool);

}  // namespace kvfit_tool
