// SPDX-License-Identifier: MIT
/// What the cases cannot do in CMake: captures made, files read back, figures computed again.
///
/// Exits with 0 if all is as it should be, else says what is not.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "kvfit/core/fp8.hpp"
#include "kvfit/core/random.hpp"
#include "kvfit/io/capture.hpp"
#include "kvfit/io/compact_file.hpp"
#include "kvfit/io/safetensors.hpp"

namespace {

using size = kvfit::index_t;

[[noreturn]] void give_up(const std::string& why) {
  std::fprintf(stderr, "support: %s\n", why.c_str());
  std::exit(1);
}

void expect(bool is_so, const std::string& what) {
  if (!is_so) give_up("not so: " + what);
}

template <class T>
T need(kvfit::result<T> got) {
  if (!got) give_up(got.error().message());
  return *std::move(got);
}

std::string text(double x) {
  std::ostringstream out;
  out << x;
  return out.str();
}

// ---- A capture of random numbers ---------------------------------------------------------------
constexpr size rows = 96;
constexpr size kv_heads = 2;
constexpr size query_heads = 4;
constexpr size depth = 8;
constexpr size value_depth = 6;

std::vector<float> numbers(size count, kvfit::random_source& draw) {
  std::vector<float> out(static_cast<std::size_t>(count));
  for (float& x : out) x = static_cast<float>(4 * draw.uniform() - 2);
  return out;
}

/// Whole numbers as I64.
std::vector<std::int64_t> count_up(size count, size first) {
  std::vector<std::int64_t> out;
  for (size i = 0; i < count; ++i) out.push_back(first + i);
  return out;
}

/// What a kind says may be several words, joined by "+".
void make_capture(const std::string& path, std::string_view kind) {
  const auto is = [kind](std::string_view word) {
    return kind.find(word) != std::string_view::npos;
  };
  kvfit::random_source draw(7);
  std::vector<std::vector<float>> memory;
  std::vector<std::vector<std::int64_t>> positions;
  std::vector<std::vector<std::uint8_t>> f8;
  std::vector<kvfit::tensor_view> tensors;
  memory.reserve(16);
  positions.reserve(8);
  f8.reserve(2);
  for (const size layer : {0, 2}) {
    const std::string at = "layers." + std::to_string(layer) + ".";
    const auto add = [&](const char* part, size heads, size length, size width) {
      memory.push_back(numbers(heads * length * width, draw));
      tensors.push_back({at + part,
                         kvfit::tensor_type::f32,
                         {heads, length, width},
                         std::as_bytes(std::span(memory.back()))});
    };
    const auto add_numbers = [&](const char* part, std::vector<float> of_heads) {
      memory.push_back(std::move(of_heads));
      tensors.push_back({at + part,
                         kvfit::tensor_type::f32,
                         {static_cast<size>(memory.back().size())},
                         std::as_bytes(std::span(memory.back()))});
    };
    const auto add_positions = [&](const char* part, std::vector<std::int64_t> of_rows) {
      positions.push_back(std::move(of_rows));
      tensors.push_back({at + part,
                         kvfit::tensor_type::i64,
                         {static_cast<size>(positions.back().size())},
                         std::as_bytes(std::span(positions.back()))});
    };
    add("k", kv_heads, rows, depth);
    if (is("f8")) {
      f8.emplace_back();
      for (const float x : memory.back()) f8.back().push_back(kvfit::to_fp8_e4m3(x).bits);
      tensors.back() = {at + "k",
                        kvfit::tensor_type::f8_e4m3,
                        {1, kv_heads, rows, depth},
                        std::as_bytes(std::span(f8.back()))};
      add_numbers("k_scale", {0.5F, 2});
    }
    add("v", kv_heads, rows, value_depth);
    if (is("not_finite") && layer == 2) memory.back()[10] = std::nanf("");
    add("q", query_heads, 40, depth);
    if (!is("no_test")) add("q_test", query_heads, 30, depth);
    if (is("wild_test")) std::fill(memory.back().begin(), memory.back().end(), std::nanf(""));
    if (is("sinks")) add_numbers("sinks", {1, -1, 4, 2.5F});
    if (!is("image") || layer != 2) continue;
    // A third of the rows share a position; queries stand among the keys and behind them.
    std::vector<std::int64_t> of_keys;
    for (size i = 0; i < rows; ++i) of_keys.push_back(i < 32 ? i : i < 64 ? 32 : i - 31);
    add_positions("k_positions", std::move(of_keys));
    add_positions("q_positions", count_up(40, 40));
    if (!is("no_test")) add_positions("q_test_positions", count_up(30, 45));
    add_numbers("alibi_slopes", {0.25F, 0.0625F, 0.015625F, 0});
  }
  kvfit::tensor_metadata metadata = {
      {"format", "kvfit-capture"}, {"version", "1"}, {"scale", "0.5"}};
  if (is("image")) {
    metadata["next_position"] = "65";
    metadata["layers.2.causal"] = "true";
    metadata["layers.2.window"] = "50";
    metadata["layers.2.scale"] = "0.25";
    metadata["fingerprint"] = "model-1";
  } else {
    metadata["logical_length"] = "100";
  }
  if (is("capped")) metadata["soft_cap"] = "1.5";
  if (is("unknown")) metadata["attn_logit_softcapping"] = "50.0";
  if (!kind.empty() && (is("capped") || is("sinks") || is("image") || is("f8"))) {
    metadata["version"] = "2";
  }
  const auto done = kvfit::write_safetensors(path, tensors, metadata);
  if (!done) give_up(done.error().message());
}

// ---- Result files ------------------------------------------------------------------------------
struct arguments {
  std::vector<std::string> list;
  [[nodiscard]] const std::string& operator[](std::size_t i) const {
    expect(i < list.size(), "argument " + std::to_string(i) + " is there");
    return list[i];
  }
};

/// CAPTURE RESULT METHOD RATIO STORAGE [PROTECT_FIRST PROTECT_LAST]
void check_result(const arguments& given) {
  const kvfit::capture capture = need(kvfit::read_capture(given[0]));
  const kvfit::compact_file result = need(kvfit::read_compact_file(given[1]));
  const double ratio = std::stod(given[3]);
  const bool is_refined = given[2] == "default";  // its keys are moved
  expect(result.info.method == given[2], "method");
  expect(name(result.info.storage) == given[4], "storage");
  expect(result.info.scale == capture.scale, "scale");
  expect(result.info.next_position == capture.next_position, "next_position");
  expect(result.info.fingerprint == capture.fingerprint, "fingerprint");
  expect(result.library_version == kvfit::version, "library_version");
  expect(result.layers.size() == capture.layers.size(), "layers");
  const size first = given.list.size() > 5 ? std::stol(given[5]) : 0;
  const size last = given.list.size() > 6 ? std::stol(given[6]) : 0;
  for (std::size_t l = 0; l < result.layers.size(); ++l) {
    const kvfit::capture_layer& full = capture.layers[l];
    expect(result.layers[l].number == full.number(), "layer number");
    expect(static_cast<size>(result.layers[l].heads.size()) == full.heads(), "heads");
    for (size h = 0; h < full.heads(); ++h) {
      const kvfit::compact_head& head = result.layers[l].heads[static_cast<std::size_t>(h)];
      const auto t = static_cast<size>(std::floor(static_cast<double>(full.rows()) / ratio));
      expect(head.keys.rows() == t, "floor(T / ratio) rows");
      size before = -1;
      for (size i = 0; i < t; ++i) {
        const size at = head.positions[static_cast<std::size_t>(i)];
        expect(at > before && at < full.rows(), "positions ascend");
        expect(head.key_positions[static_cast<std::size_t>(i)] == full.block(h).position(at),
               "keys stand where they stood");
        before = at;
        expect(std::isfinite(head.bias[static_cast<std::size_t>(i)]), "finite biases");
        const bool is_protected = at < first || at >= full.rows() - last;
        for (size k = 0; k < head.keys.cols(); ++k) {
          const float whole = full.keys(h)(at, k);
          const double error = std::abs(head.keys(i, k) - whole);
          expect((is_refined && !is_protected) || error <= 0.004 * std::abs(whole) + 1e-6,
                 "keys are rows of the capture");
        }
        for (size k = 0; k < head.values.cols(); ++k) {
          const float value = head.values(i, k);
          expect(std::isfinite(value), "finite values");
          if (is_protected) expect(value == full.values(h)(at, k), "protected values are exact");
        }
      }
      for (size i = 0; i < first; ++i) {
        expect(head.positions[static_cast<std::size_t>(i)] == i, "first rows are kept");
      }
      for (size i = 0; i < last; ++i) {
        expect(head.positions[static_cast<std::size_t>(t - 1 - i)] == full.rows() - 1 - i,
               "last rows are kept");
      }
    }
  }
}

// ---- Evaluations -------------------------------------------------------------------------------
nlohmann::json read_json(const std::string& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

/// JSON JUDGED_ON HEADS METHOD,METHOD,... RATIO...
void check_rows(const arguments& given) {
  const nlohmann::json measured = read_json(given[0]);
  expect(measured.at("format") == "kvfit-eval" && measured.at("version") == 3, "format");
  expect(measured.at("library_version") == kvfit::version, "library_version");
  expect(measured.at("captures").size() == 1, "one capture");
  std::set<std::pair<std::string, double>> missing;
  std::istringstream methods(given[3]);
  for (std::string method; std::getline(methods, method, ',');) {
    for (std::size_t i = 4; i < given.list.size(); ++i) {
      missing.insert({method, std::stod(given[i])});
    }
  }
  expect(measured.at("rows").size() == missing.size(), "number of rows");
  for (const nlohmann::json& row : measured.at("rows")) {
    const auto method = row.at("method").get<std::string>();
    const auto ratio = row.at("ratio").get<double>();
    expect(missing.erase({method, ratio}) == 1, method + " at " + text(ratio) + " once");
    expect(row.at("capture") == measured.at("captures")[0].at("name"), "capture");
    expect(ratio == 1 || row.at("judged_on") == given[1], "judged_on");
    expect(row.at("heads").size() == std::stoul(given[2]), "number of heads");
    double sum = 0;
    double worst = 0;
    for (const nlohmann::json& head : row.at("heads")) {
      const auto error = head.at("output_error").get<double>();
      sum += error;
      worst = std::max(worst, error);
      expect(head.at("kept") == std::floor(rows / ratio), "rows kept");
      expect(head.at("mass_error").get<double>() >= 0, "mass_error");
      expect(head.at("cosine").get<double>() <= 1.000001, "cosine");
      expect(head.at("milliseconds").get<double>() >= 0, "milliseconds");
      if (ratio == 1) expect(error < 1e-6, "everything kept, nothing lost");
    }
    const double mean = sum / static_cast<double>(row.at("heads").size());
    expect(std::abs(row.at("output_error").get<double>() - mean) < 1e-12, "mean over heads");
    expect(row.at("output_error_worst").get<double>() == worst, "worst head");
    // Fewer than 20 heads: the worst tenth is the worst one.
    expect(row.at("output_error_worst_tenth") == row.at("output_error_worst"), "worst tenth");
    expect(row.at("cosine_worst_tenth") == row.at("cosine_worst"), "worst tenth of cosines");
  }
}

/// A row by its label and ratio.
const nlohmann::json& row_of(const nlohmann::json& measured, const std::string& capture,
                             const std::string& label, double ratio) {
  for (const nlohmann::json& row : measured.at("rows")) {
    if (row.at("capture") == capture && row.at("label") == label && row.at("ratio") == ratio) {
      return row;
    }
  }
  give_up("no row " + label + " at " + text(ratio));
}

/// JSON NAME: every row's comparison with the row of that label, from the heads' own figures.
void check_against(const arguments& given) {
  const nlohmann::json measured = read_json(given[0]);
  for (const nlohmann::json& row : measured.at("rows")) {
    const nlohmann::json& other =
        row_of(measured, row.at("capture"), given[1], row.at("ratio").get<double>());
    const nlohmann::json& against = row.at("against");
    expect(against.at("name") == given[1], "name");
    for (const std::string what : {"output", "mass"}) {
      double product = 1;
      int worse = 0;
      const std::size_t heads = row.at("heads").size();
      for (std::size_t h = 0; h < heads; ++h) {
        const double ratio = row.at("heads")[h].at(what + "_error").get<double>() /
                             other.at("heads")[h].at(what + "_error").get<double>();
        product *= ratio;
        if (ratio > 1.02) ++worse;
      }
      const double expected = std::pow(product, 1 / static_cast<double>(heads));
      const auto actual = against.at(what + "_error").get<double>();
      expect(std::abs(actual - expected) < 1e-9 * expected, what + " ratio " + text(actual));
      expect(against.at(what + "_worse") == worse, what + " heads worse");
    }
  }
}

/// JSON LABEL RATIO METHOD OUT: a reference in which METHOD has half the row's errors.
void make_reference(const arguments& given) {
  const nlohmann::json measured = read_json(given[0]);
  const std::string capture = measured.at("captures")[0].at("name");
  nlohmann::json heads = nlohmann::json::array();
  for (const auto& head : row_of(measured, capture, given[1], std::stod(given[2])).at("heads")) {
    heads.push_back({head.at("output_error").get<double>() / 2,
                     head.at("mass_error").get<double>() / 2, head.at("cosine")});
  }
  const nlohmann::json out = {{capture, {{given[2], {{given[3], {{"per_head", heads}}}}}}}};
  std::ofstream(given[4]) << out;
}

/// CAPTURE OUT: every eighth reference query becomes a test query, and the old ones go.
void split_capture(const arguments& given) {
  const kvfit::safetensors_file file = need(kvfit::read_safetensors(given[0]));
  std::vector<std::vector<std::byte>> memory;
  std::vector<kvfit::tensor_view> tensors;
  for (const kvfit::tensor_view& tensor : file.tensors) {
    if (tensor.name.ends_with(".q_test") || tensor.name.ends_with(".q_test_positions")) continue;
    if (tensor.name.ends_with(".q_positions")) {
      for (const bool is_test : {false, true}) {
        std::vector<std::byte> part;
        for (size row = 0; row < tensor.shape[0]; ++row) {
          if ((row % 8 == 7) != is_test) continue;
          const auto at = tensor.bytes.subspan(static_cast<std::size_t>(row) * 8, 8);
          part.insert(part.end(), at.begin(), at.end());
        }
        kvfit::tensor_view made = tensor;
        if (is_test) made.name.replace(made.name.size() - 9, 9, "test_positions");
        made.shape[0] = static_cast<size>(part.size() / 8);
        memory.push_back(std::move(part));
        made.bytes = memory.back();
        tensors.push_back(std::move(made));
      }
      continue;
    }
    if (!tensor.name.ends_with(".q")) {
      tensors.push_back(tensor);
      continue;
    }
    const auto row_size = static_cast<std::size_t>(tensor.shape[2]) * size_of(tensor.type);
    for (const bool is_test : {false, true}) {
      std::vector<std::byte> part;
      for (size row = 0; row < tensor.shape[0] * tensor.shape[1]; ++row) {
        if (((row % tensor.shape[1]) % 8 == 7) != is_test) continue;
        const auto at = tensor.bytes.subspan(static_cast<std::size_t>(row) * row_size, row_size);
        part.insert(part.end(), at.begin(), at.end());
      }
      kvfit::tensor_view made = tensor;
      if (is_test) made.name += "_test";
      made.shape[1] = static_cast<size>(part.size() / row_size) / tensor.shape[0];
      memory.push_back(std::move(part));
      made.bytes = memory.back();
      tensors.push_back(std::move(made));
    }
  }
  const auto done = kvfit::write_safetensors(given[1], tensors, file.metadata);
  if (!done) give_up(done.error().message());
}

/// JSON LABEL RATIO OUTPUT MASS: the geometric means are these, to three digits.
void check_geometric(const arguments& given) {
  const nlohmann::json measured = read_json(given[0]);
  const std::string capture = measured.at("captures")[0].at("name");
  const nlohmann::json& row = row_of(measured, capture, given[1], std::stod(given[2]));
  const auto check = [&](const char* what, const std::string& shown) {
    const auto expected = row.at(what).get<double>();
    expect(std::abs(std::stod(shown) - expected) <= 0.0051 * expected,
           std::string(what) + " " + shown + " against " + text(expected));
  };
  check("output_error_geometric", given[3]);
  check("mass_error_geometric", given[4]);
}

/// Softmax attention of one query in double, by the equations of the rule: the output, and the
/// log-mass behind it.
std::vector<double> attend(const kvfit::query_block& query, size q, const kvfit::kv_block& cache,
                           const kvfit::logit_rule& rule) {
  std::vector<double> out(static_cast<std::size_t>(cache.values.cols()) + 1, 0.0);
  double mass = std::exp(double{query.sink_logit});
  for (size j = 0; j < cache.keys.rows(); ++j) {
    double logit = 0;
    for (size k = 0; k < cache.keys.cols(); ++k) {
      logit += double{*rule.scale} * static_cast<double>(query.rows(q, k)) *
               static_cast<double>(cache.keys(j, k));
    }
    if (rule.soft_cap > 0) logit = rule.soft_cap * std::tanh(logit / rule.soft_cap);
    if (!cache.bias.empty()) logit += static_cast<double>(cache.bias[static_cast<std::size_t>(j)]);
    const size back = query.position(q) - cache.position(j);
    if ((rule.causal && back < 0) || (rule.window > 0 && back >= rule.window)) continue;
    const double weight = std::exp(logit - double{query.alibi_slope} * static_cast<double>(back));
    mass += weight;
    for (size k = 0; k < cache.values.cols(); ++k) {
      out[static_cast<std::size_t>(k)] += weight * static_cast<double>(cache.values(j, k));
    }
  }
  for (double& x : out) x /= mass;
  out.back() = std::log(mass);
  return out;
}

/// CAPTURE RESULT JSON METHOD RATIO [train]: the figures of the JSON against naive attention over
/// RESULT, by the rule that RESULT carries, of test queries or of those fitted on.
void check_eval(const arguments& given) {
  const kvfit::capture capture = need(kvfit::read_capture(given[0]));
  const kvfit::compact_file result = need(kvfit::read_compact_file(given[1]));
  const nlohmann::json measured = read_json(given[2]);
  const auto& all = measured.at("rows");
  const auto row = std::find_if(all.begin(), all.end(), [&](const nlohmann::json& one) {
    return one.at("method") == given[3] && one.at("ratio") == std::stod(given[4]);
  });
  expect(row != all.end(), "a row for " + given[3]);
  const bool is_train = given.list.size() > 5 && given[5] == "train";
  std::size_t place = 0;
  for (std::size_t l = 0; l < capture.layers.size(); ++l) {
    const kvfit::capture_layer& layer = capture.layers[l];
    for (size h = 0; h < layer.heads(); ++h) {
      const kvfit::compact_head& small = result.layers[l].heads[static_cast<std::size_t>(h)];
      double output_error = 0;
      double mass_error = 0;
      double count = 0;
      const kvfit::kv_block compacted{.keys = small.keys,
                                      .values = small.values,
                                      .bias = small.bias,
                                      .positions = small.key_positions};
      for (const kvfit::query_block& block :
           is_train ? layer.query_blocks(h) : layer.test_query_blocks(h)) {
        for (size q = 0; q < block.rows.rows(); ++q) {
          const auto full = attend(block, q, layer.block(h), layer.rule().logits);
          const auto compact = attend(block, q, compacted, result.layers[l].rule.logits);
          double difference = 0;
          double norm = 0;
          for (std::size_t k = 0; k + 1 < full.size(); ++k) {
            difference += (full[k] - compact[k]) * (full[k] - compact[k]);
            norm += full[k] * full[k];
          }
          output_error += std::sqrt(difference / norm);
          mass_error += std::abs(std::expm1(compact.back() - full.back()));
          ++count;
        }
      }
      const nlohmann::json& head = row->at("heads").at(place++);
      const auto check = [&](const char* what, double expected) {
        const auto actual = head.at(what).get<double>();
        expect(std::abs(actual - expected) <= 1e-4 * expected,
               std::string(what) + " " + text(actual) + " against " + text(expected));
      };
      expect(head.at("layer") == layer.number() && head.at("head") == h, "layer and head");
      expect(head.at("queries").get<double>() == count, "queries");
      check("output_error", output_error / count);
      check("mass_error", mass_error / count);
    }
  }
}

void run(const std::string& command, const arguments& given) {
  if (command == "make_capture") {
    return make_capture(given[0], given.list.size() > 1 ? given[1] : "");
  }
  if (command == "check_result") return check_result(given);
  if (command == "check_rows") return check_rows(given);
  if (command == "check_eval") return check_eval(given);
  if (command == "check_against") return check_against(given);
  if (command == "make_reference") return make_reference(given);
  if (command == "split_capture") return split_capture(given);
  if (command == "check_geometric") return check_geometric(given);
  give_up("no command " + command);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc < 2) give_up("which command?");
    run(argv[1], {std::vector<std::string>(argv + 2, argv + argc)});
  } catch (const std::exception& wrong) {
    give_up(wrong.what());
  }
  return 0;
}
