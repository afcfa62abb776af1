// SPDX-License-Identifier: MIT
/// What `kvfit eval` measures: plain data, and the loop that fills it.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvfit/io/capture.hpp"
#include "kvfit/parallel/progress.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "measure/candidate.hpp"
#include "measure/heads.hpp"

namespace kvfit_tool {

/// On what the errors were measured.
enum class judged_on : std::uint8_t {
  test,      ///< the capture's test queries, never fitted on
  held_out,  ///< no test queries there: those the compaction itself held out from the fit
  train,     ///< no test queries there and none held out: the queries fitted on
};

/// "test", "held_out", "train".
std::string_view name(judged_on what);

/// One head under one method at one ratio.
struct head_score {
  kvfit::index_t layer = 0;
  kvfit::index_t head = 0;
  kvfit::index_t rows = 0;
  kvfit::index_t kept = 0;
  judged_on on = judged_on::test;
  kvfit::fidelity errors = {};
  double milliseconds = 0;  ///< wall clock of the compaction
};

/// What errors over heads come to.
struct spread {
  double mean = 0;
  double geometric = 0;
  double worst = 0;
  double worst_tenth = 0;      ///< mean of the worst floor(heads / 10), at least of one
  std::size_t worst_head = 0;  ///< place in `score_row::heads`
};

/// A row's errors compared with another method's on the same heads.
struct comparison {
  std::string name;  ///< whose
  /// Geometric means over heads of error / the other's error.
  double output_error = 1;
  double mass_error = 1;
  /// Heads more than 1.02 times as bad.
  kvfit::index_t output_worse = 0;
  kvfit::index_t mass_worse = 0;
};

/// One candidate at one ratio over all heads of a capture.
struct score_row {
  std::string capture;
  candidate what;
  std::string label;  ///< of `what`
  double ratio = 1;
  judged_on on = judged_on::test;  ///< of its heads, the least independent
  spread output_error;
  spread rms_output_error;
  spread mass_error;
  spread cosine;            ///< worst: the smallest
  double milliseconds = 0;  ///< mean over heads
  int threads = 1;          ///< at work while it was measured
  std::vector<head_score> heads;
  std::optional<comparison> against = {};
};

/// What a capture is, for those who read the results without it.
struct capture_facts {
  std::string name;         ///< the path as given
  std::string fingerprint;  ///< of the content
  kvfit::index_t layers = 0;
  kvfit::index_t heads = 0;  ///< KV heads of all layers
  kvfit::index_t query_heads = 0;
  kvfit::index_t rows = 0;          ///< of the longest layer
  kvfit::index_t queries = 0;       ///< reference queries of all query heads
  kvfit::index_t test_queries = 0;  ///< 0: none
  kvfit::index_t depth = 0;
  float scale = 0;
};

/// All of it, in the order capture, candidate, ratio.
struct evaluation {
  std::vector<capture_facts> captures;
  std::vector<score_row> rows;
  std::uint64_t seed = 0;
  int threads = 1;
};

/// floor(rows / ratio).
kvfit::index_t budget_at(kvfit::index_t rows, double ratio);

/// `budget_out_of_range` where a layer would keep nothing. Cheap: found before any work.
kvfit::result<void> check_ratio(const kvfit::capture& capture, double ratio);

capture_facts facts_of(const kvfit::capture& capture, std::string name);

/// One head's views.
head_view view_of(const kvfit::capture_layer& layer, kvfit::index_t head);

/// A head, and where it lies in its capture.
struct placed_head {
  kvfit::index_t layer = 0;
  kvfit::index_t head = 0;
  head_view view;
};

/// All heads, layer by layer.
std::vector<placed_head> heads_of(const kvfit::capture& capture);

/// Whether every layer has test queries. If not, no layer is judged on them: rows must compare.
bool has_test_queries(const kvfit::capture& capture);

/// Fills `label` and what is said of all heads, from `what` and `heads`.
void summarise(score_row& row);

/// One row to measure.
struct row_plan {
  candidate what;
  double ratio = 1;
};

struct eval_plan {
  std::vector<row_plan> rows;
  std::uint64_t seed = 0;
  /// A row whose heads must take longer than this on average is given up: its `heads` stay empty.
  double milliseconds_per_head = std::numeric_limits<double>::infinity();
};

/// Called with each row that is finished, never by two threads at once. It must not throw.
using on_row = std::function<void(const score_row&)>;

/// Compacts on the heads' queries, judges on their test queries, or, where any head has none, by
/// the compactions' own errors. Full attention is computed once a head; it is held for all of them,
/// in less than twice the memory of fp16 test queries. Figures do not depend on the threads,
/// milliseconds do: heads that run side by side share the machine's memory.
///
/// Rows come in the order of the plan, with `capture` left empty. Progress counts heads × rows. The
/// first error in the order of rows and heads, where one fails; `cancelled` after `by.cancel`.
kvfit::result<std::vector<score_row>> evaluate(const std::vector<placed_head>& heads,
                                               const eval_plan& plan, kvfit::thread_pool& pool,
                                               const kvfit::watch& by, const on_row& finished);

}  // namespace kvfit_tool
