// SPDX-License-Identifier: MIT
/// Tied values beside untied and copied ones: errors on queries that no fit has seen.
///
/// The heads of a capture (the one in examples/data, or that named by the first argument), turned
/// into heads whose values are columns of their keys: all of them (K = V), or the first three
/// quarters (as MLA has them). Geometric means over the heads.
#include <array>
#include <cmath>
#include <cstdio>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/attention/attend.hpp"
#include "kvfit/attention/compare.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/io/capture.hpp"
#include "kvfit/presets.hpp"

namespace {

using kvfit::compact_options;
using kvfit::index_t;

constexpr std::array<index_t, 4> ratios = {5, 10, 20, 50};

/// Rows of highest attention as they are, under a fitted bias.
compact_options evicting_with_bias(index_t budget) {
  compact_options options = kvfit::presets::topk(budget);
  options.bias = kvfit::bias::nnls{};
  return options;
}

compact_options bias_alone(index_t budget) {
  compact_options options = kvfit::presets::tied(kvfit::presets::joint(budget), 0);
  options.refine.steps = 0;
  return options;
}

compact_options tied(index_t budget) {
  return kvfit::presets::tied(kvfit::presets::joint(budget), 0);
}

compact_options tied_refined(index_t budget) {
  return kvfit::presets::tied(kvfit::presets::refined(budget), 0);
}

struct method {
  const char* name;
  compact_options (*make)(index_t budget);
};

constexpr std::array<method, 6> methods = {{
    {"copied, with bias", evicting_with_bias},
    {"tied, bias alone", bias_alone},
    {"tied", tied},
    {"tied, refined", tied_refined},
    {"untied (`joint`)", kvfit::presets::joint},
    {"untied, `refined`", kvfit::presets::refined},
}};

/// Sums of logarithms over heads.
struct sums {
  double output = 0;
  double mass = 0;
  double seconds = 0;
};

/// One head whose values are the first `width` columns of its keys.
struct tied_head {
  kvfit::matrix keys;
  index_t width;
  std::vector<kvfit::query_block> queries;
  std::vector<kvfit::query_block> test_queries;
  kvfit::attention_output full;  ///< of the test queries over the whole head

  [[nodiscard]] kvfit::kv_block cache() const {
    return {.keys = keys, .values = kvfit::row_view(keys).middle_cols(0, width)};
  }
};

kvfit::result<void> add(const tied_head& head, compact_options options, const kvfit::capture& from,
                        sums& to) {
  options.rule.scale = from.scale;
  options.refine.rotation = from.rotation;
  const std::span<const kvfit::query_block> queries(head.queries);
  const std::span<const kvfit::query_block> test(head.test_queries);
  const auto fitted = kvfit::compact(head.cache(), queries, options);
  if (!fitted) return fitted.error();
  const auto found = kvfit::attend(test, {fitted->block()}, options.rule);
  if (!found) return found.error();
  const kvfit::fidelity errors =
      kvfit::compare(head.full.output, head.full.log_mass, found->output, found->log_mass);
  to.output += std::log(errors.output_error);
  to.mass += std::log(errors.mass_error);
  to.seconds += fitted->report.seconds.total;
  return {};
}

kvfit::result<std::vector<tied_head>> tied_heads(const kvfit::capture& capture, bool is_whole) {
  std::vector<tied_head> heads;
  for (const kvfit::capture_layer& layer : capture.layers) {
    for (index_t h = 0; h < layer.heads(); ++h) {
      const kvfit::row_view own = layer.keys(h);
      tied_head head{.keys = kvfit::matrix(own.rows(), own.cols()),
                     .width = is_whole ? own.cols() : own.cols() * 3 / 4,
                     .queries = {layer.queries(h).begin(), layer.queries(h).end()},
                     .test_queries = {layer.test_queries(h).begin(), layer.test_queries(h).end()},
                     .full = {}};
      for (index_t i = 0; i < own.rows(); ++i) kvfit::load_row(own, i, head.keys.row(i).data());
      auto full = kvfit::attend(std::span<const kvfit::query_block>(head.test_queries),
                                {head.cache()}, {.scale = capture.scale});
      if (!full) return full.error();
      head.full = std::move(*full);
      heads.push_back(std::move(head));
    }
  }
  return heads;
}

/// Prints a row as soon as its method has run.
kvfit::result<void> measure(const kvfit::capture& capture, bool is_whole) {
  const auto heads = tied_heads(capture, is_whole);
  if (!heads) return heads.error();
  std::printf("\n| %s | output 5× | 10× | 20× | 50× | mass 5× | 10× | 20× | 50× | ms a head |\n",
              is_whole ? "K = V" : "values: 3/4 of the keys' columns");
  std::printf("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n");
  const auto count = static_cast<double>(heads->size());
  for (const method& tried : methods) {
    std::array<sums, ratios.size()> row{};
    for (std::size_t r = 0; r < ratios.size(); ++r) {
      for (const tied_head& head : *heads) {
        const index_t budget = head.keys.rows() / ratios[r];
        if (const auto ok = add(head, tried.make(budget), capture, row[r]); !ok) return ok;
      }
    }
    std::printf("| %s |", tried.name);
    for (const sums& at : row) std::printf(" %.3f |", std::exp(at.output / count));
    for (const sums& at : row) std::printf(" %.3f |", std::exp(at.mass / count));
    for (std::size_t r = 0; r < ratios.size(); ++r) {
      std::printf("%s%.0f", r == 0 ? " " : " / ", 1000 * row[r].seconds / count);
    }
    std::printf(" |\n");
    std::fflush(stdout);
  }
  return {};
}

}  // namespace

int main(int count, char** arguments) {
  const char* path = count > 1 ? arguments[1] : "examples/data/tinybooks.safetensors";
  const auto capture = kvfit::read_capture(path);
  if (!capture) {
    std::fprintf(stderr, "%s\n", capture.error().message().c_str());
    return 1;
  }
  for (const bool is_whole : {true, false}) {
    if (const auto ok = measure(*capture, is_whole); !ok) {
      std::fprintf(stderr, "%s\n", ok.error().message().c_str());
      return 1;
    }
  }
  return 0;
}
