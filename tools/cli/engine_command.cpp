// SPDX-License-Identifier: MIT
#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>

#include "cli/commands.hpp"
#include "cli/exit_code.hpp"
#include "cli/interrupt.hpp"
#include "cli/output_file.hpp"
#include "cli/progress.hpp"
#include "cli/say.hpp"
#include "kvfit/io/budgets_file.hpp"
#include "measure/engine_eval.hpp"
#include "measure/engine_output.hpp"
#include "measure/figures.hpp"

namespace kvfit_tool {

int run_engine_eval(const engine_arguments& arguments) {
  for (const std::string& file : {arguments.json, arguments.svg}) {
    if (file.empty()) continue;
    if (const auto ok = check_writable(file); !ok) return fail(file, ok.error());
  }
  const std::filesystem::path folder = arguments.folder;
  const auto engine = llama::model::load(folder);
  if (!engine) return fail(arguments.folder, engine.error());
  const auto tokenizer = llama::tokenizer::load(folder / "vocab.json", folder / "merges.txt");
  if (!tokenizer) return fail(arguments.folder, tokenizer.error());
  if (static_cast<kvfit::index_t>(tokenizer->size()) != engine->vocabulary()) {
    return fail(arguments.folder, {kvfit::errc::shape_mismatch, (folder / "vocab.json").string(),
                                   static_cast<kvfit::index_t>(tokenizer->size()),
                                   engine->vocabulary(), "tokens; vocab_size of config.json"});
  }
  const auto stop = static_cast<llama::token>(engine->sizes().eos_token_id);
  const auto documents = read_documents(
      folder, *tokenizer, static_cast<llama::token>(engine->sizes().bos_token_id), {});
  if (!documents) return fail(arguments.folder, documents.error());

  engine_plan plan{.rows = {},
                   .settings = {},
                   .documents = arguments.documents,
                   .stop = stop,
                   .seed = arguments.seed};
  for (const engine_pair& pair : arguments.pairs) {
    engine_setting& setting = plan.settings.emplace_back();
    setting.queries = find_query_source(pair.queries);
    if (const auto named = find_budgets(pair.budgets)) {
      setting.budgets = *named;
      continue;
    }
    auto shares = kvfit::read_budgets_file(pair.budgets);
    if (!shares) return fail(pair.budgets, shares.error());
    setting.budgets = engine_budgets::given;
    setting.file = pair.budgets;
    setting.shares = std::move(*shares);
  }
  for (std::size_t s = 0; s < plan.settings.size(); ++s) {
    for (const int rounds : {1, 2}) {
      for (const candidate& what : rounds == 1 ? arguments.candidates : arguments.rolling) {
        if (!arguments.pairs[s].runs(what.method)) continue;
        for (const double ratio : arguments.ratios) plan.rows.push_back({what, ratio, s, rounds});
      }
    }
  }
  kvfit::thread_pool pool(arguments.threads);
  check_threads(pool, arguments.threads);
  kvfit::result<engine_evaluation> measured = [&] {
    progress_bar bar(evaluations_of(*engine, *documents, plan), "caches made and read over");
    bar.show(0);
    return evaluate(
        *engine, *tokenizer, *documents, plan, pool,
        {.cancel = &interrupt(),
         .progress = [&bar](kvfit::index_t count, kvfit::index_t) { bar.show(count); }});
  }();
  if (!measured) return fail(arguments.folder, measured.error());
  measured->folder = arguments.folder;

  std::fputs(to_table(*measured).c_str(), stdout);
  if (!arguments.json.empty()) {
    if (const auto ok = write_text(arguments.json, to_json(*measured)); !ok) {
      return fail(arguments.json, ok.error());
    }
  }
  if (!arguments.svg.empty()) {
    if (const auto ok = write_text(arguments.svg, to_plot(*measured)); !ok) {
      return fail(arguments.svg, ok.error());
    }
  }
  return report_requirements(arguments.requirements, judged_rows(*measured));
}

}  // namespace kvfit_tool
