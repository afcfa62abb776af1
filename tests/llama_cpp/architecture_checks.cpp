// SPDX-License-Identifier: MIT
// The llama.cpp adaptor on tiny models of many architectures: the graph that each of them has, with
// random weights. What is checked of one is checked of all.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/said.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "llama_cpp/architectures.hpp"
#include "llama_cpp/evaluation.hpp"
#include "llama_cpp/tiny_models.hpp"
#include "support/catch.hpp"

using kvfit::errc;
using kvfit::index_t;
using kvfit::matrix;
using llama_cpp::session;
using llama_cpp::session_options;

namespace {

constexpr index_t window = 64;  // of the tiny models that have one
constexpr index_t length = 300;

std::filesystem::path model_file(const std::string& name) {
  const auto folder = std::filesystem::temp_directory_path() / "kvfit_tiny_models";
  std::filesystem::create_directories(folder);
  const auto path = folder / (name + ".gguf");
  if (const auto ok = llama_cpp::write_tiny_model(name, path); !ok) FAIL(ok.error().message());
  return path;
}

std::unique_ptr<session> open(const std::string& name, const session_options& options) {
  auto made = session::open(model_file(name), options);
  if (!made) FAIL(made.error().message());
  return std::move(*made);
}

session_options fp32() {
  return {.cells = 1024, .threads = 2, .keys = GGML_TYPE_F32, .values = GGML_TYPE_F32};
}
session_options fused() {
  return {.cells = 1024, .threads = 2, .is_flash = true};
}

/// Tokens of a text that repeats itself, so that there is something to attend to.
std::vector<llama_cpp::token> tokens(index_t count, unsigned seed) {
  std::vector<llama_cpp::token> made;
  unsigned state = 12345 + seed;
  for (index_t i = 0; i < count; ++i) {
    state = state * 1664525U + 1013904223U;
    const bool is_new = i < 24 || (state >> 30U) != 0;
    made.push_back(is_new ? static_cast<llama_cpp::token>((state >> 16U) % 256)
                          : made[static_cast<std::size_t>(i - 24)]);
  }
  return made;
}

matrix read(session& model, const std::vector<llama_cpp::token>& text, index_t position,
            index_t sequence = 0) {
  auto logits = model.read(text, position, 0, sequence);
  if (!logits) FAIL(logits.error().message());
  return std::move(*logits);
}

llama_cpp::sequence_state saved(session& model, index_t sequence = 0) {
  auto state = model.save(sequence);
  if (!state) FAIL(state.error().message());
  return std::move(*state);
}

bool is_same(const matrix& a, const matrix& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(float)) == 0;
}

/// What one query head attends to: bias, and where the kernel should take the key to stand.
struct seen_rows {
  std::vector<double> bias;
  std::vector<index_t> positions;
};

/// Σ_j softmax(cap(scale · q·k_j) + bias_j − slope · (p − r_j), sink) v_j in double, over what is
/// not hidden.
Eigen::RowVectorXd attended(const Eigen::RowVectorXf& query, const kvfit::kv_block& head,
                            const llama_cpp::layer_attention& rule, index_t query_head,
                            index_t position, index_t sees_back, const seen_rows& rows) {
  std::vector<double> logits;
  const double slope = rule.slope(query_head);
  const double sink = rule.sinks.empty() ? -std::numeric_limits<double>::infinity()
                                         : rule.sinks[static_cast<std::size_t>(query_head)];
  double most = sink;
  for (index_t j = 0; j < head.keys.rows(); ++j) {
    const index_t at = rows.positions[static_cast<std::size_t>(j)];
    double sum = 0;
    for (index_t d = 0; d < query.size(); ++d) sum += double{query[d]} * double{head.keys(j, d)};
    sum *= rule.scale;
    if (rule.soft_cap != 0) sum = rule.soft_cap * std::tanh(sum / rule.soft_cap);
    sum += rows.bias[static_cast<std::size_t>(j)] - slope * static_cast<double>(position - at);
    const bool is_hidden = at > position || (sees_back > 0 && position - at >= sees_back);
    logits.push_back(is_hidden ? -std::numeric_limits<double>::infinity() : sum);
    most = std::max(most, logits.back());
  }
  Eigen::RowVectorXd out = Eigen::RowVectorXd::Zero(head.values.cols());
  double mass = std::exp(sink - most);
  for (std::size_t j = 0; j < logits.size(); ++j) {
    const double weight = std::exp(logits[j] - most);
    if (weight == 0) continue;
    mass += weight;
    for (index_t d = 0; d < out.size(); ++d) {
      out[d] += weight * double{head.values(static_cast<index_t>(j), d)};
    }
  }
  return out / mass;
}

const kvfit::cache_layer* layer_of(const llama_cpp::state_rows& rows, index_t number) {
  for (const kvfit::cache_layer& layer : rows.view.layers) {
    if (layer.number == number) return &layer;
  }
  return nullptr;
}

llama_cpp::state_rows rows_in(session& model, const llama_cpp::sequence_state& state,
                              const llama_cpp::state_cache& cache) {
  auto rows = llama_cpp::rows_of(state, cache, model.tap().layers());
  if (!rows) FAIL(rows.error().message());
  return std::move(*rows);
}

/// The greatest relative difference between the graph's outputs and attention recomputed from its
/// queries and a state's keys and values. `compact`: the state's first cells are its rows.
double recomputed(session& model, const llama_cpp::layer_captures& queries,
                  const llama_cpp::layer_captures& outputs, index_t first_position,
                  const std::vector<index_t>& asked, const kvfit::compacted_cache* compact) {
  const auto state = saved(model);
  const auto global = rows_in(model, state, state.global);
  const auto windows = rows_in(model, state, state.windows);
  REQUIRE(queries.size() == outputs.size());
  REQUIRE(global.view.layers.size() + windows.view.layers.size() > 0);
  double worst = 0;
  std::size_t checked = 0;
  for (std::size_t c = 0; c < queries.size(); ++c) {
    const index_t number = queries[c].layer;
    const auto& rule = model.tap().layers()[static_cast<std::size_t>(number)];
    const kvfit::cache_layer* layer = layer_of(global, number);
    const bool is_window = layer == nullptr;
    if (is_window) layer = layer_of(windows, number);
    REQUIRE(layer != nullptr);
    const auto& positions = is_window ? state.windows.positions : state.global.positions;
    const auto group = static_cast<index_t>(queries[c].heads.size() / layer->heads.size());
    for (std::size_t h = 0; h < queries[c].heads.size(); ++h) {
      const auto kv = h / static_cast<std::size_t>(group);
      seen_rows seen{.bias = std::vector<double>(positions.size(), 0), .positions = positions};
      if (compact != nullptr && !is_window) {
        const auto fitted = std::find_if(compact->layers.begin(), compact->layers.end(),
                                         [&](const auto& l) { return l.number == number; });
        REQUIRE(fitted != compact->layers.end());
        index_t cells = 0;
        for (const auto& l : compact->layers) {
          for (std::size_t k = 0; k < l.heads.size(); ++k) cells = std::max(cells, l.rows(k));
        }
        for (index_t j = 0; j < cells; ++j) {
          const auto at = static_cast<std::size_t>(j);
          if (j < fitted->rows(kv)) {
            seen.bias[at] = fitted->bias[fitted->offsets[kv] + j];
            seen.positions[at] =
                fitted->key_positions[static_cast<std::size_t>(fitted->offsets[kv] + j)];
          } else {
            seen.bias[at] = -std::numeric_limits<double>::infinity();
          }
        }
      }
      for (const index_t i : asked) {
        // What a window no longer needs may be gone from its cache.
        if (is_window && i != asked.back()) continue;
        const auto expected =
            attended(queries[c].heads[h].row(i), layer->heads[kv], rule, static_cast<index_t>(h),
                     first_position + i, is_window ? window : 0, seen);
        const double difference =
            (outputs[c].heads[h].row(i).cast<double>() - expected).norm() / expected.norm();
        worst = std::max(worst, difference);
        ++checked;
      }
    }
  }
  REQUIRE(checked > 0);
  return worst;
}

kvfit::presets::preset method(const char* name) {
  const auto found = kvfit::presets::find(name);
  REQUIRE(found);
  return *found;
}

/// A text read, and what follows it.
struct text_case {
  explicit text_case(session& model) {
    one.name = "random";
    one.prefix = tokens(length, 0);
    for (const unsigned seed : {7U, 8U, 9U, 10U}) {
      auto next = tokens(96, seed);
      llama_cpp::passage passage;
      passage.targets.assign(next.begin() + 1, next.end());
      next.pop_back();
      passage.tokens = std::move(next);
      one.passages.push_back(std::move(passage));
    }
    auto made = llama_cpp::prepare(model, one, {});
    if (!made) FAIL(made.error().message());
    ready = std::move(*made);
  }

  kvfit::compacted_cache compact(session& model, const char* name, double ratio,
                                 const llama_cpp::evaluation_plan& plan = {}) {
    kvfit::thread_pool pool(2);
    auto small = llama_cpp::compact(model, ready, method(name), ratio, plan, pool);
    if (!small) FAIL(small.error().message());
    return std::move(*small);
  }

  /// Mean KL to the full cache of what the model says over a compact one.
  double kl(session& model, const kvfit::compacted_cache& small, bool with_bias) {
    const auto ok = model.put_back(ready.full, small, with_bias);
    if (!ok) FAIL(ok.error().message());
    const auto said = llama_cpp::read_passages(model, ready);
    if (!said) FAIL(said.error().message());
    return said->mean_kl();
  }

  llama_cpp::document one;
  llama_cpp::prepared_document ready;
};

/// All that is promised of an architecture, in one kind of cache.
void check_all(const std::string& name, const session_options& options, double limit) {
  CAPTURE(name, options.is_flash);
  auto model = open(name, options);

  // Attention recomputed in double is the graph's own.
  model->tap().start_capture(1, true);
  read(*model, tokens(length, 0), 0);
  auto queries = model->tap().take_queries();
  auto outputs = model->tap().take_outputs();
  CHECK(recomputed(*model, queries, outputs, 0, {0, 1, 150, length - 1}, nullptr) < limit);

  // A cache put back unchanged says the same, bit for bit.
  REQUIRE(model->load(saved(*model)));
  const auto state = saved(*model);
  const matrix before = read(*model, tokens(40, 3), length);
  REQUIRE(model->load(state));
  CHECK(saved(*model).bytes == state.bytes);
  CHECK(is_same(read(*model, tokens(40, 3), length), before));

  // So does one that is compacted to all its rows.
  text_case text(*model);
  const auto whole = text.compact(*model, "default", 1);
  const auto same = llama_cpp::compact_state(text.ready.full, whole);
  if (!same) FAIL(same.error().message());
  CHECK(same->bytes == text.ready.full.bytes);
  CHECK(text.kl(*model, whole, true) == 0);

  // At 4×, what is fitted says more of the same than what is kept.
  const auto fitted = text.compact(*model, "default", 4);
  const auto evicted = text.compact(*model, "h2o", 4);
  const double lost = text.kl(*model, fitted, true);
  CAPTURE(lost, text.kl(*model, evicted, true));
  CHECK(lost < text.kl(*model, evicted, true));

  // With their biases, which are where they should be.
  const auto ok = model->put_back(text.ready.full, fitted, true);
  if (!ok) FAIL(ok.error().message());
  model->tap().start_capture(1, true);
  read(*model, tokens(20, 5), length);
  queries = model->tap().take_queries();
  outputs = model->tap().take_outputs();
  CHECK(recomputed(*model, queries, outputs, length, {0, 7, 19}, &fitted) < limit);
}

}  // namespace

TEST_CASE("architectures: attention recomputed, put back unchanged, at all rows, fitted at 4x",
          "[llama_cpp][architectures]") {
  const std::string name =
      GENERATE("llama", "llama3", "llama_yarn", "llama_linear", "gemma2", "gemma3", "qwen2",
               "qwen3", "gpt-oss", "cohere2", "smollm3", "mpt", "bloom", "gptneox", "phi3",
               "qwen2vl", "qwen3vl", "granite", "olmo2", "qwen3moe", "jamba", "falcon-h1",
               "granitehybrid", "lfm2", "qwen3next", "gemma3n");
  DYNAMIC_SECTION(name << ", fp32, not fused") {
    check_all(name, fp32(), 1e-4);
  }
  DYNAMIC_SECTION(name << ", fp16, fused") {
    check_all(name, fused(), 5e-3);
  }
}
