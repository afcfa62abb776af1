// SPDX-License-Identifier: MIT
// Compacts a llama.cpp cache, puts it back, and says what the model lost by it.
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "llama_cpp/evaluation.hpp"
#include "llama_cpp/measured_budgets.hpp"

namespace {

using kvfit::error;
using kvfit::index_t;
using kvfit::result;
using llama_cpp::row;

constexpr const char* usage =
    R"(usage: kvfit_llama MODEL.gguf [--text FILE]... [--recall FILE.jsonl] [OPTION VALUE]...

Reads texts, compacts their caches, puts each compact cache back into llama.cpp and reads on:
KL to the full cache, perplexity, first choices, answers right.

  --text FILE          a text: a prefix, and the continuation behind it; several may be given
  --recall FILE        lines of {"prefix", "questions": [{"q", "a"}]}
  --documents N        so many of them (4)
  --context N          tokens of a text's prefix (1024)
  --continuation N     tokens behind it (512)
  --methods A,B        of `kvfit methods` (default)
  --ratios R,S         rows before over rows after (5,20)
  --bias exact|none    exact: biases of every head; none: fused attention, methods fitted without
                       biases (exact)
  --flash on|off       fused attention; with biases, layers that have some are computed anew (off)
  --shares NAME        rows among heads: uniform, pyramid, global, or measured on --measure (uniform)
  --measure FILE       a text to measure budgets on; several may be given. With --recall, two of its
                       documents behind those judged are measured on, too
  --asked NAME         reference queries: repeat, context, or a mixture (repeat)
  --question TEXT      of a mixture: asked of every capitalised word, "{}" in its place (none)
  --queries N          tokens at most whose queries are kept (1024)
  --cache TYPE         f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1 or iq4_nl (f16)
  --keys TYPE          of keys alone; --values TYPE of values; blocks of values need --flash on
  --copy-failed yes|no rows of heads whose method fails are copied, and counted (no)
  --threads N          (2)
  --generate N         say N tokens behind each text, full and compact (0)
  --json FILE          the rows
)";

struct arguments {
  std::string model;
  std::vector<std::string> texts;
  std::vector<std::string> measured_texts;
  bool is_measured = false;
  std::string recall;
  index_t documents = 4;
  index_t context = 1024;
  index_t continuation = 512;
  index_t generate = 0;
  int threads = 2;
  ggml_type keys = GGML_TYPE_F16;
  ggml_type values = GGML_TYPE_F16;
  bool is_flash = false;
  llama_cpp::evaluation_plan plan;
  std::string json;
};

error wrong(std::string_view option, std::string_view value) {
  return {kvfit::errc::invalid_option, std::string(option), error::none, error::none,
          "not understood: " + std::string(value)};
}

template <class Number>
bool read_number(std::string_view text, Number least, Number& to) {
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), to);
  return failure == std::errc() && end == text.data() + text.size() && to >= least;
}

std::vector<std::string_view> parts_of(std::string_view list) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t comma = list.find(',');
    parts.push_back(list.substr(0, comma));
    if (comma == std::string_view::npos) return parts;
    list.remove_prefix(comma + 1);
  }
}

bool read_methods(std::string_view list, arguments& to) {
  to.plan.methods.clear();
  for (const std::string_view name : parts_of(list)) {
    const auto found = kvfit::presets::find(name);
    if (!found) return false;
    to.plan.methods.push_back(*found);
  }
  return true;
}

bool read_ratios(std::string_view list, arguments& to) {
  to.plan.ratios.clear();
  for (const std::string_view text : parts_of(list)) {
    if (!read_number(text, 1.0, to.plan.ratios.emplace_back())) return false;
  }
  return true;
}

bool read_shares(std::string_view name, arguments& to) {
  if (name == "uniform") {
    to.plan.shares = kvfit::budgets::uniform{};
  } else if (name == "pyramid") {
    to.plan.shares = kvfit::budgets::pyramid{};
  } else if (name == "measured") {
    to.is_measured = true;
  } else if (name == "global") {
    to.plan.shares = kvfit::budgets::global_ranking{};
  } else {
    return false;
  }
  return true;
}

/// ggml's name of a type; whether a cache can be of it, the session tells.
bool read_type(std::string_view name, ggml_type& to) {
  for (int type = 0; type < GGML_TYPE_COUNT; ++type) {
    const char* const known = ggml_type_name(static_cast<ggml_type>(type));
    if (known == nullptr || name != known) continue;
    to = static_cast<ggml_type>(type);
    return true;
  }
  return false;
}

bool read_option(std::string_view option, std::string_view value, arguments& to) {
  const auto choice = [&](auto yes, auto no, auto& chosen, std::string_view first,
                          std::string_view second) {
    chosen = value == first ? yes : no;
    return value == first || value == second;
  };
  using llama_cpp::query_text;
  if (option == "--text") return !to.texts.emplace_back(value).empty();
  if (option == "--measure") return !to.measured_texts.emplace_back(value).empty();
  if (option == "--question") {
    to.plan.mixed.question = value;
    return value.find("{}") != std::string_view::npos;
  }
  if (option == "--recall") return !(to.recall = value).empty();
  if (option == "--json") return !(to.json = value).empty();
  if (option == "--documents") return read_number<index_t>(value, 1, to.documents);
  if (option == "--context") return read_number<index_t>(value, 1, to.context);
  if (option == "--continuation") return read_number<index_t>(value, 2, to.continuation);
  if (option == "--generate") return read_number<index_t>(value, 0, to.generate);
  if (option == "--threads") return read_number(value, 1, to.threads);
  if (option == "--queries") return read_number<index_t>(value, 1, to.plan.queries);
  if (option == "--methods") return read_methods(value, to);
  if (option == "--ratios") return read_ratios(value, to);
  if (option == "--shares") return read_shares(value, to);
  if (option == "--cache") return read_type(value, to.keys) && read_type(value, to.values);
  if (option == "--keys") return read_type(value, to.keys);
  if (option == "--values") return read_type(value, to.values);
  if (option == "--flash") return choice(true, false, to.is_flash, "on", "off");
  if (option == "--bias") return choice(true, false, to.plan.with_bias, "exact", "none");
  if (option == "--copy-failed") return choice(true, false, to.plan.copies_failed, "yes", "no");
  if (option == "--asked") {
    to.plan.asked = value == "mixture"
                        ? query_text::mixture
                        : (value == "context" ? query_text::context : query_text::repeat);
    return value == "mixture" || value == "context" || value == "repeat";
  }
  return false;
}

result<arguments> read_arguments(std::span<char*> given) {
  arguments made;
  made.plan.ratios = {5, 20};
  read_methods("default", made);
  if (given.empty()) return wrong("MODEL.gguf", "none given");
  made.model = given[0];
  for (std::size_t i = 1; i < given.size(); i += 2) {
    const std::string_view value = i + 1 < given.size() ? given[i + 1] : "";
    if (value.empty() || !read_option(given[i], value, made)) return wrong(given[i], value);
  }
  if (made.texts.empty() && made.recall.empty()) return wrong("--text", "none given");
  return made;
}

result<std::vector<llama_cpp::document>> read_documents(const llama_cpp::session& model,
                                                        const arguments& given) {
  std::vector<llama_cpp::document> all;
  for (const std::string& path : given.texts) {
    auto one = llama_cpp::read_text_document(model, path, given.context, given.continuation);
    if (!one) return one.error();
    all.push_back(std::move(*one));
  }
  if (!given.recall.empty()) {
    auto more = llama_cpp::read_recall_documents(model, given.recall, given.documents);
    if (!more) return more.error();
    for (auto& one : *more) all.push_back(std::move(one));
  }
  return all;
}

/// Documents to measure budgets on: none of those that are judged.
result<std::vector<llama_cpp::document>> read_measured(const llama_cpp::session& model,
                                                       const arguments& given) {
  std::vector<llama_cpp::document> all;
  for (const std::string& path : given.measured_texts) {
    auto one = llama_cpp::read_text_document(model, path, given.context, given.continuation);
    if (!one) return one.error();
    all.push_back(std::move(*one));
  }
  if (given.recall.empty()) return all;
  auto more = llama_cpp::read_recall_documents(model, given.recall, given.documents + 2);
  if (!more) return more.error();
  for (auto i = static_cast<std::size_t>(given.documents); i < more->size(); ++i) {
    all.push_back(std::move((*more)[i]));
  }
  return all;
}

/// What the model says by itself, always its first choice, behind what the cache holds. The text's
/// own first token starts it.
result<std::string> continuation(llama_cpp::session& model, const llama_cpp::document& of,
                                 index_t most) {
  const auto length = static_cast<index_t>(of.prefix.size());
  std::vector<llama_cpp::token> said;
  llama_cpp::token next = of.passages.front().tokens.front();
  for (index_t i = 0; i < most; ++i) {
    said.push_back(next);
    const auto logits = model.read({&next, 1}, length + i, 0);
    if (!logits) return logits.error();
    index_t chosen = 0;
    logits->row(0).maxCoeff(&chosen);
    next = static_cast<llama_cpp::token>(chosen);
    if (model.ends(next)) break;
  }
  if (const auto ok = model.rewind(); !ok) return ok.error();
  return model.text_of(said);
}

result<void> generate(llama_cpp::session& model, const llama_cpp::document& of,
                      const arguments& given, const llama_cpp::evaluation_plan& plan,
                      kvfit::thread_pool& pool) {
  const auto ready = llama_cpp::prepare(model, of, plan);
  if (!ready) return ready.error();
  const auto whole = continuation(model, of, given.generate);
  if (!whole) return whole.error();
  std::printf("\n%s, full cache:%s\n", of.name.c_str(), whole->c_str());
  for (const auto& method : given.plan.methods) {
    for (const double ratio : given.plan.ratios) {
      const auto small = llama_cpp::compact(model, *ready, method, ratio, plan, pool);
      if (!small) return small.error();
      const auto ok = model.put_back(ready->full, *small, plan.with_bias);
      if (!ok) return ok.error();
      const auto said = continuation(model, of, given.generate);
      if (!said) return said.error();
      std::printf("\n%s, %s %gx:%s\n", of.name.c_str(), std::string(method.name).c_str(), ratio,
                  said->c_str());
    }
  }
  model.tap().clear_biases();
  return {};
}

void print_table(const std::vector<row>& rows) {
  std::printf("%-20s %6s %10s %10s %8s %8s %10s %7s %9s\n", "method", "ratio", "KL", "ppl", "top-1",
              "recall", "answer KL", "cells", "seconds");
  for (const row& each : rows) {
    std::printf("%-20s %6g %10.3g %9.2f%% %7.1f%% %7.1f%% %10.3g %6.1f%% %9.3f",
                each.method.c_str(), each.ratio, each.kl(),
                100 * each.perplexity_change(rows.front()), 100 * each.top1(), 100 * each.recall(),
                each.answer_kl(), 100 * each.cells, each.seconds_each());
    if (each.copied > 0) std::printf("  (%d heads copied)", static_cast<int>(each.copied));
    std::puts("");
  }
}

bool write_json(const std::vector<row>& rows, const arguments& given) {
  const auto number = [](double value) {
    return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json();
  };
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const row& each : rows) {
    all.push_back({{"method", each.method},
                   {"ratio", each.ratio},
                   {"kl", number(each.kl())},
                   {"ppl_change", number(each.perplexity_change(rows.front()))},
                   {"top1", number(each.top1())},
                   {"recall", number(each.recall())},
                   {"seconds", number(each.seconds_each())},
                   {"answer_kl", number(each.answer_kl())},
                   {"cells", each.cells},
                   {"copied", each.copied},
                   {"asked", given.plan.asked == llama_cpp::query_text::mixture   ? "mixture"
                             : given.plan.asked == llama_cpp::query_text::context ? "context"
                                                                                  : "repeat"},
                   {"measured", given.is_measured},
                   {"bias", given.plan.with_bias ? "exact" : "none"}});
  }
  std::ofstream file(given.json);
  file << all.dump(1) << '\n';
  return static_cast<bool>(file.flush());
}

result<void> run(const arguments& given) {
  const index_t most = 2 * given.context + given.continuation;
  auto model =
      llama_cpp::session::open(given.model, {.cells = std::max<index_t>(most, 4096),
                                             .threads = given.threads,
                                             .is_flash = given.is_flash || !given.plan.with_bias,
                                             .keys = given.keys,
                                             .values = given.values});
  if (!model) return model.error();
  const auto documents = read_documents(**model, given);
  if (!documents) return documents.error();
  kvfit::thread_pool pool(given.threads);
  const bool is_watched = isatty(STDERR_FILENO) != 0;
  const auto tell = [&](const std::string& done) {
    if (is_watched) std::fprintf(stderr, "\r\033[K%s", done.c_str());
  };
  llama_cpp::evaluation_plan plan = given.plan;
  if (given.is_measured) {
    const auto measured = read_measured(**model, given);
    if (!measured) return measured.error();
    auto curves = llama_cpp::measure_budgets(**model, *measured, plan, pool, tell);
    if (!curves) return curves.error();
    plan.measured = std::move(*curves);
  }
  const auto rows = llama_cpp::evaluate(**model, *documents, plan, pool, tell);
  if (is_watched) std::fputs("\r\033[K", stderr);
  if (!rows) return rows.error();
  print_table(*rows);
  if (!given.json.empty() && !write_json(*rows, given)) {
    return error{kvfit::errc::file_unwritable, given.json};
  }
  for (const auto& each : *documents) {
    if (given.generate == 0 || each.is_recall) continue;
    if (const auto ok = generate(**model, each, given, plan, pool); !ok) return ok;
  }
  return {};
}

}  // namespace

int main(int count, char** values) {
  const auto given = read_arguments(std::span(values, static_cast<std::size_t>(count)).subspan(1));
  if (!given) {
    std::fprintf(stderr, "kvfit_llama: %s\n\n%s", given.error().message().c_str(), usage);
    return 2;
  }
  const auto done = run(*given);
  if (done) return 0;
  std::fprintf(stderr, "kvfit_llama: %s\n", done.error().message().c_str());
  return 1;
}
