// SPDX-License-Identifier: MIT
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include "cli/commands.hpp"
#include "cli/exit_code.hpp"
#include "cli/interrupt.hpp"
#include "cli/output_file.hpp"
#include "cli/progress.hpp"
#include "cli/say.hpp"
#include "measure/evaluation.hpp"
#include "measure/figures.hpp"
#include "measure/relative.hpp"
#include "report/eval_file.hpp"
#include "report/eval_output.hpp"
#include "report/eval_store.hpp"
#include "report/reference.hpp"

namespace kvfit_tool {

namespace {

/// What rows are compared with: another row, or a reference; nothing where `against` is empty.
struct comparing {
  std::string against;
  std::optional<reference> published = {};
};

kvfit::result<comparing> read_comparing(const eval_arguments& arguments) {
  comparing made{arguments.against};
  if (arguments.reference.empty()) return made;
  auto published = read_reference(arguments.reference);
  if (!published) return published.error();
  for (const std::string& path : arguments.captures) {  // before any work
    for (const double ratio : arguments.ratios) {
      const auto found = find_in(*published, path, ratio, made.against, -1);
      if (!found) return found.error();
    }
  }
  made.published = std::move(*published);
  return made;
}

/// What the reference lacks for a capture that has been read.
kvfit::result<void> check_reference(const comparing& with, const eval_arguments& arguments,
                                    const kvfit::capture& capture, const capture_facts& facts) {
  if (!with.published) return {};
  if (!has_test_queries(capture)) {
    return kvfit::error{kvfit::errc::missing_entry, "q_test", kvfit::error::none,
                        kvfit::error::none, "a reference is held against test queries alone"};
  }
  for (const double ratio : arguments.ratios) {
    const auto found = find_in(*with.published, facts.name, ratio, with.against, facts.heads);
    if (!found) return found.error();
  }
  return {};
}

void compare_all(evaluation& measured, const comparing& with) {
  for (score_row& row : measured.rows) row.against = {};
  if (!with.published) return compare_with(measured.rows, with.against);
  for (score_row& row : measured.rows) {
    const auto found = find_in(*with.published, row.capture, row.ratio, with.against,
                               static_cast<kvfit::index_t>(row.heads.size()));
    if (found) row.against = compare(row, **found);
  }
}

/// Adds the rows of one capture to `measured`, those that `store` has and those that it lacks, and
/// hands each new one to `store`.
kvfit::result<void> measure(const kvfit::capture& capture, const eval_arguments& arguments,
                            const comparing& with, const std::optional<eval_store>& store,
                            kvfit::thread_pool& pool, evaluation& measured) {
  const std::string& name = measured.captures.back().name;
  std::vector<std::optional<score_row>> rows;
  eval_plan plan{.rows = {}, .seed = arguments.seed};
  for (const candidate& what : arguments.candidates) {
    for (const double ratio : arguments.ratios) {
      rows.emplace_back();
      const score_row* const known =
          store ? store->find(measured.captures.back().fingerprint, {what, ratio}) : nullptr;
      if (known == nullptr) {
        plan.rows.push_back({what, ratio});
        continue;
      }
      rows.back() = *known;
      rows.back()->capture = name;
    }
  }
  const auto add_known = [&](evaluation& to) {
    for (const auto& row : rows) {
      if (row) to.rows.push_back(*row);
    }
  };
  const auto put = [&](score_row row) {
    row.capture = name;
    std::size_t place = 0;
    for (const candidate& what : arguments.candidates) {
      for (const double ratio : arguments.ratios) {
        if (row.ratio == ratio && row.what == what) rows[place] = row;
        ++place;
      }
    }
  };

  const std::vector<placed_head> heads = heads_of(capture);
  progress_bar bar(static_cast<kvfit::index_t>(heads.size() * plan.rows.size()),
                   "heads compacted and judged");
  bar.show(0);
  std::optional<kvfit::error> unwritten;
  const auto finished = [&](const score_row& row) noexcept {
    put(row);
    if (!store || unwritten) return;
    evaluation so_far = measured;
    add_known(so_far);
    compare_all(so_far, with);
    if (const auto ok = store->write(std::move(so_far)); !ok) {
      unwritten = ok.error();
      interrupt().request();  // nothing is left to work for
    }
  };
  const auto done =
      evaluate(heads, plan, pool,
               {.cancel = &interrupt(),
                .progress = [&bar](kvfit::index_t count, kvfit::index_t) { bar.show(count); }},
               finished);
  if (unwritten) return *unwritten;
  if (!done) return done.error();
  add_known(measured);
  return {};
}

}  // namespace

int run_eval(const eval_arguments& arguments) {
  for (const std::string& file : {arguments.json, arguments.svg, arguments.html}) {
    if (file.empty()) continue;
    if (const auto ok = check_writable(file); !ok) return fail(file, ok.error());
  }
  const auto with = read_comparing(arguments);
  if (!with) return fail(arguments.reference, with.error());
  std::optional<eval_store> store;
  if (arguments.resume) {
    auto opened = eval_store::open(arguments.json, arguments.seed);
    if (!opened) return fail(arguments.json, opened.error());
    store = std::move(*opened);
  }
  kvfit::thread_pool pool(arguments.threads);
  check_threads(pool, arguments.threads);

  evaluation measured;
  measured.seed = arguments.seed;
  measured.threads = pool.threads();
  for (const std::string& path : arguments.captures) {
    const auto capture = kvfit::read_capture(path);
    if (!capture) return fail(path, capture.error());
    for (const double ratio : arguments.ratios) {
      if (const auto ok = check_ratio(*capture, ratio); !ok) return fail(path, ok.error());
    }
    measured.captures.push_back(facts_of(*capture, path));
    if (const auto ok = check_reference(*with, arguments, *capture, measured.captures.back());
        !ok) {
      return fail(path, ok.error());
    }
    if (store) {
      if (const auto ok = store->check(measured.captures.back()); !ok) {
        return fail(arguments.json, ok.error());
      }
    }
    if (!has_test_queries(*capture)) {
      if (!arguments.requirements.empty()) {
        return fail(path, {kvfit::errc::missing_entry, "q_test", kvfit::error::none,
                           kvfit::error::none, "--require is about test queries alone"});
      }
      warn(path + ": no test queries (q_test): showing the compactions' own errors instead");
    }
    const auto done = measure(*capture, arguments, *with, store, pool, measured);
    if (!done && done.error().code == kvfit::errc::cancelled && store &&
        std::filesystem::exists(arguments.json)) {
      warn("interrupted; finished rows are in " + arguments.json +
           ", and the same command goes on");
      return exit_interrupted;
    }
    if (!done) return fail(path, done.error());
  }
  compare_all(measured, *with);

  std::fputs(to_table(measured).c_str(), stdout);
  if (!arguments.json.empty()) {
    const auto ok = store ? store->write(measured) : write_text(arguments.json, to_json(measured));
    if (!ok) return fail(arguments.json, ok.error());
  }
  if (!arguments.svg.empty()) {
    if (const auto ok = write_text(arguments.svg, to_plot(measured)); !ok) {
      return fail(arguments.svg, ok.error());
    }
  }
  if (!arguments.html.empty()) {
    if (const auto ok = write_text(arguments.html, to_html(measured)); !ok) {
      return fail(arguments.html, ok.error());
    }
  }
  return report_requirements(arguments.requirements, judged_rows(measured));
}

}  // namespace kvfit_tool
