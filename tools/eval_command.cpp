// SPDX-License-Identifier: MIT
#include <cstdio>
#include <string>
#include <utility>

#include "commands.hpp"
#include "eval_output.hpp"
#include "evaluation.hpp"
#include "exit_code.hpp"
#include "interrupt.hpp"
#include "output_file.hpp"
#include "progress.hpp"
#include "say.hpp"

namespace kvfit_tool {

int run_eval(const eval_arguments& arguments) {
  for (const std::string& file : {arguments.json, arguments.svg}) {
    if (file.empty()) continue;
    if (const auto ok = check_writable(file); !ok) return fail(file, ok.error());
  }
  kvfit::thread_pool pool(arguments.threads);
  check_threads(pool, arguments.threads);
  const eval_plan plan{arguments.methods, arguments.ratios, arguments.seed};

  evaluation measured;
  measured.seed = arguments.seed;
  measured.threads = pool.threads();
  for (const std::string& path : arguments.captures) {
    const auto capture = kvfit::read_capture(path);
    if (!capture) return fail(path, capture.error());
    for (const double ratio : arguments.ratios) {
      if (const auto ok = check_ratio(*capture, ratio); !ok) return fail(path, ok.error());
    }
    if (!has_test_queries(*capture)) {
      warn(path + ": no test queries (q_test): showing the compactions' own errors instead");
    }
    progress_bar bar(count_items(*capture, plan), "heads compacted and judged");
    bar.show(0);
    auto rows = evaluate(*capture, path, plan, pool,
                         {.cancel = &interrupt(),
                          .progress = [&bar](kvfit::index done, kvfit::index) { bar.show(done); }});
    if (!rows) return fail(path, rows.error());
    measured.captures.push_back(facts_of(*capture, path));
    for (score_row& row : *rows) measured.rows.push_back(std::move(row));
  }

  std::fputs(to_table(measured).c_str(), stdout);
  if (!arguments.json.empty()) {
    if (const auto ok = write_text(arguments.json, to_json(measured)); !ok) {
      return fail(arguments.json, ok.error());
    }
  }
  if (!arguments.svg.empty()) {
    if (const auto ok = write_text(arguments.svg, to_plot(measured)); !ok) {
      return fail(arguments.svg, ok.error());
    }
  }
  return exit_done;
}

}  // namespace kvfit_tool
