// SPDX-License-Identifier: MIT
/// What `kvfit eval` measures: plain data, and the loop that fills it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "heads.hpp"
#include "kvfit/io/capture.hpp"
#include "kvfit/parallel/progress.hpp"
#include "kvfit/parallel/thread_pool.hpp"

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
  kvfit::index layer = 0;
  kvfit::index head = 0;
  kvfit::index rows = 0;
  kvfit::index kept = 0;
  judged_on on = judged_on::test;
  kvfit::fidelity errors = {};
  double milliseconds = 0;  ///< wall clock of the compaction
};

/// Mean, geometric mean and worst over heads.
struct spread {
  double mean = 0;
  double geometric = 0;
  double worst = 0;
  std::size_t worst_head = 0;  ///< place in `score_row::heads`
};

/// One method at one ratio over all heads of a capture.
struct score_row {
  std::string capture;
  std::string method;
  double ratio = 1;
  judged_on on = judged_on::test;  ///< of its heads, the least independent
  spread output_error;
  spread mass_error;
  spread cosine;            ///< worst: the smallest
  double milliseconds = 0;  ///< mean over heads
  std::vector<head_score> heads;
};

/// What a capture is, for those who read the results without it.
struct capture_facts {
  std::string name;  ///< the path as given
  kvfit::index layers = 0;
  kvfit::index heads = 0;  ///< KV heads of all layers
  kvfit::index query_heads = 0;
  kvfit::index rows = 0;          ///< of the longest layer
  kvfit::index queries = 0;       ///< reference queries of all query heads
  kvfit::index test_queries = 0;  ///< 0: none
  kvfit::index depth = 0;
  float scale = 0;
};

/// All of it, in the order capture, method, ratio.
struct evaluation {
  std::vector<capture_facts> captures;
  std::vector<score_row> rows;
  std::uint64_t seed = 0;
  int threads = 1;
};

/// floor(rows / ratio).
kvfit::index budget_at(kvfit::index rows, double ratio);

/// `budget_out_of_range` where a layer would keep nothing. Cheap: found before any work.
kvfit::result<void> check_ratio(const kvfit::capture& capture, double ratio);

capture_facts facts_of(const kvfit::capture& capture, std::string name);

/// One head's views.
head_view view_of(const kvfit::capture& capture, const kvfit::capture_layer& layer,
                  kvfit::index head);

struct eval_plan {
  std::vector<std::string> methods;
  std::vector<double> ratios;
  std::uint64_t seed = 0;
};

/// Heads × methods × ratios: the items `evaluate` will report progress of.
kvfit::index count_items(const kvfit::capture& capture, const eval_plan& plan);

/// Whether every layer has test queries. If not, no layer is judged on them: rows must compare.
bool has_test_queries(const kvfit::capture& capture);

/// Compacts on `.q`, judges on `.q_test`. Full attention is computed once a head. Numbers do not
/// depend on the threads, milliseconds do: heads that run side by side share the machine's memory.
/// The first error in the order of rows and heads, where one fails; `cancelled` after `by.cancel`.
kvfit::result<std::vector<score_row>> evaluate(const kvfit::capture& capture,
                                               const std::string& name, const eval_plan& plan,
                                               kvfit::thread_pool& pool, const kvfit::watch& by);

}  // namespace kvfit_tool
