// SPDX-License-Identifier: MIT
#include "measure/engine_eval.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include "cli/without_bad_alloc.hpp"
#include "kvfit/cache/allocate.hpp"
#include "kvfit/queries/prefill.hpp"
#include "measure/engine_budgets.hpp"
#include "measure/engine_queries.hpp"
#include "measure/heads.hpp"

namespace kvfit_tool {

namespace {

using kvfit::errc;
using kvfit::error;
using kvfit::index_t;
using kvfit::matrix;

/// All but those of a file.
constexpr std::pair<std::string_view, engine_budgets> named_budgets[] = {
    {"uniform", engine_budgets::uniform},
    {"measured", engine_budgets::measured},
    {"measured_facts", engine_budgets::measured_facts},
    {"global", engine_budgets::global},
    {"adakv", engine_budgets::adakv}};

error in(const document& of, error cause) {
  cause.argument = cause.argument.empty() ? of.name : of.name + ": " + cause.argument;
  return cause;
}

/// A document whose prefix has been read; what is said over the full cache is what all is held
/// against.
struct prepared {
  const document* of = nullptr;
  kvfit::prefilled prefix;
  kvfit::cache_view full = {};  ///< refers to `prefix`
  /// One a setting; settings of one source share them.
  std::vector<std::shared_ptr<const kvfit::reference_queries>> queries;
  std::vector<kvfit::reference_queries> of_first;  ///< of the prefix's first half, for two rounds
  std::vector<double> query_seconds;
  std::vector<matrix> logits;  ///< a passage each, of its scored rows
  said_parts said;

  [[nodiscard]] index_t length() const { return static_cast<index_t>(of->prefix.size()); }
};

/// All that documents are measured with.
struct measurement {
  const model_reader& read;
  const engine_plan& plan;
  const std::vector<std::optional<share_curves>>& curves;  ///< one a setting
  const std::vector<const document*>& measured_on;         ///< the curves
  /// Made when curves were measured: one a setting and document; each is taken once.
  std::vector<std::vector<made_queries>>& known;
};

/// Logits of the scored rows of a passage read behind `past`.
kvfit::result<matrix> read_passage(const model_reader& read, const passage& of,
                                   const kvfit::cache_prefix& past) {
  kvfit::live_cache live(read.shapes(), past.positions);
  const auto hidden = read.read(past, live, of.tokens);
  if (!hidden) return hidden.error();
  const matrix scored = hidden->middleRows(of.first_row, static_cast<index_t>(of.targets.size()));
  return read.model().logits(scored);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The rows of tokens first … first + count − 1, by reference.
kvfit::cache_view part_of(const kvfit::cache_view& full, index_t first, index_t count) {
  kvfit::cache_view part = full;
  for (kvfit::cache_layer& layer : part.layers) {
    for (kvfit::kv_block& head : layer.heads) {
      head.keys = head.keys.middle_rows(first, count);
      head.values = head.values.middle_rows(first, count);
      head.first_position += first;
    }
  }
  return part;
}

/// The first setting that has the queries of setting `s`.
std::size_t first_of_source(const engine_plan& plan, std::size_t s) {
  std::size_t first = 0;
  while (plan.settings[first].queries != plan.settings[s].queries) ++first;
  return first;
}

/// Makes the queries of one setting, or takes those that are made already.
kvfit::result<void> ask_whole(const measurement& with, const asked_text& text, prepared& made,
                              std::size_t s) {
  if (const std::size_t first = first_of_source(with.plan, s); first < s) {
    made.queries[s] = made.queries[first];
    made.query_seconds[s] = made.query_seconds[first];
    return {};
  }
  const auto& on = with.measured_on;
  const auto place = std::find(on.begin(), on.end(), made.of) - on.begin();
  if (place < std::ssize(with.known[s])) {
    made_queries& known = with.known[s][static_cast<std::size_t>(place)];
    made.queries[s] = std::make_shared<const kvfit::reference_queries>(std::move(known.queries));
    made.query_seconds[s] = known.seconds;
    return {};
  }
  const auto start = std::chrono::steady_clock::now();
  auto queries = gather(with.read, made.of->prefix, kvfit::prefix_of(made.prefix.cache), text,
                        *with.plan.settings[s].queries);
  if (!queries) return queries.error();
  made.queries[s] = std::make_shared<const kvfit::reference_queries>(std::move(*queries));
  made.query_seconds[s] = seconds_since(start);
  return {};
}

/// Makes the queries of the prefix's first half, where a row of the setting takes two rounds.
kvfit::result<void> ask_half(const measurement& with, const asked_text& text, prepared& made,
                             std::size_t s) {
  const bool has_rounds =
      std::any_of(with.plan.rows.begin(), with.plan.rows.end(),
                  [s](const engine_row_plan& row) { return row.setting == s && row.rounds > 1; });
  if (!has_rounds) return {};
  const index_t half = made.length() / 2;
  const auto before = kvfit::prefix_of(part_of(made.full, 0, half), with.read.layers(), half);
  if (!before) return before.error();
  asked_text first = text;
  first.tokens = text.tokens.first(static_cast<std::size_t>(half));
  auto of_first = gather(with.read, first.tokens, *before, first, *with.plan.settings[s].queries);
  if (!of_first) return of_first.error();
  made.of_first[s] = std::move(*of_first);
  return {};
}

/// Makes the queries of all settings that rows of the plan use.
kvfit::result<void> ask(const measurement& with, const asked_text& text, prepared& made) {
  const std::size_t settings = with.plan.settings.size();
  made.queries.resize(settings);
  made.of_first.resize(settings);
  made.query_seconds.assign(settings, 0);
  for (std::size_t s = 0; s < settings; ++s) {
    if (const auto ok = ask_whole(with, text, made, s); !ok) return ok;
    if (const auto ok = ask_half(with, text, made, s); !ok) return ok;
  }
  return {};
}

kvfit::result<std::unique_ptr<prepared>> prepare(const measurement& with, const document& of,
                                                 const asked_text& text) {
  auto prefix = kvfit::prefill(with.read, of.prefix);
  if (!prefix) return prefix.error();
  auto made = std::make_unique<prepared>();  // its view refers to it
  made->of = &of;
  made->prefix = std::move(*prefix);
  made->full = std::as_const(made->prefix.cache).view();
  if (const auto ok = ask(with, text, *made); !ok) return ok.error();
  const kvfit::cache_prefix full = kvfit::prefix_of(made->prefix.cache);
  for (const passage& each : of.passages) {
    auto logits = read_passage(with.read, each, full);
    if (!logits) return logits.error();
    made->said.add(each, llama::compare(each.targets, *logits, *logits));
    made->logits.push_back(std::move(*logits));
  }
  return made;
}

/// One document under one candidate at one ratio.
struct item_score {
  said_parts said;
  double seconds = 0;
};

/// The heads of a cache and how many rows each has.
std::vector<kvfit::head_rows> heads_with(const kvfit::cache_view& cache,
                                         const std::function<index_t(std::size_t)>& rows) {
  std::vector<kvfit::head_rows> heads;
  for (const kvfit::cache_layer& layer : cache.layers) {
    for (index_t h = 0; h < static_cast<index_t>(layer.heads.size()); ++h) {
      heads.push_back({{layer.number, h}, rows(heads.size())});
    }
  }
  return heads;
}

/// Rows for every head: `each` of them on average. length: of the text that the heads' rows stand
/// for.
kvfit::result<std::vector<index_t>> rows_for(const std::vector<kvfit::head_rows>& heads,
                                             index_t length, index_t each,
                                             const engine_setting& setting,
                                             const std::optional<share_curves>& curves) {
  const index_t total = each * static_cast<index_t>(heads.size());
  if (setting.budgets == engine_budgets::uniform) return std::vector<index_t>(heads.size(), each);
  if (setting.budgets == engine_budgets::given) {
    return kvfit::allocate(heads, total, kvfit::budgets::given{setting.shares}, {.at_least = 1});
  }
  kvfit::budgets::influence by;
  for (std::size_t h = 0; h < heads.size(); ++h) by.curves.push_back(curves->of(h, length));
  // Below its first point a curve says nothing, so no head is left with less.
  const index_t least = std::max<index_t>(1, std::min(each, by.curves[0].points[0].rows));
  return kvfit::allocate(heads, total, by, {.at_least = least});
}

budget_judges judged_by(engine_budgets budgets) {
  return budgets == engine_budgets::measured_facts ? budget_judges::text_and_facts
                                                   : budget_judges::text;
}

/// Which keys are ranked together to share rows out; none: no ranking does.
std::optional<ranked_together> ranking_of(engine_budgets budgets) {
  if (budgets == engine_budgets::global) return ranked_together::all_heads;
  if (budgets == engine_budgets::adakv) return ranked_together::heads_of_a_layer;
  return std::nullopt;
}

/// A cache to read on over, and what it was made of.
struct small_cache {
  std::shared_ptr<const kvfit::compacted_cache> block;
  double seconds = 0;
};

kvfit::result<small_cache> compact_whole(const measurement& with, const prepared& at,
                                         const engine_row_plan& row, const head_plan& plan) {
  const engine_setting& setting = with.plan.settings[row.setting];
  const auto start = std::chrono::steady_clock::now();
  const index_t length = at.length();
  const index_t each = budget_at(length, row.ratio);
  const auto heads = heads_with(at.full, [&](std::size_t) { return length; });
  const kvfit::cache_queries queries = at.queries[row.setting]->view();
  const auto compact = [&]() -> kvfit::result<kvfit::compacted_cache> {
    if (const auto within = ranking_of(setting.budgets)) {
      const index_t total = each * static_cast<index_t>(heads.size());
      return compact_ranked(at.full, queries, plan, *within, total);
    }
    auto rows = rows_for(heads, length, each, setting, with.curves[row.setting]);
    if (!rows) return rows.error();
    return compact_all(at.full, queries, plan, std::move(*rows));
  };
  auto small = compact();
  if (!small) return small.error();
  return small_cache{std::make_shared<const kvfit::compacted_cache>(std::move(*small)),
                     seconds_since(start)};
}

/// Twice, each time to the same size: what the first half is read to, and what comes of it and the
/// second half, which the model reads over it.
kvfit::result<small_cache> compact_twice(const measurement& with, const prepared& at,
                                         const engine_row_plan& row, const head_plan& plan) {
  const engine_setting& setting = with.plan.settings[row.setting];
  const auto& curves = with.curves[row.setting];
  const index_t half = at.length() / 2;
  const kvfit::cache_view first = part_of(at.full, 0, half);
  small_cache made;
  auto start = std::chrono::steady_clock::now();
  const index_t each = budget_at(at.length(), row.ratio);
  auto rows = rows_for(heads_with(first, [&](std::size_t) { return half; }), half,
                       std::min(each, half), setting, curves);
  if (!rows) return rows.error();
  auto block = compact_again(nullptr, first, 0, at.of_first[row.setting].view(), plan, *rows);
  if (!block) return block.error();
  made.seconds = seconds_since(start);

  auto before = kvfit::prefix_of(first, with.read.layers(), half);
  if (!before) return before.error();
  const auto over = kvfit::compacted_prefix(std::move(*before), **block);
  if (!over) return over.error();
  kvfit::live_cache live(with.read.shapes(), half);
  const auto tokens = std::span(at.of->prefix).subspan(static_cast<std::size_t>(half));
  const auto hidden = with.read.read(*over, live, tokens);
  if (!hidden) return hidden.error();

  start = std::chrono::steady_clock::now();
  const std::vector<index_t> held = std::move(*rows);  // and what has come since
  rows = rows_for(heads_with(first, [&](std::size_t h) { return held[h] + at.length() - half; }),
                  at.length(), each, setting, curves);
  if (!rows) return rows.error();
  auto again = compact_again(*block, live.view(), half, at.queries[row.setting]->view(), plan,
                             std::move(*rows));
  if (!again) return again.error();
  made.block = std::move(*again);
  made.seconds += seconds_since(start);
  return made;
}

kvfit::result<item_score> score(const measurement& with, const prepared& at,
                                const engine_row_plan& row) {
  const head_plan plan{.what = row.what, .seed = with.plan.seed};
  const auto small =
      row.rounds > 1 ? compact_twice(with, at, row, plan) : compact_whole(with, at, row, plan);
  if (!small) return small.error();
  const auto past = kvfit::compacted_prefix(kvfit::prefix_of(at.prefix.cache), *small->block);
  if (!past) return past.error();
  item_score made{.said = {}, .seconds = small->seconds};
  for (std::size_t p = 0; p < at.of->passages.size(); ++p) {
    const passage& each = at.of->passages[p];
    const auto logits = read_passage(with.read, each, *past);
    if (!logits) return logits.error();
    made.said.add(each, llama::compare(each.targets, at.logits[p], *logits));
  }
  return made;
}

void add_to(engine_row& row, const said_parts& said, double seconds) {
  row.said.add(said);
  row.seconds += seconds;
  ++row.documents;
}

/// A ranking is of one round.
kvfit::result<void> check_rounds(const engine_plan& plan) {
  for (const engine_row_plan& row : plan.rows) {
    const engine_setting& setting = plan.settings[row.setting];
    if (row.rounds == 1 || !ranking_of(setting.budgets)) continue;
    return error{errc::invalid_option, "rounds", row.rounds, 1,
                 "no rows are ranked over heads in several rounds: " + setting.budgets_name()};
  }
  return {};
}

/// Every ratio leaves every document a row.
kvfit::result<void> check_ratios(const std::vector<const document*>& documents,
                                 const engine_plan& plan) {
  for (const document* each : documents) {
    const auto rows = static_cast<index_t>(each->prefix.size());
    for (const engine_row_plan& row : plan.rows) {
      if (budget_at(rows, row.ratio) >= 1) continue;
      return error{errc::budget_out_of_range, each->name, 0, 1,
                   "the ratio leaves none of " + std::to_string(rows) + " rows"};
    }
  }
  return {};
}

/// The first `most` texts and recall documents; 0: all.
std::vector<const document*> first_of(const std::vector<document>& documents, index_t most) {
  std::vector<const document*> taken;
  index_t texts = 0;
  index_t recall = 0;
  for (const document& each : documents) {
    index_t& count = each.is_recall ? recall : texts;
    if (most == 0 || count < most) taken.push_back(&each);
    ++count;
  }
  return taken;
}

/// The first document of each kind.
std::vector<const document*> calibrating(const std::vector<const document*>& documents) {
  std::vector<const document*> taken;
  for (const bool is_recall : {false, true}) {
    const auto found = std::find_if(documents.begin(), documents.end(), [&](const document* each) {
      return each->is_recall == is_recall;
    });
    if (found != documents.end()) taken.push_back(*found);
  }
  return taken;
}

/// `label_of` the candidate, and what of the setting is not the first one's.
std::string label_in(const engine_plan& plan, const engine_row_plan& row) {
  const engine_setting& first = plan.settings.front();
  const engine_setting& own = plan.settings[row.setting];
  const bool has_first_queries = own.queries == first.queries;
  const bool has_first_budgets = own.budgets_name() == first.budgets_name();
  return label_of(row.what, has_first_queries ? "" : std::string(own.queries->name),
                  has_first_budgets ? "" : own.budgets_name(), row.rounds);
}

}  // namespace

std::optional<engine_budgets> find_budgets(std::string_view name) {
  const auto found = std::find_if(std::begin(named_budgets), std::end(named_budgets),
                                  [&](const auto& each) { return each.first == name; });
  if (found == std::end(named_budgets)) return std::nullopt;
  return found->second;
}

std::string engine_setting::budgets_name() const {
  const auto found = std::find_if(std::begin(named_budgets), std::end(named_budgets),
                                  [&](const auto& each) { return each.second == budgets; });
  return found == std::end(named_budgets) ? file : std::string(found->first);
}

double engine_row::kl() const {
  return said.text.mean_kl();
}
double engine_row::top1() const {
  return said.text.top1();
}
double engine_row::recall() const {
  return said.answers.recall();
}
double engine_row::answer_kl() const {
  return said.answers.mean_kl();
}
double engine_row::off_context_kl() const {
  return said.off_context.mean_kl();
}
double engine_row::seconds_each() const {
  return llama::mean_of(seconds, documents);
}
double engine_row::perplexity_change(const engine_row& full) const {
  return std::expm1(llama::mean_of(said.text.loss - full.said.text.loss, said.text.tokens));
}

index_t evaluations_of(const llama::model& engine, const std::vector<document>& documents,
                       const engine_plan& plan) {
  const std::vector<const document*> taken = first_of(documents, plan.documents);
  const auto measured =
      std::count_if(plan.settings.begin(), plan.settings.end(),
                    [](const engine_setting& each) { return needs_curves(each.budgets); });
  return static_cast<index_t>(taken.size() * (1 + plan.rows.size())) +
         measured * measuring_steps(engine, calibrating(taken).size());
}

kvfit::result<engine_evaluation> evaluate(const llama::model& engine,
                                          const llama::tokenizer& tokenizer,
                                          const std::vector<document>& all_documents,
                                          const engine_plan& plan, kvfit::thread_pool& pool,
                                          const kvfit::watch& by) {
  const std::vector<const document*> documents = first_of(all_documents, plan.documents);
  if (const auto ok = check_ratios(documents, plan); !ok) return ok.error();
  if (const auto ok = check_rounds(plan); !ok) return ok.error();
  const auto read = kvfit::make_reader(engine);
  if (!read) return read.error();
  engine_evaluation made;
  made.layers = engine.layers();
  made.seed = plan.seed;
  made.threads = pool.threads();
  for (index_t l = 0; l < engine.layers(); ++l) made.heads += engine.shape(l).kv_heads;
  made.full = {.what = {.method = "full"}, .label = "full"};
  for (const engine_row_plan& row : plan.rows) {
    made.rows.push_back({.what = row.what,
                         .label = label_in(plan, row),
                         .setting = row.setting,
                         .rounds = row.rounds,
                         .ratio = row.ratio});
  }
  const auto text_of = [&](const document& of) {
    return asked_of(of, all_documents, tokenizer, plan.stop);
  };

  const index_t all = evaluations_of(engine, all_documents, plan);
  index_t before = 0;  // items of earlier rounds
  std::vector<std::optional<share_curves>> curves(plan.settings.size());
  std::vector<std::vector<made_queries>> known(plan.settings.size());
  const std::vector<const document*> on = calibrating(documents);
  for (std::size_t s = 0; s < plan.settings.size(); ++s) {
    const engine_setting& setting = plan.settings[s];
    engine_setting_facts& facts = made.settings.emplace_back();
    facts.queries = setting.queries->name;
    facts.budgets = setting.budgets_name();
    if (!needs_curves(setting.budgets)) continue;
    std::vector<asked_text> texts;
    for (const document* each : on) texts.push_back(text_of(*each));
    auto measured =
        measure_curves(engine, on, texts, *setting.queries, judged_by(setting.budgets), pool, [&] {
          if (by.cancel != nullptr && by.cancel->is_requested()) return false;
          ++before;
          if (by.progress) by.progress(before, all);
          return true;
        });
    if (!measured) return measured.error();
    facts.budget_seconds = measured->seconds;
    known[s] = std::move(measured->queries);
    curves[s] = std::move(*measured);
  }
  const measurement with{*read, plan, curves, on, known};

  const auto watched = [&] {
    kvfit::watch here{.cancel = by.cancel};
    if (by.progress)
      here.progress = [&](index_t done, index_t) { by.progress(before + done, all); };
    return here;
  };
  const auto at_once = static_cast<std::size_t>(pool.threads());
  for (std::size_t first = 0; first < documents.size(); first += at_once) {
    const std::size_t count = std::min(at_once, documents.size() - first);
    std::vector<std::optional<kvfit::result<std::unique_ptr<prepared>>>> ready(count);
    const auto readied = kvfit::run_watched(
        pool, static_cast<index_t>(count),
        [&](index_t i) noexcept {
          const auto at = static_cast<std::size_t>(i);
          ready[at].emplace(without_bad_alloc("engine", [&] {
            const document& of = *documents[first + at];
            return prepare(with, of, text_of(of));
          }));
        },
        watched());
    for (std::size_t d = 0; d < count; ++d) {
      if (ready[d] && !*ready[d]) return in(*documents[first + d], ready[d]->error());
    }
    if (!readied) return readied.error();
    before += static_cast<index_t>(count);

    const std::size_t rows = plan.rows.size();
    std::vector<std::optional<kvfit::result<item_score>>> scores(count * rows);
    const auto items = static_cast<index_t>(scores.size());
    const auto done = kvfit::run_watched(
        pool, items,
        [&](index_t i) noexcept {
          // From the end, where the slowest methods stand.
          const auto at = static_cast<std::size_t>(items - 1 - i);
          scores[at].emplace(without_bad_alloc(
              "engine", [&] { return score(with, ***ready[at % count], plan.rows[at / count]); }));
        },
        watched());
    for (std::size_t i = 0; i < scores.size(); ++i) {
      if (scores[i] && !*scores[i]) return in(*documents[first + i % count], scores[i]->error());
    }
    if (!done) return done.error();
    before += items;
    for (std::size_t d = 0; d < count; ++d) {
      const document& of = *documents[first + d];
      const prepared& at = ***ready[d];
      add_to(made.full, at.said, 0);
      ++(of.is_recall ? made.recall_documents : made.texts);
      made.prefix = std::max(made.prefix, static_cast<index_t>(of.prefix.size()));
      for (std::size_t s = 0; s < plan.settings.size(); ++s) {
        made.settings[s].query_seconds +=
            at.query_seconds[s] / static_cast<double>(documents.size());
      }
      for (std::size_t r = 0; r < rows; ++r) {
        const item_score& one = **scores[r * count + d];
        add_to(made.rows[r], one.said,
               one.seconds + made.settings[plan.rows[r].setting].budget_seconds /
                                 static_cast<double>(documents.size()));
      }
    }
  }
  for (std::size_t s = 0; s < plan.settings.size(); ++s) {
    if (!curves[s]) continue;
    constexpr index_t length = 1024;
    std::vector<kvfit::head_rows> heads;
    for (index_t l = 0; l < engine.layers(); ++l) {
      for (index_t h = 0; h < engine.shape(l).kv_heads; ++h) heads.push_back({{l, h}, length});
    }
    const auto rows = rows_for(heads, length, length / 20, plan.settings[s], curves[s]);
    if (!rows) return rows.error();
    for (const index_t each : *rows) {
      made.settings[s].shares.push_back(static_cast<double>(each) /
                                        static_cast<double>(length / 20 * made.heads));
    }
  }
  return made;
}

}  // namespace kvfit_tool
