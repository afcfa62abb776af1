// SPDX-License-Identifier: MIT
/// What `kvfit eval --engine` measures: what a model says over compact caches, held against what it
/// says over full ones.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model.hpp"
#include "kvfit/cache/heads.hpp"
#include "kvfit/parallel/progress.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "measure/candidate.hpp"
#include "measure/documents.hpp"
#include "measure/evaluation.hpp"
#include "measure/query_source.hpp"
#include "measure/said.hpp"

namespace kvfit_tool {

/// Who shares rows out among the model's heads.
enum class engine_budgets : std::uint8_t {
  uniform,   ///< every head keeps as many of its own
  measured,  ///< by what the model says when one head alone is compacted
  /// The same, judged on answers that the context has, too (`measure_curves`).
  measured_facts,
  given,   ///< by a file of shares
  global,  ///< by one ranking of the keys of all heads (`compact_ranked`)
  adakv,   ///< by one ranking a layer, with Ada-KV's safeguard
};

/// The budgets of that name; none: it may be a file.
std::optional<engine_budgets> find_budgets(std::string_view name);

/// Whether somebody must measure curves for it.
constexpr bool needs_curves(engine_budgets budgets) {
  return budgets == engine_budgets::measured || budgets == engine_budgets::measured_facts;
}

/// Where queries are from, and who shares rows out.
struct engine_setting {
  const query_source* queries = nullptr;
  engine_budgets budgets = engine_budgets::uniform;
  std::string file = {};                       ///< of `given`
  std::vector<kvfit::head_share> shares = {};  ///< of `given`
  /// "uniform", "measured", "measured_facts", "global", "adakv", the file's name.
  [[nodiscard]] std::string budgets_name() const;
};

/// One candidate at one ratio over all documents.
struct engine_row {
  candidate what;
  std::string label;        ///< of `what`, and of what of the setting is not the first one's
  std::size_t setting = 0;  ///< its place in the plan
  int rounds = 1;           ///< 2: compacted twice, as the text comes
  double ratio = 1;
  said_parts said = {};
  double seconds = 0;  ///< Σ over documents of the time of their compactions, one thread
  kvfit::index_t documents = 0;

  [[nodiscard]] double kl() const;         ///< mean on continuations, nats; NaN without texts
  [[nodiscard]] double top1() const;       ///< share of agreed tokens there
  [[nodiscard]] double recall() const;     ///< share of right answers; NaN without questions
  [[nodiscard]] double answer_kl() const;  ///< mean on answers
  /// Mean on texts that have nothing to do with the context; NaN without such.
  [[nodiscard]] double off_context_kl() const;
  [[nodiscard]] double seconds_each() const;  ///< a document
  /// Perplexity on continuations over the full cache's, less 1.
  [[nodiscard]] double perplexity_change(const engine_row& full) const;
};

/// One setting, as it was carried out.
struct engine_setting_facts {
  std::string queries;
  std::string budgets;
  double query_seconds = 0;    ///< mean time of making a document's queries, one thread
  double budget_seconds = 0;   ///< of measuring budgets, once for all, queries aside, one thread
  std::vector<double> shares;  ///< of the rows at 20 times: what measured budgets give each head
};

/// All of it.
struct engine_evaluation {
  std::string folder;
  std::vector<engine_setting_facts> settings;
  kvfit::index_t layers = 0;
  kvfit::index_t heads = 0;  ///< KV heads of all layers
  kvfit::index_t texts = 0;
  kvfit::index_t recall_documents = 0;
  kvfit::index_t prefix = 0;  ///< tokens of the longest
  std::uint64_t seed = 0;
  int threads = 1;
  engine_row full;  ///< the full cache, against itself
  std::vector<engine_row> rows;
};

/// A row to measure.
struct engine_row_plan {
  candidate what;
  double ratio = 1;
  std::size_t setting = 0;
  int rounds = 1;
};

struct engine_plan {
  std::vector<engine_row_plan> rows;
  std::vector<engine_setting> settings;  ///< at least one
  kvfit::index_t documents = 0;          ///< so many texts and recall documents; 0: all
  llama::token stop = 0;                 ///< ends the model's answers
  std::uint64_t seed = 0;
};

/// What `evaluate` will count up to: documents × (1 + rows), and `measuring_steps` for each setting
/// whose budgets are measured.
kvfit::index_t evaluations_of(const llama::model& engine, const std::vector<document>& documents,
                              const engine_plan& plan);

/// Reads every document's prefix, makes its queries, compacts every KV head with every candidate
/// and reads the passages over the result. At ratio r a cache of H heads of T rows keeps
/// H · floor(T / r) in all, floor(T / r) a head or by the setting's budgets, at least 1. Measured
/// budgets are measured once, on the prefixes of the first text and the first recall document; the
/// time that took is spread over the documents and counted in `seconds`. Rankings are made anew for
/// every document and ratio, of one round alone (`invalid_option` for two). In two rounds, the
/// first half of the prefix is compacted to that size as soon as it is read, the second half is
/// read over the result, and both are compacted again (`rolling_cache`). Documents are held as many
/// at a time as there are threads; figures do not depend on the threads, seconds do.
///
/// Progress counts up to `evaluations_of`. The first error in the order of documents and rows;
/// `cancelled` after `by.cancel`; `budget_out_of_range` where a ratio leaves no row.
kvfit::result<engine_evaluation> evaluate(const llama::model& engine,
                                          const llama::tokenizer& tokenizer,
                                          const std::vector<document>& documents,
                                          const engine_plan& plan, kvfit::thread_pool& pool,
                                          const kvfit::watch& by);

}  // namespace kvfit_tool
