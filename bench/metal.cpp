// SPDX-License-Identifier: MIT
/// Stages on the GPU beside the same on the CPU, from small to large: who is faster from which size
/// on, and by how much. Wall-clock seconds of the call, with its copies and its waits; the least of
/// three, after one that compiles shaders. `--small` runs a few small sizes once: a test that all
/// of it works.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#define KVFIT_METAL
#include "kvfit/attention/score_by.hpp"
#include "kvfit/metal/executor.hpp"
#include "kvfit/presets.hpp"
#include "process.hpp"
#include "synthetic.hpp"

namespace {

using kvfit::index_t;
using kvfit::bench::now;

struct row {
  std::string stage;
  index_t keys = 0;
  index_t queries = 0;
  double work = 0;  ///< multiply-adds
  double cpu = 0;
  double gpu = 0;
};

/// The least of `runs` calls; below 0 where one failed.
double least_seconds(int runs, const std::function<bool()>& call) {
  double least = 1e300;
  for (int run = 0; run < runs; ++run) {
    const double begin = now();
    if (!call()) return -1;
    least = std::min(least, now() - begin);
  }
  return least;
}

struct half_head {
  kvfit::bench::head numbers;
  std::vector<kvfit::fp16> keys;
  std::vector<kvfit::fp16> values;
  kvfit::kv_block cache;

  half_head(index_t count, index_t queries, index_t depth)
      : numbers(kvfit::bench::synthetic_head(
            {.keys = count, .depth = depth, .queries = queries, .held_out = 1})) {
    const auto halved = [](const kvfit::matrix& of) {
      std::vector<kvfit::fp16> out;
      for (index_t k = 0; k < of.size(); ++k) out.push_back(kvfit::to_fp16(of.data()[k]));
      return out;
    };
    keys = halved(numbers.keys);
    values = halved(numbers.values);
    cache = {.keys = {keys.data(), count, depth}, .values = {values.data(), count, depth}};
  }
  half_head(const half_head&) = delete;
  half_head& operator=(const half_head&) = delete;
};

class measurement {
 public:
  measurement(const kvfit::metal::executor& gpu, int runs) : gpu_(gpu), runs_(runs) {}

  /// Both calls; false where one fails.
  bool add(row of, const std::function<bool()>& cpu, const std::function<bool()>& gpu) {
    if (runs_ > 1 && !gpu()) return false;  // compiles shaders
    of.cpu = least_seconds(runs_, cpu);
    of.gpu = least_seconds(runs_, gpu);
    std::printf("%-18s %8ld %8ld %12.3g %12.6f %12.6f %8.2f\n", of.stage.c_str(), long(of.keys),
                long(of.queries), of.work, of.cpu, of.gpu, of.cpu / of.gpu);
    std::fflush(stdout);
    rows_.push_back(of);
    return of.cpu >= 0 && of.gpu >= 0;
  }

  bool score(index_t keys, index_t queries, index_t depth) {
    const half_head head(keys, queries, depth);
    const kvfit::score_options options;
    const kvfit::logit_rule rule;
    const auto with = [&](const kvfit::score_runner& runner) {
      return kvfit::detail::score_by(runner, head.cache, head.numbers.queries, rule, options, {},
                                     {}, {})
          .has_value();
    };
    return add(
        {"score pass", keys, queries, 2.0 * double(keys * queries) * double(depth)},
        [&] { return with({}); },
        [&] {
          return with({&gpu_.state(), &kvfit::metal::run_score_pass});
        });
  }

  /// `heads` KV heads together, `queries` rows each.
  bool attend(const char* name, index_t keys, index_t queries, index_t heads, index_t depth) {
    const half_head head(keys, queries, depth);
    const std::vector<kvfit::metal::attend_request> requests(static_cast<std::size_t>(heads),
                                                             {.queries = head.numbers.queries,
                                                              .blocks = std::span(&head.cache, 1),
                                                              .checks_numbers = false});
    return add(
        {name, keys, queries * heads, 2.0 * double(heads * keys * queries) * double(depth)},
        [&] {
          return std::all_of(requests.begin(), requests.end(), [&](const auto& one) {
            return kvfit::attend(one.queries, one.blocks).has_value();
          });
        },
        [&] { return kvfit::metal::attend(gpu_, requests).has_value(); });
  }

  bool method(const char* name, index_t keys, index_t queries, index_t depth) {
    const half_head head(keys, queries, depth);
    const auto options = kvfit::presets::find(name)->make(std::max<index_t>(keys / 20, 4));
    return add(
        {name, keys, queries, 2.0 * double(keys * queries) * double(depth)},
        [&] { return kvfit::compact(head.cache, head.numbers.queries, options).has_value(); },
        [&] {
          return kvfit::metal::compact(gpu_, head.cache, head.numbers.queries, options).has_value();
        });
  }

  void write(const char* path) const {
    std::ofstream out(path);
    out << "[\n";
    for (std::size_t k = 0; k < rows_.size(); ++k) {
      const row& r = rows_[k];
      out << R"(  {"stage": ")" << r.stage << R"(", "keys": )" << r.keys << R"(, "queries": )"
          << r.queries << R"(, "multiply_adds": )" << r.work << R"(, "cpu_seconds": )" << r.cpu
          << R"(, "gpu_seconds": )" << r.gpu << "}" << (k + 1 < rows_.size() ? "," : "") << "\n";
    }
    out << "]\n";
  }

  /// The work from which the GPU was faster at every size of a stage.
  void print_break_even() const {
    std::printf("\nThe GPU is faster from so many multiply-adds on (`placement`):\n");
    std::vector<std::string> seen;
    for (const row& one : rows_) {
      if (std::find(seen.begin(), seen.end(), one.stage) != seen.end()) continue;
      seen.push_back(one.stage);
      double from = 0;
      double most = 0;
      for (const row& r : rows_) {
        if (r.stage != one.stage) continue;
        most = std::max(most, r.work);
        if (r.cpu < r.gpu) from = std::max(from, r.work);
      }
      if (from >= most) {
        std::printf("%-18s at no size measured\n", one.stage.c_str());
      } else {
        std::printf("%-18s above %.3g\n", one.stage.c_str(), from);
      }
    }
  }

 private:
  const kvfit::metal::executor& gpu_;
  int runs_;
  std::vector<row> rows_;
};

}  // namespace

int main(int count, char** arguments) {
  const bool is_small = count > 1 && std::strcmp(arguments[1], "--small") == 0;
  const auto gpu = kvfit::metal::executor::make(
      {.from = {.score_from = 0, .attend_from = 0, .select_from = 0, .fit_from = 0}});
  if (!gpu) {
    std::fprintf(stderr, "metal: %s\n", gpu.error().message().c_str());
    return 3;
  }
  std::printf("%-18s %8s %8s %12s %12s %12s %8s\n", "stage", "keys", "queries", "multiply-adds",
              "CPU s", "GPU s", "ratio");
  measurement all(*gpu, is_small ? 1 : 3);
  bool ok = true;
  const std::vector<index_t> sizes =
      is_small ? std::vector<index_t>{128} : std::vector<index_t>{1024, 4096, 16384, 65536, 131072};
  const index_t depth = is_small ? 16 : 128;
  for (const index_t keys : sizes) ok = ok && all.score(keys, is_small ? 64 : 2048, depth);
  for (const index_t keys : sizes) ok = ok && all.attend("decode, 8 heads", keys, 4, 8, depth);
  for (const index_t keys : sizes) {
    ok = ok && all.attend("prefill", keys, is_small ? 40 : 512, 1, depth);
  }
  for (const char* name : {"highest_attention", "omp", "default"}) {
    for (const index_t keys : sizes) {
      if (keys <= 16384) ok = ok && all.method(name, keys, is_small ? 64 : 2048, depth);
    }
  }
  all.print_break_even();
  const auto counts = gpu->counts();
  std::printf("left to the CPU: %ld\n", long(counts.handed_over));
  if (count > 1 && !is_small) all.write(arguments[1]);
  if (!ok) std::fprintf(stderr, "metal: a call failed\n");
  return ok ? 0 : 1;
}
