// SPDX-License-Identifier: MIT
/// What `kvfit eval --engine` measures: what a model says over compact caches, held against what it
/// says over full ones.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "candidate.hpp"
#include "documents.hpp"
#include "engine/model.hpp"
#include "evaluation.hpp"
#include "kvfit/cache/heads.hpp"
#include "kvfit/parallel/progress.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "query_source.hpp"

namespace kvfit_tool {

/// Sums over passages; `kl` and all else divided by their counts are the figures.
struct spoken {
  kvfit::index tokens = 0;  ///< distributions compared
  double kl = 0;            ///< Σ KL(full ‖ compact), nats
  double loss = 0;          ///< Σ −ln p(target)
  kvfit::index agreed = 0;  ///< most likely tokens that are the full cache's
  kvfit::index right = 0;   ///< passages whose targets all are the most likely tokens
  kvfit::index passages = 0;

  void add(const spoken& more);
};

/// One candidate at one ratio over all documents.
struct engine_row {
  candidate what;
  std::string label;  ///< of `what`
  double ratio = 1;
  spoken text = {};     ///< on true continuations
  spoken answers = {};  ///< on answers
  double seconds = 0;   ///< Σ over documents of the time of their compactions, one thread
  kvfit::index documents = 0;

  [[nodiscard]] double kl() const;            ///< mean on continuations, nats; NaN without texts
  [[nodiscard]] double top1() const;          ///< share of agreed tokens there
  [[nodiscard]] double recall() const;        ///< share of right answers; NaN without questions
  [[nodiscard]] double answer_kl() const;     ///< mean on answers
  [[nodiscard]] double seconds_each() const;  ///< a document
  /// Perplexity on continuations over the full cache's, less 1.
  [[nodiscard]] double perplexity_change(const engine_row& full) const;
};

/// All of it.
struct engine_evaluation {
  std::string folder;
  std::string queries;  ///< name of the source
  std::string budgets;  ///< file of the heads' shares; empty: uniform
  kvfit::index layers = 0;
  kvfit::index heads = 0;  ///< KV heads of all layers
  kvfit::index texts = 0;
  kvfit::index recall_documents = 0;
  kvfit::index prefix = 0;  ///< tokens of the longest
  std::uint64_t seed = 0;
  int threads = 1;
  engine_row full;  ///< the full cache, against itself
  std::vector<engine_row> rows;
};

struct engine_plan {
  std::vector<row_plan> rows;
  /// Shares of all heads' rows together; nothing: every head keeps as many of its own.
  std::optional<std::vector<kvfit::head_share>> shares = {};
  const query_source* queries = nullptr;
  std::uint64_t seed = 0;
};

/// Reads every document's prefix, makes its queries, compacts every KV head with every candidate
/// and reads the passages over the result. At ratio r a cache of H heads of T rows keeps
/// H · floor(T / r) in all, floor(T / r) a head or by the shares, at least 1. Documents are held as
/// many at a time as there are threads; figures do not depend on the threads, seconds do.
///
/// Progress counts documents × (1 + rows). The first error in the order of documents and rows;
/// `cancelled` after `by.cancel`; `budget_out_of_range` where a ratio leaves no row.
kvfit::result<engine_evaluation> evaluate(const llama::model& engine,
                                          const std::vector<document>& documents,
                                          const engine_plan& plan, kvfit::thread_pool& pool,
                                          const kvfit::watch& by);

}  // namespace kvfit_tool
