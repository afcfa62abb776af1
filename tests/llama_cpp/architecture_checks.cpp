// SPDX-License-Identifier: MIT
// The llama.cpp adaptor on tiny models of many architectures: the graph that each of them has, with
// random weights. What is checked of one is checked of all.
#include <ggml.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/said.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/cache/rope.hpp"
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
  static std::set<std::string> written;
  if (!written.insert(name).second) return path;
  if (const auto ok = llama_cpp::write_tiny_model(name, path); !ok) FAIL(ok.error().message());
  return path;
}

std::unique_ptr<session> open(const std::string& name, const session_options& options) {
  auto made = session::open(model_file(name), options);
  if (!made) FAIL(made.error().message());
  return std::move(*made);
}

session_options fp32() {
  return {.cells = 1024, .threads = 1, .keys = GGML_TYPE_F32, .values = GGML_TYPE_F32};
}
session_options fused() {
  return {.cells = 1024, .threads = 1, .is_flash = true};
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

/// Queries as ggml's kernels read them: rounded to the type that they multiply the keys' with.
Eigen::RowVectorXf rounded(const Eigen::RowVectorXf& query, ggml_type keys) {
  if (keys == GGML_TYPE_F32) return query;
  const ggml_type type = ggml_blck_size(keys) == 1 ? keys : GGML_TYPE_Q8_0;
  std::vector<std::byte> bytes(ggml_row_size(type, query.size()));
  ggml_quantize_chunk(type, query.data(), bytes.data(), 0, 1, query.size(), nullptr);
  Eigen::RowVectorXf made(query.size());
  ggml_get_type_traits(type)->to_float(bytes.data(), made.data(), made.size());
  return made;
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
        // A layer whose biases a fused kernel can't add was computed by the adaptor, in fp32.
        const bool is_kernel = !rule.is_fused || is_window || compact == nullptr;
        const Eigen::RowVectorXf query = queries[c].heads[h].row(i);
        const auto expected =
            attended(is_kernel ? rounded(query, rule.keys->type) : query, layer->heads[kv], rule,
                     static_cast<index_t>(h), first_position + i, is_window ? window : 0, seen);
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

  // A cache put back unchanged says the same, bit for bit. Where there are windows, llama.cpp puts
  // their rows into other cells, and so sums in another order, the first time.
  auto state = saved(*model);
  matrix before = read(*model, tokens(40, 3), length);
  if (state.form.has_windows) {
    REQUIRE(model->load(state));
    const matrix once = read(*model, tokens(40, 3), length);
    CHECK((once - before).norm() < (options.keys == GGML_TYPE_F32 ? 1e-3 : 2e-2) * before.norm());
    before = once;
  }
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

TEST_CASE("quantised caches: read and written in their own types", "[llama_cpp][quantised]") {
  struct kind {
    ggml_type keys;
    ggml_type values;
    bool is_flash;
    double limit;  // the kernel rounds queries to its own blocks
  };
  const kind each = GENERATE(kind{GGML_TYPE_Q8_0, GGML_TYPE_F16, false, 5e-3},
                             kind{GGML_TYPE_Q4_0, GGML_TYPE_F16, false, 5e-3},
                             kind{GGML_TYPE_BF16, GGML_TYPE_BF16, false, 5e-3},
                             kind{GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, true, 5e-3},
                             kind{GGML_TYPE_Q4_0, GGML_TYPE_Q4_0, true, 5e-3},
                             kind{GGML_TYPE_Q4_1, GGML_TYPE_Q4_1, true, 5e-3},
                             kind{GGML_TYPE_Q5_0, GGML_TYPE_Q5_0, true, 5e-3},
                             kind{GGML_TYPE_Q5_1, GGML_TYPE_Q5_1, true, 5e-3},
                             kind{GGML_TYPE_IQ4_NL, GGML_TYPE_IQ4_NL, true, 5e-3});
  const std::string name = GENERATE("llama", "gemma3");
  DYNAMIC_SECTION(name << ", keys " << ggml_type_name(each.keys) << ", values "
                       << ggml_type_name(each.values)) {
    check_all(name,
              {.cells = 1024,
               .threads = 1,
               .is_flash = each.is_flash,
               .keys = each.keys,
               .values = each.values},
              each.limit);
  }
}

TEST_CASE("a row that a compact cache keeps has the bytes that it had, in blocks, too",
          "[llama_cpp][quantised]") {
  auto model = open("llama", {.cells = 1024,
                              .threads = 1,
                              .is_flash = true,
                              .keys = GGML_TYPE_Q5_1,
                              .values = GGML_TYPE_IQ4_NL});
  text_case text(*model);
  CHECK(text.ready.full.global.turned_keys > 0);  // llama.cpp mixes numbers before it rounds them
  CHECK(text.ready.full.global.turned_values > 0);
  const auto evicted = text.compact(*model, "h2o", 4);
  const auto state = llama_cpp::compact_state(text.ready.full, evicted);
  REQUIRE(state);
  for (std::size_t l = 0; l < evicted.layers.size(); ++l) {
    const auto& layer = evicted.layers[l];
    const auto& before = text.ready.full.global.layers[l];
    const auto& after = state->global.layers[l];
    for (const bool is_key : {true, false}) {
      const std::size_t row = ggml_row_size(is_key ? before.key_type : before.value_type, 128);
      for (std::size_t h = 0; h < 2; ++h) {
        for (index_t j = 0; j < layer.rows(h); ++j) {
          const auto origin = static_cast<std::size_t>(
              layer.positions[static_cast<std::size_t>(layer.offsets[h] + j)]);
          const std::byte* const was = text.ready.full.bytes.data() +
                                       (is_key ? before.keys : before.values) + origin * row +
                                       h * row / 2;
          const std::byte* const is = state->bytes.data() + (is_key ? after.keys : after.values) +
                                      static_cast<std::size_t>(j) * row + h * row / 2;
          REQUIRE(std::memcmp(was, is, row / 2) == 0);
        }
      }
    }
  }
}

TEST_CASE("several sequences: one is compacted, the others stay byte for byte",
          "[llama_cpp][sequences]") {
  const bool is_unified = GENERATE(false, true);
  const bool is_flash = GENERATE(false, true);
  const std::string name = GENERATE("llama", "gemma3", "jamba");
  CAPTURE(is_unified, is_flash, name);
  auto model = open(name, {.cells = 2048,
                           .threads = 1,
                           .is_flash = is_flash,
                           .sequences = 3,
                           .is_unified = is_unified});
  // Sequences that take turns, so that none has its cells beside each other in a shared cache.
  for (index_t part = 0; part < 4; ++part) {
    for (index_t sequence = 0; sequence < 3; ++sequence) {
      read(*model, tokens(60, static_cast<unsigned>(10 * part + sequence)), 60 * part, sequence);
    }
  }
  const auto first = saved(*model, 0);
  const auto last = saved(*model, 2);
  const auto full = saved(*model, 1);
  REQUIRE(full.cells() == 240);

  // Compacted for its own last tokens' queries.
  model->tap().start_capture(1);
  read(*model, tokens(60, 31), 240, 1);
  llama_cpp::prepared_document ready;
  ready.full = full;
  ready.queries = model->tap().take_queries();
  ready.query_position = 240;
  kvfit::thread_pool pool(2);
  const auto small = llama_cpp::compact(*model, ready, method("default"), 4, {}, pool);
  if (!small) FAIL(small.error().message());
  const auto ok = model->put_back(full, *small, true, 1);
  if (!ok) FAIL(ok.error().message());
  const auto compact = saved(*model, 1);
  CHECK(compact.cells() < 100);
  CHECK(saved(*model, 0).bytes == first.bytes);
  CHECK(saved(*model, 2).bytes == last.bytes);

  // What it says is what it says alone in a cache of its own.
  const matrix together = read(*model, tokens(20, 41), 240, 1);
  CHECK(saved(*model, 0).bytes == first.bytes);
  auto alone = open(name, {.cells = 2048,
                           .threads = 1,
                           .is_flash = is_flash,
                           .sequences = 3,
                           .is_unified = is_unified});
  read(*alone, tokens(8, 0), 0, 1);
  REQUIRE(alone->put_back(full, *small, true, 1));
  const matrix by_itself = read(*alone, tokens(20, 41), 240, 1);
  CHECK((together - by_itself).norm() < 2e-3 * by_itself.norm());

  // And another one says what it would have said.
  const matrix other = read(*model, tokens(20, 43), 240, 2);
  REQUIRE(alone->load(last, 2));
  const matrix other_by_itself = read(*alone, tokens(20, 43), 240, 2);
  CHECK((other - other_by_itself).norm() < 2e-3 * other_by_itself.norm());
}

TEST_CASE("fused attention stays the kernel's own where a layer has no bias",
          "[llama_cpp][fused]") {
  auto model = open("qwen3", fused());
  text_case text(*model);
  auto small = text.compact(*model, "default", 4, {.with_bias = false});
  REQUIRE(model->put_back(text.ready.full, small, false));
  const matrix kernel = read(*model, tokens(20, 5), length);
  REQUIRE(model->put_back(text.ready.full, small, true));
  CHECK(is_same(read(*model, tokens(20, 5), length), kernel));

  // A bias in the last layer changes it, and what comes before stays the kernel's.
  model->tap().start_capture(1, true);
  REQUIRE(model->rewind());
  read(*model, tokens(20, 5), length);
  static_cast<void>(model->tap().take_queries());
  const auto before = model->tap().take_outputs();
  small.layers.back().bias.setConstant(0.5F);
  REQUIRE(model->put_back(text.ready.full, small, true));
  model->tap().start_capture(1, true);
  const matrix biased = read(*model, tokens(20, 5), length);
  static_cast<void>(model->tap().take_queries());
  const auto after = model->tap().take_outputs();
  CHECK_FALSE(is_same(biased, kernel));
  REQUIRE(before.size() == 4);
  for (std::size_t l = 0; l < 4; ++l) {
    for (std::size_t h = 0; h < 4; ++h) {
      CAPTURE(l, h);
      CHECK(is_same(before[l].heads[h], after[l].heads[h]) == (l < 3));
    }
  }
}

TEST_CASE("rotations read from the graph move keys to where they would have been made",
          "[llama_cpp][rotation]") {
  const std::string name = GENERATE("llama", "llama3", "llama_yarn", "llama_linear", "gemma3",
                                    "qwen3", "gptneox", "phi3", "cohere2");
  CAPTURE(name);
  auto model = open(name, fp32());
  read(*model, tokens(40, 0), 0);
  const auto near = saved(*model);
  REQUIRE(model->forget_from(0));
  read(*model, tokens(40, 0), 500);
  const auto far = saved(*model);
  const auto& rule = model->tap().layers()[0];
  REQUIRE(rule.rotation);
  // The first layer's keys depend on nothing but token and position.
  const auto keys_of = [&](const llama_cpp::sequence_state& state) {
    auto rows = rows_in(*model, state, state.global);
    auto windows = rows_in(*model, state, state.windows);
    const auto* layer = layer_of(rows, 0);
    if (layer == nullptr) layer = layer_of(windows, 0);
    REQUIRE(layer != nullptr);
    matrix keys(layer->heads[0].keys.rows(), layer->heads[0].keys.cols());
    for (index_t i = 0; i < keys.rows(); ++i) {
      for (index_t d = 0; d < keys.cols(); ++d) keys(i, d) = layer->heads[0].keys(i, d);
    }
    return keys;
  };
  const matrix made = keys_of(far);
  const matrix unmoved = keys_of(near);
  const auto moved = kvfit::moved_keys(unmoved, *rule.rotation, 500);
  REQUIRE(moved);
  CHECK((*moved - made).norm() < 1e-3 * made.norm());
}

TEST_CASE(
    "layers without rotation, and with several positions, have none that keys could be moved by",
    "[llama_cpp][rotation]") {
  auto alternating = open("smollm3", fp32());
  read(*alternating, tokens(8, 0), 0);
  CHECK(alternating->tap().layers()[2].rotation);
  CHECK_FALSE(alternating->tap().layers()[3].rotation);
  auto several = open("qwen2vl", fp32());
  read(*several, tokens(8, 0), 0);
  CHECK_FALSE(several->tap().layers()[0].rotation);
}

TEST_CASE("rules of attention are read from the graph", "[llama_cpp][architectures]") {
  const bool is_flash = GENERATE(false, true);
  const auto first_rule = [&](const std::string& name) {
    auto model = open(name, is_flash ? fused() : fp32());
    read(*model, tokens(8, 0), 0);
    return model->tap().layers()[0];
  };
  const auto capped = first_rule("gemma2");
  CHECK(capped.soft_cap == Approx(5));
  CHECK(capped.scale == Approx(1));  // Gemma 2 scales its queries
  const auto sunk = first_rule("gpt-oss");
  CHECK(sunk.sinks.size() == 4);
  CHECK(sunk.scale == Approx(0.125));
  const auto alibi = first_rule("mpt");
  CHECK(alibi.alibi == 8);
  CHECK(alibi.slope(0) == Approx(0.25));
  CHECK(alibi.slope(3) == Approx(1.0 / 256));
  CHECK(first_rule("granite").scale == Approx(0.2));
  auto shared = open("gemma3n", is_flash ? fused() : fp32());
  read(*shared, tokens(8, 0), 0);
  CHECK(shared->tap().layers()[18].readers > 1);
}

TEST_CASE("what can't be right is refused by name", "[llama_cpp][architectures]") {
  const auto refusal = [](const std::string& name) {
    const auto made = session::open(model_file(name), {});
    REQUIRE_FALSE(made);
    CHECK(made.error().code == errc::unsupported_file);
    return made.error().message();
  };
  CHECK(refusal("mamba").find("architecture mamba") != std::string::npos);
  CHECK(refusal("mamba").find("recurrent") != std::string::npos);
  CHECK(refusal("deepseek2").find("MLA") != std::string::npos);
  CHECK(refusal("baichuan").find("architecture baichuan (was not tried") != std::string::npos);

  // ALiBi needs biases: cells do not stand where their keys do.
  auto model = open("mpt", fused());
  text_case text(*model);
  const auto small = text.compact(*model, "default", 4, {.with_bias = false});
  const auto ok = model->put_back(text.ready.full, small, false);
  REQUIRE_FALSE(ok);
  CHECK(ok.error().code == errc::invalid_option);

  // Recurrent layers do not go back a part of the way.
  auto hybrid = open("jamba", fp32());
  read(*hybrid, tokens(40, 0), 0);
  CHECK_FALSE(hybrid->forget_from(20));
}

TEST_CASE("a state's form must be its model's", "[llama_cpp][architectures]") {
  auto model = open("gemma3", fp32());
  read(*model, tokens(100, 0), 0);
  const auto state = saved(*model);
  REQUIRE(state.form.has_windows);
  REQUIRE(state.global.layers.size() == 1);
  REQUIRE(state.windows.layers.size() == 5);
  CHECK(state.global.layers[0].number == 5);
  const auto code = [&](const llama_cpp::state_form& form) {
    const auto made = llama_cpp::read_state(state.bytes, form);
    REQUIRE_FALSE(made);
    return made.error().code;
  };
  CHECK(code({}) == errc::malformed_file);  // bytes left over
  CHECK(code({.has_windows = true, .has_tail = true}) == errc::malformed_file);
  for (std::size_t size = state.global.end; size < state.bytes.size(); size += 4999) {
    CHECK_FALSE(llama_cpp::read_state(
        {state.bytes.begin(), state.bytes.begin() + static_cast<std::ptrdiff_t>(size)},
        state.form));
  }
  auto hybrid = open("jamba", fp32());
  read(*hybrid, tokens(100, 0), 0);
  const auto mixed = saved(*hybrid);
  CHECK(mixed.form.has_tail);
  CHECK(mixed.tail() > 0);
  CHECK(mixed.global.layers.size() == 2);
  CHECK(mixed.global.layers[0].number == 1);
}
