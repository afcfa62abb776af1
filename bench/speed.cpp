// SPDX-License-Identifier: MIT
/// The published method in plain Eigen beside kvfit, in one run on the same head, with the same
/// flags and one thread: seconds (medians of alternating calls), held-out errors, share of the
/// roof, and what the roof would allow. Then threads over heads and within one, growth with T, and
/// memory under a cap.
///
///     speed [FILE]     rows as a table, and as JSON in FILE
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "kvfit/attention/score_pass.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/core/active_isa.hpp"
#include "kvfit/core/version.hpp"
#include "kvfit/parallel/serial.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/presets.hpp"
#include "process.hpp"
#include "roof.hpp"
#include "workload.hpp"

namespace {

using kvfit::index_t;
using kvfit::bench::now;
using kvfit::bench::quality;
using kvfit::bench::workload;

constexpr index_t keys = 16384;
constexpr index_t depth = 128;

struct row {
  std::string name;
  std::optional<double> baseline_s = {};
  double kvfit_s = 0;
  std::optional<quality> baseline_error = {};
  std::optional<quality> kvfit_error = {};
  std::optional<double> percent_of_roof = {};
  nlohmann::json more = nlohmann::json::object();  ///< what else belongs to it
};

nlohmann::json or_null(const std::optional<double>& number) {
  return number ? nlohmann::json(*number) : nlohmann::json();
}

class table {
 public:
  void add(row what) {
    nlohmann::json line = {{"name", what.name},
                           {"baseline_s", or_null(what.baseline_s)},
                           {"kvfit_s", what.kvfit_s},
                           {"ratio", nullptr},
                           {"error_baseline", nullptr},
                           {"error_kvfit", nullptr},
                           {"percent_of_roof", or_null(what.percent_of_roof)}};
    std::printf("%-46s", what.name.c_str());
    if (what.baseline_s) {
      line["ratio"] = *what.baseline_s / what.kvfit_s;
      std::printf(" %9.3f s", *what.baseline_s);
    } else {
      std::printf(" %11s", "-");
    }
    std::printf(" %9.3f s", what.kvfit_s);
    if (what.baseline_s) std::printf(" %6.2f x", *what.baseline_s / what.kvfit_s);
    if (what.baseline_error) {
      line["error_baseline"] = what.baseline_error->output_error;
      line["mass_error_baseline"] = what.baseline_error->mass_error;
    }
    if (what.kvfit_error) {
      line["error_kvfit"] = what.kvfit_error->output_error;
      line["mass_error_kvfit"] = what.kvfit_error->mass_error;
      std::printf("  errors");
      if (what.baseline_error) std::printf(" %.3g ->", what.baseline_error->output_error);
      std::printf(" %.3g", what.kvfit_error->output_error);
    }
    if (what.percent_of_roof) std::printf("  %.0f %% of roof", *what.percent_of_roof);
    line.update(what.more);
    if (!what.more.empty()) std::printf("  %s", what.more.dump().c_str());
    std::printf("\n");
    std::fflush(stdout);
    rows_.push_back(std::move(line));
  }

  [[nodiscard]] const nlohmann::json& rows() const { return rows_; }

 private:
  nlohmann::json rows_ = nlohmann::json::array();
};

double median(std::vector<double> of) {
  std::sort(of.begin(), of.end());
  return of.size() % 2 == 1 ? of[of.size() / 2] : (of[of.size() / 2 - 1] + of[of.size() / 2]) / 2;
}

template <class Call>
auto timed(std::vector<double>& seconds, Call call) {
  const double start = now();
  auto got = call();
  seconds.push_back(now() - start);
  return got;
}

kvfit::compacted fitted(const workload& work, const kvfit::compact_options& options) {
  auto got = kvfit::compact(work.data.keys, work.data.values, work.data.queries, options);
  if (!got) {
    std::fprintf(stderr, "%s\n", got.error().message().c_str());
    std::exit(1);
  }
  return std::move(*got);
}

/// The rows that both chose, as a share.
double alike(std::vector<index_t> one, std::vector<index_t> other) {
  std::sort(one.begin(), one.end());
  std::sort(other.begin(), other.end());
  std::vector<index_t> both;
  std::set_intersection(one.begin(), one.end(), other.begin(), other.end(),
                        std::back_inserter(both));
  return static_cast<double>(both.size()) / static_cast<double>(one.size());
}

/// Geometric means of errors.
class mean_quality {
 public:
  void add(const quality& one) {
    output_ += std::log(one.output_error);
    mass_ += std::log(one.mass_error);
    ++count_;
  }
  [[nodiscard]] quality mean() const {
    return {std::exp(output_ / count_), std::exp(mass_ / count_)};
  }

 private:
  double output_ = 0;
  double mass_ = 0;
  double count_ = 0;
};

/// Seconds of each stage, over calls.
class stage_medians {
 public:
  void add(const kvfit::stage_seconds& of) {
    for (std::size_t k = 0; k < names.size(); ++k) seconds_[k].push_back(of.*fields[k]);
  }
  [[nodiscard]] nlohmann::json medians() const {
    nlohmann::json out = nlohmann::json::object();
    for (std::size_t k = 0; k < names.size(); ++k) out[names[k]] = median(seconds_[k]);
    return out;
  }

 private:
  static constexpr std::array<const char*, 7> names = {"check",  "score",  "select", "bias",
                                                       "refine", "values", "judge"};
  static constexpr std::array<double kvfit::stage_seconds::*, 7> fields = {
      &kvfit::stage_seconds::check, &kvfit::stage_seconds::score,  &kvfit::stage_seconds::select,
      &kvfit::stage_seconds::bias,  &kvfit::stage_seconds::refine, &kvfit::stage_seconds::values,
      &kvfit::stage_seconds::judge};
  std::array<std::vector<double>, 7> seconds_;
};

/// Seconds in which a score pass and the value fit by QR could be had at the roof, whatever the
/// selection costs.
double least_seconds(const workload& work, double roof) {
  const auto n = static_cast<double>(work.data.queries.rows());
  const auto t = static_cast<double>(work.budget);
  const double scores = 4 * n * static_cast<double>(work.data.keys.size());
  const double fit = 2 * n * t * t - 2 * t * t * t / 3;
  return (scores + fit) / (roof * 1e9);
}

/// `repeats` calls of each on every head, in turns.
template <class Plain>
void add_method(table& to, const std::string& name, int heads, int repeats, double roof,
                Plain plain, const char* preset) {
  row what{.name = name};
  std::vector<double> plain_seconds;
  std::vector<double> our_seconds;
  mean_quality plain_errors;
  mean_quality our_errors;
  stage_medians stages;
  double least = 0;
  nlohmann::json rows_alike = nlohmann::json::array();
  for (int head = 1; head <= heads; ++head) {
    const workload& work = kvfit::bench::load(keys, depth, static_cast<std::uint64_t>(head));
    const auto options = kvfit::presets::find(preset)->make(work.budget);
    for (int k = 0; k < repeats; ++k) {
      const baseline::compacted one = timed(plain_seconds, [&] { return plain(work); });
      const kvfit::compacted other = timed(our_seconds, [&] { return fitted(work, options); });
      stages.add(other.report.seconds);
      if (k > 0) continue;
      plain_errors.add(judge(work, one.keys, one.bias, one.values));
      our_errors.add(judge(work, other.keys, other.bias, other.values));
      rows_alike.push_back(alike(one.positions, other.positions));
    }
    least = least_seconds(work, roof);
  }
  what.more["rows_alike"] = rows_alike;
  what.baseline_error = plain_errors.mean();
  what.kvfit_error = our_errors.mean();
  what.baseline_s = median(plain_seconds);
  what.kvfit_s = median(our_seconds);
  what.more["ratio_at_roof"] = *what.baseline_s / least;
  what.more["stages_s"] = stages.medians();
  to.add(std::move(what));
}

/// Heads of several seeds: where the two part at a tie, either may end with the larger error.
constexpr int seeds = 3;

void add_methods(table& to, double roof) {
  const auto omp = [](const workload& work, const baseline::omp& options) {
    return baseline::compact_omp(work.data.queries, work.data.keys, work.data.values, work.budget,
                                 options);
  };
  add_method(
      to, "highest attention, bias, values", seeds, 3, roof,
      [](const workload& work) {
        return baseline::compact_highest_attention(work.data.queries, work.data.keys,
                                                   work.data.values, work.budget);
      },
      "highest_attention");
  add_method(
      to, "OMP-fast, bias, values", seeds, 1, roof,
      [&](const workload& work) { return omp(work, {.keys_per_round = 4, .refit_interval = 2}); },
      "omp_fast");
  add_method(
      to, "OMP, bias, values", seeds, 1, roof, [&](const workload& work) { return omp(work, {}); },
      "omp");
}

/// The default, which has no published counterpart, and its search among all keys, in turns.
void add_default(table& to) {
  const std::array<const char*, 2> names = {"default", "default, its search among all keys"};
  std::array<std::vector<double>, 2> seconds;
  std::array<stage_medians, 2> stages;
  std::array<mean_quality, 2> errors;
  for (int head = 1; head <= seeds; ++head) {
    const workload& work = kvfit::bench::load(keys, depth, static_cast<std::uint64_t>(head));
    for (std::size_t k = 0; k < names.size(); ++k) {
      auto options = kvfit::presets::find("default")->make(work.budget);
      if (k == 1) options.selection.get_if<kvfit::selection::joint>()->candidates = 0;
      const auto got = timed(seconds[k], [&] { return fitted(work, options); });
      stages[k].add(got.report.seconds);
      errors[k].add(judge(work, got.keys, got.bias, got.values));
    }
  }
  for (std::size_t k = 0; k < names.size(); ++k) {
    row what{.name = names[k]};
    what.kvfit_s = median(seconds[k]);
    what.kvfit_error = errors[k].mean();
    what.more["stages"] = stages[k].medians();
    to.add(std::move(what));
  }
}

constexpr std::array<kvfit::precision_kind, 3> precisions = {
    kvfit::precision_kind::fp32, kvfit::precision_kind::bf16x3, kvfit::precision_kind::bf16};
constexpr std::array<const char*, 3> precision_names = {"", ", bf16x3", ", bf16"};

/// The outputs' distance from attention in double over some queries, as a share of their norm.
double rounding_of(const workload& work, const kvfit::matrix& output) {
  constexpr index_t count = 64;
  const auto& data = work.data;
  const Eigen::MatrixXd q = data.queries.topRows(count).cast<double>();
  const Eigen::MatrixXd k = data.keys.cast<double>();
  Eigen::MatrixXd weights = q * k.transpose() / std::sqrt(static_cast<double>(k.cols()));
  for (index_t i = 0; i < count; ++i) {
    weights.row(i) = (weights.row(i).array() - weights.row(i).maxCoeff()).exp();
    weights.row(i) /= weights.row(i).sum();
  }
  const Eigen::MatrixXd exact = weights * data.values.cast<double>();
  return (output.topRows(count).cast<double>() - exact).norm() / exact.norm();
}

void add_scores(table& to, double roof, std::optional<double> bf16_roof) {
  const workload& work = kvfit::bench::load(keys, depth);
  const auto& data = work.data;
  std::vector<double> plain_seconds;
  std::array<std::vector<double>, 3> our_seconds;
  std::array<double, 3> rounding{};
  for (int k = 0; k < 7; ++k) {
    timed(plain_seconds, [&] {
      const auto full = baseline::attend(data.queries, data.keys, data.values);
      return baseline::rms_importance(full);
    });
    for (std::size_t p = 0; p < precisions.size(); ++p) {
      const auto scores = timed(our_seconds[p], [&] {
        return kvfit::score_pass({.keys = data.keys, .values = data.values}, data.queries, {},
                                 {.precision = precisions[p]});
      });
      if (k == 0) rounding[p] = rounding_of(work, scores->output);
    }
  }
  const double flops = 4.0 * static_cast<double>(data.queries.rows() * keys * depth);
  for (std::size_t p = 0; p < precisions.size(); ++p) {
    row what{.name = std::string("score pass") + precision_names[p]};
    if (p == 0) what.baseline_s = median(plain_seconds);
    what.kvfit_s = median(our_seconds[p]);
    const double products = precisions[p] == kvfit::precision_kind::bf16x3 ? 3 : 1;
    const auto under = p == 0 ? std::optional(roof) : bf16_roof;
    if (under) what.percent_of_roof = 100 * products * flops / what.kvfit_s / (*under * 1e9);
    what.more["rounding_of_outputs"] = rounding[p];
    to.add(std::move(what));
  }
}

/// One method on score passes of all precisions, in turns.
void add_precisions(table& to) {
  const workload& work = kvfit::bench::load(keys, depth);
  std::array<std::vector<double>, 3> seconds;
  std::array<quality, 3> errors;
  auto options = kvfit::presets::find("highest_attention")->make(work.budget);
  for (int k = 0; k < 7; ++k) {
    for (std::size_t p = 0; p < precisions.size(); ++p) {
      options.precision = precisions[p];
      const auto got = timed(seconds[p], [&] { return fitted(work, options); });
      if (k == 0) errors[p] = judge(work, got.keys, got.bias, got.values);
    }
  }
  for (std::size_t p = 1; p < precisions.size(); ++p) {
    row what{.name = std::string("highest attention") + precision_names[p]};
    what.kvfit_s = median(seconds[p]);
    what.kvfit_error = errors[p];
    what.more["fp32_s"] = median(seconds[0]);
    to.add(std::move(what));
  }
}

/// Several heads one after the other, and on all cores.
void add_threads(table& to) {
  const workload& work = kvfit::bench::load(keys, depth);
  kvfit::thread_pool pool;
  const auto options = kvfit::presets::find("highest_attention")->make(work.budget);
  const index_t heads = 4 * pool.threads();
  std::vector<double> alone;
  std::vector<double> together;
  const auto body = [&](index_t) noexcept { fitted(work, options); };
  for (int k = 0; k < 3; ++k) {
    timed(alone, [&] { return kvfit::serial{}.run(heads, body), 0; });
    timed(together, [&] { return pool.run(heads, body), 0; });
  }
  row what{.name = std::to_string(pool.threads()) + " threads over heads, highest attention",
           .baseline_s = median(alone)};
  what.kvfit_s = median(together);
  what.more["heads"] = heads;
  to.add(std::move(what));
}

/// One head on one thread, and on all cores.
void add_threads_within(table& to) {
  const workload& work = kvfit::bench::load(keys, depth);
  const auto& data = work.data;
  kvfit::thread_pool pool;
  for (const char* preset : {"highest_attention", "omp_fast", "omp", "default"}) {
    const auto options = kvfit::presets::find(preset)->make(work.budget);
    std::vector<double> alone;
    std::vector<double> together;
    const auto fit = [&](const kvfit::executor_ref& threads) {
      return kvfit::compact(data.keys, data.values, data.queries, options, {}, threads).has_value();
    };
    for (int k = 0; k < 5; ++k) {
      timed(alone, [&] { return fit({}); });
      timed(together, [&] { return fit(pool); });
    }
    row what{.name = std::to_string(pool.threads()) + " threads within one head, " + preset,
             .baseline_s = median(alone)};
    what.kvfit_s = median(together);
    to.add(std::move(what));
  }
}

/// Seconds against T at fixed n and t: the exponent of a least-squares line in logarithms.
void add_growth(table& to) {
  std::vector<double> x;
  std::vector<double> y;
  double longest = 0;
  for (index_t rows = 4096; rows <= 131072; rows *= 2) {
    const auto head = kvfit::bench::synthetic_head(
        {.keys = rows, .depth = depth, .queries = 1024, .held_out = 0, .seed = 3});
    const auto options = kvfit::presets::find("highest_attention")->make(256);
    std::vector<double> seconds;
    for (int k = 0; k < 5; ++k) {
      timed(seconds, [&] {
        return kvfit::compact(head.keys, head.values, head.queries, options).has_value();
      });
    }
    longest = median(seconds);
    x.push_back(std::log(static_cast<double>(rows)));
    y.push_back(std::log(longest));
  }
  const Eigen::Map<const Eigen::ArrayXd> at(x.data(), static_cast<index_t>(x.size()));
  const Eigen::Map<const Eigen::ArrayXd> took(y.data(), static_cast<index_t>(y.size()));
  const Eigen::ArrayXd from_mean = at - at.mean();
  row what{.name = "growth with T, 4k to 128k, n = 1,024, t = 256"};
  what.kvfit_s = longest;
  what.more["exponent"] = (from_mean * took).sum() / from_mean.square().sum();
  to.add(std::move(what));
}

/// What is resident beyond the inputs, under caps; the exponentials alone would be 128 MB.
void add_memory(table& to) {
  const workload& work = kvfit::bench::load(keys, depth);
  for (const index_t megabytes : {256, 96}) {
    for (const char* preset : {"omp_fast", "highest_attention"}) {
      auto options = kvfit::presets::find(preset)->make(work.budget);
      options.memory.cap = megabytes << 20;
#if defined(__GLIBC__)
      malloc_trim(0);
#endif
      kvfit::bench::forget_peak();
      const double before = kvfit::bench::status_megabytes("VmRSS");
      const double start = now();
      const auto got = kvfit::compact(work.data.keys, work.data.values, work.data.queries, options);
      row what{.name =
                   std::string("memory, ") + preset + ", cap " + std::to_string(megabytes) + " MB"};
      what.kvfit_s = now() - start;
      what.more["cap_megabytes"] = megabytes;
      if (got) {
        what.kvfit_error = judge(work, got->keys, got->bias, got->values);
        what.more["estimate_megabytes"] =
            static_cast<double>(got->report.memory.needed) / (1 << 20);
        what.more["resident_megabytes"] = kvfit::bench::status_megabytes("VmHWM") - before;
      } else {
        what.more["refused"] = got.error().message();
      }
      to.add(std::move(what));
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  const double roof = kvfit::bench::measure_roof();
  const auto bf16_roof = kvfit::bench::measure_bf16_roof();
  std::printf("T = %lld, n = %lld, d = %lld, t = %lld; FMA roof %.0f GFLOP/s; %s\n",
              static_cast<long long>(keys), static_cast<long long>(kvfit::bench::fit_queries),
              static_cast<long long>(depth),
              static_cast<long long>(keys / kvfit::bench::compaction_ratio), roof,
              std::string(kvfit::active_isa()).c_str());
  std::printf("%-46s %11s %11s %8s\n", "", "plain Eigen", "kvfit", "ratio");
  table out;
  add_memory(out);  // first, while the process holds nothing else
  add_scores(out, roof, bf16_roof);
  add_growth(out);
  add_threads(out);
  add_threads_within(out);
  add_precisions(out);
  add_methods(out, roof);
  add_default(out);
  const nlohmann::json report = {{"machine", kvfit::bench::cpu_name()},
                                 {"compiler", KVFIT_BENCH_COMPILER},
                                 {"flags", KVFIT_BENCH_FLAGS},
                                 {"isa", kvfit::active_isa()},
                                 {"kvfit", kvfit::version},
                                 {"fma_roof_gflops", roof},
                                 {"bf16_roof_gflops", or_null(bf16_roof)},
                                 {"T", keys},
                                 {"n", kvfit::bench::fit_queries},
                                 {"d", depth},
                                 {"t", keys / kvfit::bench::compaction_ratio},
                                 {"rows", out.rows()}};
  if (count > 1) std::ofstream(arguments[1]) << report.dump(1) << '\n';
}
