// SPDX-License-Identifier: MIT
/// What a model says over compact caches, compared with what it says over full ones.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/said.hpp"
#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/compact_cache.hpp"
#include "kvfit/cache/influence_curve.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/presets.hpp"
#include "llama_cpp/documents.hpp"
#include "llama_cpp/mixture.hpp"
#include "llama_cpp/session.hpp"

namespace llama_cpp {

/// What one method leaves of the model at one ratio; NaN where nothing was measured.
struct row {
  std::string method;  ///< "full", "put_back" (the state saved and loaded, unchanged) or a preset's
  double ratio = 1;
  llama::said_figures text = {};
  llama::said_figures answers = {};
  double cells = 0;    ///< of the cache, of those that the full one takes: a mean
  double seconds = 0;  ///< of all compactions, on the pool's threads
  index_t documents = 0;
  index_t copied = 0;  ///< heads whose method failed and whose rows were copied, over all documents

  [[nodiscard]] double kl() const;      ///< mean on continuations
  [[nodiscard]] double top1() const;    ///< share of agreed tokens there
  [[nodiscard]] double recall() const;  ///< share of right answers
  [[nodiscard]] double answer_kl() const;
  [[nodiscard]] double seconds_each() const;
  /// Perplexity on continuations over the full cache's, less 1.
  [[nodiscard]] double perplexity_change(const row& full) const;
};

enum class query_text {
  repeat,   ///< the prefix once more, word for word, behind itself
  context,  ///< the prefix as it was read, each query let to see all of it
  mixture,  ///< that, what the model goes on with, questions that it answers, and other texts
};

/// What is lost when a head keeps a share of its rows: measured on some documents, used for all.
struct share_curves {
  std::vector<double> shares;               ///< ascending, below 1
  std::vector<std::vector<double>> losses;  ///< a head each, layer by layer; nats a token

  /// For heads of so many rows.
  [[nodiscard]] std::vector<kvfit::influence_curve> of(index_t rows) const;
};

struct evaluation_plan {
  std::vector<kvfit::presets::preset> methods = {};
  std::vector<double> ratios = {};
  kvfit::any_budget shares = kvfit::budgets::uniform{};
  std::optional<share_curves> measured = {};  ///< in place of `shares`
  bool with_bias = true;   ///< false: methods are fitted without biases, see `without_bias`
  index_t queries = 1024;  ///< tokens at most whose queries are kept
  query_text asked = query_text::repeat;
  mixture_plan mixed = {};
  /// A head whose method fails (values beyond fp16, say) has its most attended rows copied; else
  /// the whole evaluation fails.
  bool copies_failed = false;
};

/// A document read: its cache, its reference queries, what the model says over the full cache.
struct prepared_document {
  const document* of = nullptr;
  sequence_state full;
  layer_captures queries;
  index_t query_position = 0;
  index_t query_step = 1;
  std::vector<index_t> positions;  ///< of each query, where they stand at no even distance
  std::vector<matrix> logits;      ///< a passage each
};

/// Reads the prefix into an empty cache, its passages behind it, and what its queries are taken
/// from. Errors: the session's; `invalid_option` where the text and what follows exceed the trained
/// length.
///
/// `all`: documents whose texts, but for recall and `of` itself, are read behind the prefix for a
/// mixture; two at most.
result<prepared_document> prepare(session& model, const document& of, const evaluation_plan& plan,
                                  const std::vector<document>& all = {});

/// The cache of a document, compacted: H heads of T rows to H · floor(T / ratio) in all.
result<kvfit::compacted_cache> compact(session& model, const prepared_document& document,
                                       const kvfit::presets::preset& method, double ratio,
                                       const evaluation_plan& plan, kvfit::thread_pool& pool);

/// Reads all passages behind what the cache holds.
result<llama::said_figures> read_passages(session& model, const prepared_document& document);

/// Rows: the full cache, the state put back unchanged, then each method at each ratio. `said` is
/// told about each document and row that is done.
result<std::vector<row>> evaluate(session& model, const std::vector<document>& documents,
                                  const evaluation_plan& plan, kvfit::thread_pool& pool,
                                  const std::function<void(const std::string&)>& said);

}  // namespace llama_cpp
