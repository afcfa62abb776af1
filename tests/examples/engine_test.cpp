// SPDX-License-Identifier: MIT
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "engine/forward.hpp"
#include "engine/sampler.hpp"
#include "examples/llama_oracle.hpp"
#include "examples/tinybooks.hpp"
#include "support/catch.hpp"

using namespace kvfit_test;
using kvfit::errc;
using kvfit::matrix;
using llama::token;

namespace {

/// Logits after each of the tokens.
matrix logits_of(const llama::model& model, std::span<const token> tokens,
                 const kvfit::cache_view& past, llama::live_cache& live) {
  const auto hidden = llama::forward(model, tokens, past, live);
  REQUIRE(hidden);
  auto logits = model.logits(*hidden);
  REQUIRE(logits);
  return std::move(*logits);
}

matrix logits_of(const llama::model& model, std::span<const token> tokens) {
  llama::live_cache live(model);
  return logits_of(model, tokens, {}, live);
}

/// All rows of a cache as a compact cache: each as it is, `copies` times with the bias of its
/// share.
kvfit::compacted_cache whole(const kvfit::cache_view& cache, kvfit::index_t copies) {
  kvfit::compacted_cache made;
  for (const kvfit::cache_layer& from : cache.layers) {
    kvfit::compacted_layer layer;
    layer.number = from.number;
    layer.offsets = {0};
    const auto heads = static_cast<kvfit::index_t>(from.heads.size());
    const kvfit::index_t rows = from.heads[0].keys.rows();
    const kvfit::index_t count = rows * copies;
    layer.keys.resize(heads * count, from.heads[0].keys.cols());
    layer.values.resize(heads * count, from.heads[0].values.cols());
    layer.bias = kvfit::vector::Constant(
        heads * count, static_cast<float>(-std::log(static_cast<double>(copies))));
    for (kvfit::index_t h = 0; h < heads; ++h) {
      const kvfit::kv_block& head = from.heads[static_cast<std::size_t>(h)];
      for (kvfit::index_t i = 0; i < count; ++i) {
        for (kvfit::index_t j = 0; j < layer.keys.cols(); ++j) {
          layer.keys(h * count + i, j) = head.keys(i / copies, j);
          layer.values(h * count + i, j) = head.values(i / copies, j);
        }
        layer.positions.push_back(i / copies);
        layer.key_positions.push_back(i / copies);
      }
      layer.offsets.push_back((h + 1) * count);
    }
    made.layers.push_back(std::move(layer));
  }
  return made;
}

double largest_difference(const matrix& a, const matrix& b) {
  REQUIRE(a.rows() == b.rows());
  REQUIRE(a.cols() == b.cols());
  return static_cast<double>((a - b).cwiseAbs().maxCoeff());
}

template <class T>
std::vector<T> numbers_of(const kvfit::safetensors_file& file, std::string_view name) {
  const kvfit::tensor_view* const tensor = kvfit::find_tensor(file, name);
  REQUIRE(tensor != nullptr);
  std::vector<T> numbers(tensor->bytes.size() / sizeof(T));
  std::memcpy(numbers.data(), tensor->bytes.data(), tensor->bytes.size());
  return numbers;
}

}  // namespace

TEST_CASE("logits are the reference's to 1e-2, the perplexity to 0.5 %", "[examples][engine]") {
  REQUIRE(tinybooks_model());
  const auto file = kvfit::read_safetensors(tinybooks() / "logits.safetensors");
  REQUIRE(file);
  const auto tokens = numbers_of<token>(*file, "ids");
  const auto rows = numbers_of<std::int32_t>(*file, "rows");
  const auto expected = numbers_of<float>(*file, "logits");
  const auto log_probabilities = numbers_of<float>(*file, "log_probabilities");
  REQUIRE(tokens.size() == 256);
  REQUIRE(rows.size() == 32);
  REQUIRE(expected.size() == 32 * 2048);
  REQUIRE(log_probabilities.size() == 255);

  const matrix logits = logits_of(*tinybooks_model(), tokens);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const Eigen::Map<const matrix> row(expected.data() + r * 2048, 1, 2048);
    CHECK(largest_difference(logits.row(rows[r]), row) < 1e-2);
  }
  const double loss = -std::accumulate(log_probabilities.begin(), log_probabilities.end(), 0.0) /
                      static_cast<double>(log_probabilities.size());
  CHECK(std::abs(std::exp(mean_loss(logits, tokens) - loss) - 1) < 5e-3);
}

TEST_CASE("logits of held-out text are those of a forward pass in double", "[examples][engine]") {
  REQUIRE(tinybooks_model());
  const auto tokens = held_out_tokens(1, 96);
  const Eigen::MatrixXd expected =
      logits_in_double(tinybooks() / "model.safetensors", tinybooks_model()->sizes(), tokens);
  REQUIRE(expected.rows() == 96);
  const matrix logits = logits_of(*tinybooks_model(), tokens);
  CHECK((logits.cast<double>() - expected).cwiseAbs().maxCoeff() < 1e-3);
  CHECK(std::abs(mean_loss(logits, tokens) - mean_loss(expected, tokens)) < 1e-5);
}

TEST_CASE("reading in pieces is reading at once", "[examples][engine]") {
  REQUIRE(tinybooks_model());
  const llama::model& model = *tinybooks_model();
  const auto tokens = held_out_tokens(2, 64);
  const matrix at_once = logits_of(model, tokens);
  llama::live_cache live(model);
  matrix last;
  for (const auto& [first, count] : {std::pair{0, 40}, {40, 1}, {41, 23}}) {
    last = logits_of(model, std::span(tokens).subspan(first, count), {}, live);
    CHECK(live.length() == first + count);
    CHECK(largest_difference(last, at_once.middleRows(first, count)) < 1e-3);
  }
  live.cut_to(40);  // and again from there
  CHECK(live.next_position() == 40);
  CHECK(largest_difference(logits_of(model, std::span(tokens).subspan(40), {}, live),
                           at_once.bottomRows(24)) < 1e-3);
}

TEST_CASE("over a compact prefix that holds everything, logits are those of the full cache",
          "[examples][engine]") {
  REQUIRE(tinybooks_model());
  const llama::model& model = *tinybooks_model();
  const auto tokens = held_out_tokens(3, 64);
  const auto suffix = std::span(tokens).subspan(40);
  const matrix full = logits_of(model, tokens).bottomRows(24);
  llama::live_cache prefix(model);
  const matrix read = logits_of(model, std::span(tokens).first(40), {}, prefix);
  REQUIRE(read.rows() == 40);
  llama::live_cache behind_view(model, 40);
  CHECK(largest_difference(logits_of(model, suffix, prefix.view(), behind_view), full) < 1e-3);
  for (const kvfit::index_t copies :
       {1, 3}) {  // three copies of a row of bias ln 1/3 weigh as much as one
    INFO(copies << " copies");
    const auto compact = whole(prefix.view(), copies);
    llama::live_cache live(model, 40);
    CHECK(largest_difference(logits_of(model, suffix, llama::past_of(compact), live), full) < 1e-3);
    CHECK(live.length() == 24);
    CHECK(live.next_position() == 64);
  }
  // The biases count, and so does the prefix.
  auto heavy = whole(prefix.view(), 1);
  heavy.layers[3].bias.head(20).setConstant(3);
  llama::live_cache behind_heavy(model, 40);
  CHECK(largest_difference(logits_of(model, suffix, llama::past_of(heavy), behind_heavy), full) >
        0.1);
}

TEST_CASE("captured queries are those that the layers project", "[examples][engine]") {
  REQUIRE(tinybooks_model());
  const llama::model& model = *tinybooks_model();
  const auto tokens = held_out_tokens(0, 12);
  llama::live_cache live(model);
  llama::captured_queries queries;
  REQUIRE(llama::forward(model, tokens, {}, live, &queries));
  REQUIRE(queries.size() == 6);
  REQUIRE(queries[5].size() == 4);
  const auto first = model.project(0, *model.embed(tokens), 0);
  REQUIRE(first);
  CHECK(queries[0][3] == first->queries[3]);
  CHECK(live.block(0, 1).keys(11, 63) == first->keys[1](11, 63));
  CHECK(queries[5][0].rows() == 12);
}

TEST_CASE("the model answers questions about facts in its context", "[examples][engine]") {
  REQUIRE(tinybooks_model());
  REQUIRE(tinybooks_tokenizer());
  const llama::model& model = *tinybooks_model();
  std::ifstream lines(tinybooks() / "recall.jsonl");
  std::string line;
  REQUIRE(std::getline(lines, line));
  const auto document = nlohmann::json::parse(line);
  const auto tokens = document["ids"].get<std::vector<token>>();
  llama::live_cache live(model);
  REQUIRE(llama::forward(model, tokens, {}, live));
  const auto& asked = document["questions"][0];
  const auto question = tinybooks_tokenizer()->encode(asked["q"].get<std::string>());
  const auto answer = asked["a"].get<std::string>();
  const auto said = llama::generate(model, question, 5, {}, live);  // a space and four digits
  REQUIRE(said);
  CHECK(*tinybooks_tokenizer()->decode(*said) == answer);
  CHECK(live.length() == static_cast<kvfit::index_t>(tokens.size() + question.size() + 5));
}

TEST_CASE("generating stops at the trained length", "[examples][engine]") {
  REQUIRE(tinybooks_model());
  const llama::model& model = *tinybooks_model();
  llama::live_cache live(model, 2040);
  const auto said = llama::generate(model, std::vector<token>{5, 6, 7}, 100, {}, live);
  REQUIRE(said);
  CHECK(said->size() <= 6);
  CHECK(live.next_position() <= 2048);
}

TEST_CASE("what can't be read is refused, and the cache is left as it was", "[examples][engine]") {
  REQUIRE(tinybooks_model());
  const llama::model& model = *tinybooks_model();
  llama::live_cache live(model);
  const std::vector<token> some = {2046, 1, 2};
  REQUIRE(llama::forward(model, some, {}, live));
  const auto refused = [&](const std::vector<token>& tokens, const kvfit::cache_view& past = {}) {
    const auto read = llama::forward(model, tokens, past, live);
    REQUIRE(!read);
    CHECK(live.length() == 3);
    CHECK(live.block(0, 0).keys.rows() == 3);
    return read.error();
  };
  CHECK(refused({}).code == errc::empty_input);
  const auto beyond = refused({4, 2048});
  CHECK(beyond.code == errc::invalid_option);
  CHECK(beyond.actual == 2048);
  CHECK(beyond.expected == 2047);
  CHECK(refused({-1}).actual == -1);
  const auto long_prompt = refused(std::vector<token>(2046, 5));
  CHECK(long_prompt.code == errc::invalid_option);
  CHECK(long_prompt.argument == "position");
  llama::live_cache before(model);
  REQUIRE(llama::forward(model, some, {}, before));
  kvfit::cache_view half = before.view();
  half.layers.pop_back();
  CHECK(refused(some, half).code == errc::shape_mismatch);
  kvfit::cache_view headless = before.view();
  headless.layers[2].heads.pop_back();
  CHECK(refused(some, headless).code == errc::shape_mismatch);
  // Found in the last layer, after rows have been appended to all before it.
  kvfit::cache_view bad = before.view();
  const matrix narrow = matrix::Zero(3, 32);
  bad.layers[5].heads[1].keys = narrow;
  CHECK(refused(some, bad).code == errc::shape_mismatch);

  matrix hidden = *model.embed(some);
  CHECK(model.project(6, hidden, 0).error().code == errc::invalid_option);
  CHECK(model.project(0, hidden, 2046).error().code == errc::invalid_option);
  CHECK(model.project(0, narrow, 0).error().code == errc::shape_mismatch);
  CHECK(model.finish(0, {hidden}, hidden).error().code == errc::shape_mismatch);
  CHECK(model.logits(narrow).error().code == errc::shape_mismatch);
}

TEST_CASE("bad model files are refused", "[examples][engine]") {
  const scratch_folder folder;
  const auto config = text_of(tinybooks() / "config.json");
  const auto config_error = [&](const std::string& text) {
    put_text(folder / "config.json", text);
    const auto read = llama::read_config(folder / "config.json");
    REQUIRE(!read);
    return read.error();
  };
  CHECK(llama::model::load(folder / "none").error().code == errc::file_unreadable);
  CHECK(config_error("").code == errc::malformed_file);
  CHECK(config_error("[1]").code == errc::malformed_file);
  CHECK(config_error(config.substr(0, 200)).code == errc::malformed_file);
  CHECK(config_error("{\"model_type\":\"llama\"}").code == errc::missing_entry);
  const auto refused = [&](const char* from, const char* to) {
    INFO(to);
    REQUIRE(config.find(from) != std::string::npos);
    return config_error(replaced(config, from, to)).code;
  };
  CHECK(refused("\"llama\"", "\"gpt2\"") == errc::unsupported_file);
  CHECK(refused("embeddings\": true", "embeddings\": false") == errc::unsupported_file);
  CHECK(refused("2048", "0") == errc::invalid_option);
  CHECK(refused("2048", "-3") == errc::invalid_option);
  CHECK(refused("2048", "99999999999999999999") == errc::missing_entry);  // no integer of 64 bits
  CHECK(refused("2048", "18446744073709551615") == errc::invalid_option);
  CHECK(refused("2048", "\"2048\"") == errc::missing_entry);
  CHECK(refused("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3") ==
        errc::invalid_option);
  CHECK(refused("\"head_dim\": 64", "\"head_dim\": 63") == errc::invalid_option);
  CHECK(refused("100000.0", "-1") == errc::invalid_option);
  CHECK(refused("2046", "2048") == errc::invalid_option);

  const auto sizes = llama::read_config(tinybooks() / "config.json");
  REQUIRE(sizes);
  const auto weights_error = [&](const llama::config& wanted) {
    const auto read = llama::read_weights(tinybooks() / "model.safetensors", wanted);
    REQUIRE(!read);
    return read.error();
  };
  CHECK(llama::read_weights(folder / "none", *sizes).error().code == errc::file_unreadable);
  auto deeper = *sizes;
  deeper.num_hidden_layers = 7;
  CHECK(weights_error(deeper).code == errc::missing_entry);
  CHECK(weights_error(deeper).argument == "model.layers.6.input_layernorm.weight");
  auto wider = *sizes;
  wider.intermediate_size = 769;
  CHECK(weights_error(wider).code == errc::shape_mismatch);
  CHECK(weights_error(wider).actual == 768);
  CHECK(weights_error(wider).expected == 769);

  // Tensors of the right shape, but of another type or holding NaN; a file cut short.
  const auto stored = kvfit::read_safetensors(tinybooks() / "model.safetensors");
  REQUIRE(stored);
  const auto with_norm = [&](const kvfit::tensor_view& norm) {
    std::vector<kvfit::tensor_view> tensors = stored->tensors;
    for (kvfit::tensor_view& tensor : tensors) {
      if (tensor.name == norm.name) tensor = norm;
    }
    REQUIRE(kvfit::write_safetensors(folder / "model.safetensors", tensors, {}));
    return llama::read_weights(folder / "model.safetensors", *sizes);
  };
  std::vector<float> norm(256, 1.0F);
  REQUIRE(with_norm(tensor("model.norm.weight", kvfit::tensor_type::f32, {256}, norm)));
  CHECK(with_norm(tensor("model.norm.weight", kvfit::tensor_type::i32, {256}, norm)).error().code ==
        errc::unsupported_file);
  norm[3] = std::numeric_limits<float>::quiet_NaN();
  const auto nan = with_norm(tensor("model.norm.weight", kvfit::tensor_type::f32, {256}, norm));
  CHECK(nan.error().code == errc::non_finite);
  CHECK(nan.error().expected == 3);
  std::filesystem::resize_file(folder / "model.safetensors", 1'000'000);
  CHECK(llama::read_weights(folder / "model.safetensors", *sizes).error().code ==
        errc::malformed_file);
}

TEST_CASE("what a configuration says and the engine does not do is refused by name",
          "[examples][engine]") {
  const scratch_folder folder;
  const auto config = text_of(tinybooks() / "config.json");
  // The configuration with an entry more.
  const auto with = [&](const std::string& entry) {
    put_text(folder / "config.json", replaced(config, "{", "{" + entry + ","));
    return llama::read_config(folder / "config.json");
  };
  struct refused_entry {
    const char* entry;
    const char* argument;
    const char* detail;  ///< how it begins
  };
  const std::vector<refused_entry> refused = {
      {R"("rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 512})",
       "rope_scaling.rope_type", R"(is "llama3"; only "default" is handled; )"},
      {R"("rope_scaling": {"type": "linear", "factor": 2.0})", "rope_scaling.type",
       R"(is "linear"; only "default" is handled; )"},
      {R"("rope_scaling": {"rope_type": "default", "factor": 2.0})", "rope_scaling.factor",
       R"(is 2.0; "default" has no such entry; )"},
      {R"("rope_scaling": {})", "rope_scaling", "is {}, must be null or"},
      {R"("rope_parameters": {"rope_theta": 1e6})", "rope_parameters",
       "no entry that is handled; "},
      {R"("attention_bias": true)", "attention_bias", "is true, must be false; "},
      {R"("mlp_bias": true)", "mlp_bias", "is true, must be false; "},
      {R"("hidden_act": "gelu")", "hidden_act", R"(is "gelu", must be "silu"; )"},
      {R"("sliding_window": 256)", "sliding_window", "is 256, must be null; "},
      {R"("quantization_config": {"bits": 4})", "quantization_config",
       R"(is {"bits":4}, must be null; )"},
      {R"("partial_rotary_factor": 0.5)", "partial_rotary_factor", "is 0.5, must be 1; "},
      {R"("attn_logit_softcapping": 50.0)", "attn_logit_softcapping", "no entry that is handled; "},
      {R"("use_cache": 1)", "use_cache", "is 1, must be true or false; "},
      {R"("torch_dtype_": "bfloat16")", "torch_dtype_", "no entry that is handled; "},
  };
  for (const refused_entry& each : refused) {
    INFO(each.entry);
    const auto read = with(each.entry);
    REQUIRE(!read);
    CHECK(read.error().code == errc::unsupported_file);
    CHECK(read.error().argument == each.argument);
    CAPTURE(read.error().detail);
    CHECK(read.error().detail.starts_with(each.detail));
    CHECK(!llama::model::load(folder / ""));
  }
  put_text(folder / "config.json", replaced(config, "LlamaForCausalLM", "MistralForCausalLM"));
  CHECK(llama::read_config(folder / "config.json").error().argument == "architectures");

  for (const char* entry :
       {R"("rope_scaling": null)", R"("rope_scaling": {"rope_type": "default"})",
        R"("attention_bias": false)", R"("mlp_bias": false)", R"("hidden_act": "silu")",
        R"("sliding_window": null)", R"("pretraining_tp": 1)", R"("attention_dropout": 0.0)",
        R"("initializer_range": 0.02)", R"("use_cache": true)", R"("pad_token_id": null)",
        R"("transformers_version": "4.44.0")", R"("partial_rotary_factor": 1.0)"}) {
    INFO(entry);
    CHECK(with(entry));
  }
}

TEST_CASE("an entry that a configuration has twice is refused, not taken from one of them",
          "[examples][engine]") {
  const scratch_folder folder;
  const auto config = text_of(tinybooks() / "config.json");
  put_text(folder / "config.json", replaced(config, "{", "{\"rope_theta\": 10000.0,"));
  const auto read = llama::read_config(folder / "config.json");
  REQUIRE(!read);
  CHECK(read.error().code == errc::malformed_file);
  CHECK(read.error().detail == "'rope_theta' appears twice");
}

TEST_CASE("numbers of a configuration that fp32 or memory can't hold are refused with the number",
          "[examples][engine]") {
  const scratch_folder folder;
  const auto config = text_of(tinybooks() / "config.json");
  const auto refused = [&](const char* from, const char* to, const char* message) {
    put_text(folder / "config.json", replaced(config, from, to));
    const auto read = llama::read_config(folder / "config.json");
    REQUIRE(!read);
    CHECK(read.error().code == errc::invalid_option);
    CAPTURE(read.error().message());
    CHECK(read.error().message().starts_with(message));
  };
  refused("1e-05", "1e-40",
          "invalid_option: rms_norm_eps (is 1e-40, must be a normal number in fp32; ");
  refused("1e-05", "-1.0", "invalid_option: rms_norm_eps (is -1.0, must be above 0; ");
  refused("\"vocab_size\": 2048", "\"vocab_size\": 18446744073709551615",
          "invalid_option: vocab_size (is 18446744073709551615, must be at most 1048576; ");
  refused("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3",
          "invalid_option: num_key_value_heads: 3 (must divide num_attention_heads, 4; ");
  refused("64,\n \"max_position_embeddings\": 2048",
          "65536,\n \"max_position_embeddings\": 1048576",
          "invalid_option: max_position_embeddings: 1048576, limit 4096 (for heads of this size; ");
}

TEST_CASE("a tensor or metadata of the weights that the engine does not use is refused by name",
          "[examples][engine]") {
  const scratch_folder folder;
  const auto sizes = llama::read_config(tinybooks() / "config.json");
  const auto stored = kvfit::read_safetensors(tinybooks() / "model.safetensors");
  REQUIRE(sizes);
  REQUIRE(stored);
  const std::vector<float> numbers(256, 1.0F);
  const auto error_of = [&](const char* name) {
    std::vector<kvfit::tensor_view> tensors = stored->tensors;
    tensors.push_back(tensor(name, kvfit::tensor_type::f32, {256}, numbers));
    REQUIRE(kvfit::write_safetensors(folder / "model.safetensors", tensors, stored->metadata));
    const auto read = llama::read_weights(folder / "model.safetensors", *sizes);
    REQUIRE(!read);
    return read.error();
  };
  for (const char* name : {"model.layers.0.self_attn.q_proj.bias", "lm_head.weight",
                           "model.layers.6.input_layernorm.weight"}) {
    CHECK(error_of(name).code == errc::unsupported_file);
    CHECK(error_of(name).argument == name);
  }
  auto shallower = *sizes;
  shallower.num_hidden_layers = 5;
  const auto read = llama::read_weights(tinybooks() / "model.safetensors", shallower);
  REQUIRE(!read);
  CHECK(read.error().code == errc::unsupported_file);
  CHECK(read.error().argument.starts_with("model.layers.5."));

  const auto with_metadata = [&](const kvfit::tensor_metadata& metadata) {
    REQUIRE(kvfit::write_safetensors(folder / "model.safetensors", stored->tensors, metadata));
    return llama::read_weights(folder / "model.safetensors", *sizes);
  };
  CHECK(with_metadata({}));
  CHECK(with_metadata({{"format", "pt"}}));
  CHECK(with_metadata(stored->metadata));
  for (const auto& [name, value] : kvfit::tensor_metadata{
           {"rope", "half-split"}, {"rope_theta", "10000"}, {"bias", "True"}, {"format", "gguf"}}) {
    INFO(name);
    const auto refused = with_metadata({{name, value}});
    REQUIRE(!refused);
    CHECK(refused.error().code == errc::unsupported_file);
    CHECK(refused.error().argument == "metadata '" + name + "'");
  }
}

TEST_CASE("files beside the model that would change it or its tokens are refused",
          "[examples][engine]") {
  const scratch_folder folder;
  for (const char* name : {"config.json", "model.safetensors"}) {
    std::filesystem::copy_file(tinybooks() / name, folder / name);
  }
  REQUIRE(llama::model::load(folder / ""));
  for (const char* name : {"tokenizer.json", "added_tokens.json", "adapter_config.json"}) {
    put_text(folder / name, "{}");
    const auto loaded = llama::model::load(folder / "");
    REQUIRE(!loaded);
    CHECK(loaded.error().code == errc::unsupported_file);
    CHECK(loaded.error().argument.ends_with(name));
    std::filesystem::remove(folder / name);
  }
}
