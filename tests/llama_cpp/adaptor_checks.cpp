// SPDX-License-Identifier: MIT
// The llama.cpp adaptor, end to end, on the model in examples/data: against double precision, and
// against kvfit's own engine reading over the same compact caches.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/forward.hpp"
#include "engine/said.hpp"
#include "engine/tokenizer.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "llama_cpp/evaluation.hpp"
#include "support/catch.hpp"

using kvfit::errc;
using kvfit::matrix;
using llama_cpp::session;

namespace {

const std::filesystem::path data = std::filesystem::path(KVFIT_TEST_DATA_DIR) / "tinybooks";

std::unique_ptr<session> open(const llama_cpp::session_options& options) {
  auto made = session::open(KVFIT_TINYBOOKS_GGUF, options);
  if (!made) FAIL(made.error().message());
  return std::move(*made);
}

/// fp32 all through, so that what differs from the reference is a mistake and not a rounding.
std::unique_ptr<session> open_exact() {
  return open({.cells = 2048, .threads = 2, .keys = GGML_TYPE_F32, .values = GGML_TYPE_F32});
}

llama_cpp::document text(const session& model, int book, kvfit::index_t prefix,
                         kvfit::index_t continuation) {
  const auto path = data / ("held-" + std::to_string(book) + ".txt");
  auto made = llama_cpp::read_text_document(model, path, prefix, continuation);
  if (!made) FAIL(made.error().message());
  return std::move(*made);
}

kvfit::presets::preset method(const char* name) {
  const auto found = kvfit::presets::find(name);
  REQUIRE(found);
  return *found;
}

const llama::model& own_engine() {
  static const auto loaded = llama::model::load(data);
  REQUIRE(loaded);
  return *loaded;
}

/// Logits of a passage read by kvfit's own engine over `past`.
matrix read_by_own(const llama_cpp::passage& of, const kvfit::cache_view& past,
                   kvfit::index_t position) {
  llama::live_cache live(own_engine(), position);
  const auto hidden = llama::forward(own_engine(), of.tokens, past, live);
  REQUIRE(hidden);
  const auto logits = own_engine().logits(*hidden);
  REQUIRE(logits);
  return *logits;
}

matrix read(session& model, const llama_cpp::passage& of, kvfit::index_t position) {
  const auto logits = model.read(of.tokens, position, 0);
  if (!logits) FAIL(logits.error().message());
  REQUIRE(model.forget_from(position));
  return *logits;
}

double kl(const llama_cpp::passage& of, const matrix& p, const matrix& q) {
  const auto said = llama::compare(of.targets, p, q);
  return said.kl / static_cast<double>(said.tokens);
}

double far(const matrix& a, const matrix& b) {
  return (a - b).cwiseAbs().maxCoeff();
}

/// A document read and compacted, and both forms of reading on.
struct compact_case {
  explicit compact_case(session& model, kvfit::index_t prefix = 512,
                        kvfit::index_t continuation = 128)
      : one(text(model, 0, prefix, continuation)), length(prefix) {
    auto made = llama_cpp::prepare(model, one, {});
    if (!made) FAIL(made.error().message());
    ready = std::move(*made);
  }

  kvfit::compacted_cache compact(session& model, const char* name, double ratio,
                                 const llama_cpp::evaluation_plan& plan) {
    kvfit::thread_pool pool(2);
    auto small = llama_cpp::compact(model, ready, method(name), ratio, plan, pool);
    if (!small) FAIL(small.error().message());
    return std::move(*small);
  }

  [[nodiscard]] const llama_cpp::passage& next() const { return one.passages[0]; }

  llama_cpp::document one;
  kvfit::index_t length;
  llama_cpp::prepared_document ready;
};

/// Σ_j softmax(scale · q·k_j) v_j over keys 0 … last, in double.
Eigen::RowVectorXd attended(const Eigen::RowVectorXf& query, const kvfit::kv_block& head,
                            double scale, kvfit::index_t last) {
  std::vector<double> logits;
  double most = -1e300;
  for (kvfit::index_t j = 0; j <= last; ++j) {
    double sum = 0;
    for (kvfit::index_t d = 0; d < query.size(); ++d)
      sum += double{query[d]} * double{head.keys(j, d)};
    logits.push_back(scale * sum);
    most = std::max(most, logits.back());
  }
  Eigen::RowVectorXd out = Eigen::RowVectorXd::Zero(head.values.cols());
  double mass = 0;
  for (kvfit::index_t j = 0; j <= last; ++j) {
    const double weight = std::exp(logits[static_cast<std::size_t>(j)] - most);
    mass += weight;
    for (kvfit::index_t d = 0; d < out.size(); ++d) out[d] += weight * double{head.values(j, d)};
  }
  return out / mass;
}

}  // namespace

TEST_CASE("what is taken out of the graph is what attends", "[llama_cpp]") {
  const bool is_flash = GENERATE(false, true);
  CAPTURE(is_flash);
  auto model = open({.cells = 1024,
                     .threads = 2,
                     .is_flash = is_flash,
                     .keys = is_flash ? GGML_TYPE_F16 : GGML_TYPE_F32,
                     .values = is_flash ? GGML_TYPE_F16 : GGML_TYPE_F32});
  const auto one = text(*model, 1, 600, 16);  // more than one batch
  model->tap().start_capture(1, true);
  REQUIRE(model->read(one.prefix, 0, 600));
  const auto queries = model->tap().take_queries();
  const auto outputs = model->tap().take_outputs();
  const auto state = model->save();
  REQUIRE(state);
  REQUIRE(state->global.is_transposed == !is_flash);
  const auto view = llama_cpp::rows_of(*state, state->global, model->tap().layers());
  REQUIRE(view);
  REQUIRE(queries.size() == 6);
  REQUIRE(outputs.size() == 6);
  const double limit = is_flash ? 2e-3 : 1e-5;  // a fused kernel rounds queries to fp16
  for (std::size_t l = 0; l < 6; ++l) {
    const auto& seen = model->tap().layers()[l];
    REQUIRE(seen.scale == 0.125F);
    REQUIRE(seen.rotation);
    REQUIRE(seen.rotation->base == 100000);
    REQUIRE(seen.rotation->pairing == kvfit::rope_pairing::interleaved);
    REQUIRE(queries[l].heads.size() == 4);
    for (std::size_t h = 0; h < 4; ++h) {
      REQUIRE(queries[l].heads[h].rows() == 600);
      for (const kvfit::index_t i : {0, 511, 512, 599}) {
        const auto expected =
            attended(queries[l].heads[h].row(i), view->view.layers[l].heads[h / 2], 0.125, i);
        const auto difference = (outputs[l].heads[h].row(i).cast<double>() - expected).norm();
        CAPTURE(l, h, i);
        REQUIRE(difference <= limit * expected.norm());
      }
    }
  }
}

TEST_CASE("every second query, evenly over the batches", "[llama_cpp]") {
  auto model = open_exact();
  const auto one = text(*model, 1, 601, 16);
  model->tap().start_capture(1);
  REQUIRE(model->read(one.prefix, 0, 601));
  const auto all = model->tap().take_queries();
  REQUIRE(model->forget_from(0));
  model->tap().start_capture(3);
  REQUIRE(model->read(one.prefix, 0, 601));
  const auto some = model->tap().take_queries();
  REQUIRE(some[5].heads[3].rows() == 201);
  for (const kvfit::index_t i : {0, 170, 171, 200}) {
    REQUIRE(far(some[5].heads[3].row(i), all[5].heads[3].row(3 * i)) == 0);
  }
}

TEST_CASE("the GGUF file is the model in examples/data", "[llama_cpp]") {
  auto model = open_exact();
  const auto one = text(*model, 2, 300, 64);
  const auto words = llama::tokenizer::load(data / "vocab.json", data / "merges.txt");
  REQUIRE(words);
  const std::string sample = " The secret number of Gryll is 1234.\n\n\"Well--\" said he;";
  REQUIRE(model->tokens_of(sample, false));
  REQUIRE(*model->tokens_of(sample, false) == words->encode(sample));
  const auto bos = static_cast<llama_cpp::token>(own_engine().sizes().bos_token_id);
  REQUIRE(one.prefix.front() == bos);

  const auto theirs = model->read(one.prefix, 0, 0);
  REQUIRE(theirs);
  llama::live_cache live(own_engine());
  const auto hidden = llama::forward(own_engine(), one.prefix, {}, live);
  REQUIRE(hidden);
  REQUIRE(far(*own_engine().logits(*hidden), *theirs) < 1e-3);
}

TEST_CASE("a state is read as far as it fits, and refused otherwise", "[llama_cpp]") {
  auto model = open({.cells = 256, .threads = 2, .is_flash = GENERATE(false, true)});
  const auto one = text(*model, 0, 20, 2);
  REQUIRE(model->read(one.prefix, 0, 20));
  const auto state = model->save();
  REQUIRE(state);
  REQUIRE(state->cells() == 20);
  REQUIRE(state->global.layers.size() == 6);
  REQUIRE(state->global.layers[3].key_width == 128);
  const auto refused = [&](std::vector<std::byte> bytes) {
    const auto made = llama_cpp::read_state(std::move(bytes));
    REQUIRE_FALSE(made);
    return made.error().code;
  };
  for (std::size_t size = 0; size < state->bytes.size(); size += size < 400 ? 1 : 997) {
    REQUIRE(
        refused({state->bytes.begin(), state->bytes.begin() + static_cast<std::ptrdiff_t>(size)}) ==
        errc::malformed_file);
  }
  auto longer = state->bytes;
  longer.push_back({});
  REQUIRE(refused(longer) == errc::malformed_file);
  const auto with = [&](std::size_t place, std::uint32_t value) {
    auto bytes = state->bytes;
    std::memcpy(bytes.data() + place, &value, sizeof value);
    return refused(std::move(bytes));
  };
  constexpr std::size_t cells = 16;  // behind magic, sequence, streams and their number
  constexpr std::size_t data_start = cells + 20 * 12;
  REQUIRE(with(8, 2) == errc::malformed_file);  // streams: a second one, of which nothing is there
  REQUIRE(with(8, 0) == errc::malformed_file);
  REQUIRE(with(12, 0) == errc::empty_input);  // cells
  REQUIRE(with(12, 0xFFFFFFFFU) == errc::malformed_file);
  REQUIRE(with(cells + 12, 0xFFFFFFFFU) == errc::invalid_position);
  REQUIRE(with(cells + 4, 2) == errc::unsupported_file);                   // sequences of a cell
  REQUIRE(with(data_start, 7) == errc::malformed_file);                    // transposed?
  REQUIRE(with(data_start + 4, 0x7FFFFFFFU) == errc::malformed_file);      // layers
  REQUIRE(with(data_start + 16, GGML_TYPE_Q8_0) == errc::malformed_file);  // no whole blocks
  REQUIRE(with(data_start + 16, 0x7FFFFFFFU) == errc::unsupported_file);
  REQUIRE(with(data_start + 20, 0xFFFFFFFFU) == errc::malformed_file);  // bytes a cell
  REQUIRE(with(data_start + 24, 0xFFFFFFFFU) == errc::malformed_file);
}

TEST_CASE("a cache that keeps every row is put back byte for byte", "[llama_cpp]") {
  const bool is_flash = GENERATE(false, true);
  auto model = open({.cells = 2048, .threads = 2, .is_flash = is_flash});
  compact_case made(*model);
  const llama_cpp::evaluation_plan plan{.with_bias = !is_flash};
  const auto whole = made.compact(*model, "default", 1, plan);
  const auto state = llama_cpp::compact_state(made.ready.full, whole);
  REQUIRE(state);
  REQUIRE(state->bytes == made.ready.full.bytes);
  REQUIRE(model->put_back(made.ready.full, whole, !is_flash));
  REQUIRE(kl(made.next(), made.ready.logits[0], read(*model, made.next(), made.length)) < 1e-9);
}

TEST_CASE("a compact cache says in llama.cpp what it says in kvfit's own engine", "[llama_cpp]") {
  auto model = open_exact();
  compact_case made(*model);
  struct asked {
    const char* name;
    double ratio;
    kvfit::any_budget shares;
  };
  const std::vector<asked> all = {{"default", 5, kvfit::budgets::uniform{}},
                                  {"highest_attention", 20, kvfit::budgets::uniform{}},
                                  {"default", 20, kvfit::budgets::pyramid{}},  // ragged
                                  {"h2o", 10, kvfit::budgets::global_ranking{}}};
  for (const asked& each : all) {
    CAPTURE(each.name, each.ratio);
    const auto small = made.compact(*model, each.name, each.ratio, {.shares = each.shares});
    const auto ok = model->put_back(made.ready.full, small, true);
    if (!ok) FAIL(ok.error().message());
    const matrix theirs = read(*model, made.next(), made.length);
    const matrix own = read_by_own(made.next(), llama::past_of(small), made.length);
    CHECK(kl(made.next(), own, theirs) < 1e-8);
    CHECK(far(own, theirs) < 2e-3);
    CHECK(kl(made.next(), made.ready.logits[0], theirs) > 1e-3);  // it does say something else

    // One token at a time is the same as all at once.
    matrix stepwise(8, theirs.cols());
    for (kvfit::index_t i = 0; i < 8; ++i) {
      const auto row =
          model->read({&made.next().tokens[static_cast<std::size_t>(i)], 1}, made.length + i, 0);
      REQUIRE(row);
      stepwise.row(i) = row->row(0);
    }
    REQUIRE(model->forget_from(made.length));
    CHECK(far(stepwise, theirs.topRows(8)) < 2e-3);

    // The biases are what makes it so.
    if (std::string(each.name) == "h2o") continue;
    model->tap().clear_biases();
    const matrix without = read(*model, made.next(), made.length);
    CHECK(kl(made.next(), own, without) > 1e-3);
  }
}

TEST_CASE("fused attention over a cache fitted without biases", "[llama_cpp]") {
  auto model = open({.cells = 2048, .threads = 2, .is_flash = true});
  compact_case made(*model);
  const auto small = made.compact(*model, "default", 10, {.with_bias = false});
  REQUIRE(model->put_back(made.ready.full, small, false));
  const matrix theirs = read(*model, made.next(), made.length);
  const matrix own = read_by_own(made.next(), llama::past_of(small), made.length);
  CHECK(kl(made.next(), own, theirs) < 1e-5);

  // What it can't do is refused: biases, heads of different lengths.
  const auto biased = made.compact(*model, "default", 10, {});
  CHECK(model->put_back(made.ready.full, biased, false).error().code == errc::invalid_option);
  const auto ragged = made.compact(*model, "default", 10,
                                   {.shares = kvfit::budgets::pyramid{}, .with_bias = false});
  CHECK(model->put_back(made.ready.full, ragged, false).error().code == errc::invalid_option);

  // Layers with a bias are computed anew.
  REQUIRE(model->put_back(made.ready.full, biased, true));
  const matrix with_bias = read(*model, made.next(), made.length);
  CHECK(kl(made.next(), read_by_own(made.next(), llama::past_of(biased), made.length), with_bias) <
        1e-5);
}

TEST_CASE("a bias is added to the keys that it was fitted for, or not at all", "[llama_cpp]") {
  auto model = open({.cells = 2048, .threads = 2});
  compact_case made(*model, 256, 32);
  const auto small = made.compact(*model, "default", 8, {});
  const auto state = llama_cpp::compact_state(made.ready.full, small);
  REQUIRE(state);
  llama_cpp::sequence_bias biases;
  for (std::size_t l = 0; l < small.layers.size(); ++l) {
    auto bias = kvfit::make_engine_bias(
        small.layers[l], kvfit::bias_layouts::llama_cpp_kq_b(4, state->cells(), 0.125F));
    REQUIRE(bias);
    biases.layers.push_back({.layer = static_cast<kvfit::index_t>(l),
                             .bias = std::move(*bias),
                             .keys = llama_cpp::key_bytes(*state, state->global, l)});
  }
  REQUIRE(model->load(made.ready.full));  // other cells than those of the biases
  model->tap().set_biases(0, std::move(biases));
  const auto refused = model->read(made.next().tokens, made.length, 0);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::unsupported_file);
  model->tap().clear_biases();
  REQUIRE(model->forget_from(made.length));
  CHECK(model->read(made.next().tokens, made.length, 0));  // and nothing is left behind
}

TEST_CASE("what the model loses stays in bounds", "[llama_cpp]") {
  kvfit::thread_pool pool(2);
  const auto nothing = [](const std::string&) {};
  auto model = open({.cells = 2048, .threads = 2});
  const std::vector<llama_cpp::document> documents = {text(*model, 0, 1024, 256)};
  const llama_cpp::evaluation_plan plan{.methods = {method("default")}, .ratios = {5, 20}};
  const auto rows = llama_cpp::evaluate(*model, documents, plan, pool, nothing);
  if (!rows) FAIL(rows.error().message());
  REQUIRE(rows->size() == 4);
  CHECK((*rows)[0].kl() == 0);
  CHECK((*rows)[1].method == "put_back");
  CHECK((*rows)[1].kl() < 1e-9);
  const double at_5 = (*rows)[2].kl();
  const double at_20 = (*rows)[3].kl();
  CAPTURE(at_5, at_20);
  CHECK(at_5 < 0.12);
  CHECK(at_20 < 0.3);
  CHECK(at_5 < at_20);

  auto fused = open({.cells = 2048, .threads = 2, .is_flash = true});
  const llama_cpp::evaluation_plan without{
      .methods = {method("default")}, .ratios = {5, 20}, .with_bias = false};
  const auto zero = llama_cpp::evaluate(*fused, documents, without, pool, nothing);
  if (!zero) FAIL(zero.error().message());
  CAPTURE((*zero)[2].kl(), (*zero)[3].kl());
  CHECK((*zero)[1].kl() < 1e-9);
  CHECK((*zero)[2].kl() > at_5);
  CHECK((*zero)[3].kl() > at_20);
  CHECK((*zero)[2].kl() < 2 * at_5);
  CHECK((*zero)[3].kl() < 2 * at_20);
}

TEST_CASE("wrong input is told as such", "[llama_cpp]") {
  const auto code = [](const auto& made) {
    REQUIRE_FALSE(made);
    return made.error().code;
  };
  CHECK(code(session::open(data / "config.json", {})) == errc::file_unreadable);
  CHECK(code(session::open(KVFIT_TINYBOOKS_GGUF, {.cells = 0})) == errc::invalid_option);
  CHECK(code(session::open(KVFIT_TINYBOOKS_GGUF, {.threads = 0})) == errc::invalid_option);
  CHECK(code(session::open(KVFIT_TINYBOOKS_GGUF, {.keys = GGML_TYPE_Q4_K})) ==
        errc::invalid_option);
  CHECK(code(session::open(KVFIT_TINYBOOKS_GGUF, {.values = GGML_TYPE_Q8_0})) ==
        errc::invalid_option);
  CHECK(code(session::open(KVFIT_TINYBOOKS_GGUF, {.sequences = 0})) == errc::invalid_option);
  CHECK(code(session::open(KVFIT_TINYBOOKS_GGUF,
                           {.is_flash = true, .keys = GGML_TYPE_F32, .values = GGML_TYPE_F32})) ==
        errc::invalid_option);
  auto model = open({.cells = 256});
  const std::vector<llama_cpp::token> tokens(2049, 1);
  CHECK(code(model->read({}, 0, 0)) == errc::empty_input);
  CHECK(code(model->read(tokens, 0, 0)) == errc::invalid_option);  // beyond the trained length
  const std::vector<llama_cpp::token> unknown = {2048};
  CHECK(code(model->read(unknown, 0, 0)) == errc::invalid_option);
  CHECK(code(model->read(std::span(tokens).first(600), 0, 600)) == errc::out_of_memory);
  REQUIRE(model->forget_from(0));
  CHECK(code(model->save()) == errc::empty_input);
  CHECK(code(llama_cpp::read_text_document(*model, data / "nothing.txt", 8, 8)) ==
        errc::file_unreadable);
  CHECK(code(llama_cpp::read_text_document(*model, data / "held-0.txt", 8, 1 << 20)) ==
        errc::empty_input);
  CHECK(code(llama_cpp::read_recall_documents(*model, data / "held-0.txt", 1)) ==
        errc::malformed_file);
}
