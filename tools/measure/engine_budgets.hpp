// SPDX-License-Identifier: MIT
/// Rows for the heads of a model, by what the model says when one of them alone is compacted.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/model.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/influence_curve.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/queries/reference_queries.hpp"
#include "measure/documents.hpp"
#include "measure/query_source.hpp"

namespace kvfit_tool {

/// A document's queries, and how long making them took, one thread.
struct made_queries {
  kvfit::reference_queries queries;
  double seconds = 0;
};

/// Influence curves of all heads, over the share of the rows that a head keeps.
struct share_curves {
  std::vector<double> shares;               ///< ascending, the last one 1
  std::vector<std::vector<double>> losses;  ///< a head each, layer by layer; nats a token
  double seconds = 0;                       ///< that it took beside the queries, one thread
  std::vector<made_queries> queries;        ///< of the documents measured on, in their order

  /// The curve of head `which` if it has `rows` rows.
  [[nodiscard]] kvfit::influence_curve of(std::size_t which, kvfit::index_t rows) const;
};

/// What a document is made queries of, with four texts of other books beside it.
asked_text asked_of(const document& of, const std::vector<document>& all,
                    const llama::tokenizer& tokenizer, llama::token stop);

/// How often `measure_curves` calls `step`.
kvfit::index_t measuring_steps(const llama::model& engine, std::size_t documents);

/// What the model's predictions are judged on while one head is compact.
enum class budget_judges : std::uint8_t {
  text,  ///< texts of the queries, every token alike
  /// Those, and answers that stand word for word in the prefix: every second of them, six at most;
  /// the mean on answers' tokens counts as much as the mean on the texts'. Text alone where no
  /// answer stands there.
  text_and_facts,
};

/// Measures them on the prefixes of some documents, by `default`, fitted roughly, with queries of
/// `source`: the mean of the documents' curves. Passages are not used; what judges are texts
/// that the queries' other texts were fitted without. `step` is called after every head at every
/// budget, never by two threads at once; `cancelled` once it says false.
kvfit::result<share_curves> measure_curves(const llama::model& engine,
                                           const std::vector<const document*>& on,
                                           const std::vector<asked_text>& texts,
                                           const query_source& source, budget_judges judged,
                                           kvfit::thread_pool& pool,
                                           const std::function<bool()>& step);

}  // namespace kvfit_tool
