// SPDX-License-Identifier: MIT
/// The tool's commands, their arguments already checked. Each returns an exit code.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kvfit/core/element.hpp"
#include "kvfit/core/index.hpp"
#include "measure/candidate.hpp"
#include "measure/requirement.hpp"

namespace kvfit_tool {

struct compact_arguments {
  std::string capture;
  std::string output;
  candidate what = {.method = "default"};
  double ratio = 1;
  std::optional<kvfit::dtype> storage = {};  ///< none: the type of the capture's keys
  std::int64_t protect_first = 0;
  std::int64_t protect_last = 0;
  std::vector<kvfit::index_t> protect_rows = {};  ///< row numbers, of every head
  share_policy shares = share_policy::uniform;
  std::string shares_file;     ///< for `share_policy::given`
  bool copies_failed = false;  ///< heads whose method fails keep copied rows
  std::uint64_t seed = 0;
  int threads = 0;
};

int run_compact(const compact_arguments& arguments);

struct eval_arguments {
  std::vector<std::string> captures;
  std::vector<candidate> candidates;
  std::vector<double> ratios;
  std::string json;       ///< empty: not written
  std::string svg;        ///< empty: not written
  std::string html;       ///< empty: not written
  bool resume = false;    ///< go on with what `json` holds
  std::string against;    ///< label of the row, or method of the reference; empty: nothing
  std::string reference;  ///< file of published figures; empty: rows are held against each other
  std::vector<requirement> requirements;  ///< each about a row that is measured
  std::uint64_t seed = 0;
  int threads = 0;
};

int run_eval(const eval_arguments& arguments);

/// Where queries are from and who shares rows out: the setting of a run of methods.
struct engine_pair {
  std::string queries;
  std::string budgets;                    ///< uniform, measured, ... or a file of shares
  std::vector<std::string> methods = {};  ///< run with it; empty: all

  [[nodiscard]] bool runs(const std::string& method) const {
    return methods.empty() || std::find(methods.begin(), methods.end(), method) != methods.end();
  }
};

/// `kvfit eval --engine`.
struct engine_arguments {
  std::string folder;  ///< of a model and its documents; empty: captures are evaluated instead
  std::vector<candidate> candidates;
  std::vector<double> ratios;
  std::int64_t documents = 0;             ///< of each kind; 0: all
  std::vector<engine_pair> pairs;         ///< at least one
  std::vector<candidate> rolling;         ///< to be measured in two rounds, too
  std::string json;                       ///< empty: not written
  std::string svg;                        ///< empty: not written
  std::vector<requirement> requirements;  ///< each about a row that is measured
  std::uint64_t seed = 0;
  int threads = 0;
};

int run_engine_eval(const engine_arguments& arguments);

/// Which error is to be small.
enum class tune_goal : std::uint8_t {
  joint,  ///< the root of the sum of their squares, head by head
  output,
  mass,
};

struct tune_arguments {
  std::vector<std::string> captures;
  std::vector<candidate> candidates;
  double ratio = 1;
  double milliseconds_per_head = 0;
  tune_goal by = tune_goal::joint;
  std::uint64_t seed = 0;
  int threads = 1;
};

int run_tune(const tune_arguments& arguments);

int run_methods(bool as_json);

}  // namespace kvfit_tool
