// SPDX-License-Identifier: MIT
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cli/commands.hpp"
#include "cli/exit_code.hpp"
#include "cli/interrupt.hpp"
#include "cli/output_file.hpp"
#include "cli/progress.hpp"
#include "cli/say.hpp"
#include "kvfit/io/budgets_file.hpp"
#include "kvfit/io/capture.hpp"
#include "kvfit/io/compact_file.hpp"
#include "measure/evaluation.hpp"
#include "measure/heads.hpp"
#include "measure/row_spool.hpp"
#include "report/eval_output.hpp"

namespace kvfit_tool {

namespace {

/// What is kept in memory of a head that is done; its keys and values are in the spool.
struct done_head {
  spooled_rows keys;
  spooled_rows values;
  kvfit::vector bias;
  std::vector<kvfit::index_t> positions;
  std::vector<kvfit::index_t> key_positions;
  kvfit::fidelity train;
  std::optional<kvfit::fidelity> held_out;
  std::optional<kvfit::error> fallback;
};

std::string name_of(const placed_head& at) {
  return "layer " + std::to_string(at.layer) + " head " + std::to_string(at.head);
}

/// Mean and worst over heads of one of the compaction's own errors.
struct own_error {
  double mean = 0;
  double worst = 0;
  std::size_t worst_head = 0;
};

own_error over(const std::vector<done_head>& heads, double kvfit::fidelity::*what) {
  own_error sum;
  for (std::size_t h = 0; h < heads.size(); ++h) {
    const double x = (heads[h].held_out ? *heads[h].held_out : heads[h].train).*what;
    sum.mean += x / static_cast<double>(heads.size());
    if (h == 0 || x > sum.worst) {
      sum.worst = x;
      sum.worst_head = h;
    }
  }
  return sum;
}

/// Bytes of keys or values as the capture stores them; rows with a decoder are F8 with scales.
kvfit::index_t bytes_of(const kvfit::row_view& rows) {
  const std::size_t size = rows.type() == kvfit::dtype::decoded ? 1 : size_of(rows.type());
  return rows.rows() * rows.cols() * static_cast<kvfit::index_t>(size);
}

/// The type that results are stored in if nothing else is said: the keys', or bf16 for F8, which
/// results are not stored in.
kvfit::dtype storage_of(const kvfit::capture& capture) {
  const kvfit::dtype type = capture.layers.front().keys(0).type();
  const bool is_storage = type == kvfit::dtype::fp32 || type == kvfit::dtype::fp16;
  return is_storage ? type : kvfit::dtype::bf16;
}

void print_summary(const compact_arguments& arguments, const std::vector<placed_head>& places,
                   const std::vector<done_head>& heads, kvfit::dtype storage, double seconds,
                   int threads) {
  kvfit::index_t rows_before = 0;
  kvfit::index_t rows_after = 0;
  kvfit::index_t bytes_before = 0;
  kvfit::index_t bytes_after = 0;
  kvfit::index_t copied = 0;
  bool is_held_out = true;
  for (std::size_t h = 0; h < heads.size(); ++h) {
    const kvfit::row_view& keys = places[h].view.block.keys;
    const kvfit::row_view& values = places[h].view.block.values;
    rows_before += keys.rows();
    bytes_before += bytes_of(keys) + bytes_of(values);
    const kvfit::index_t kept = heads[h].keys.rows;
    rows_after += kept;
    bytes_after +=
        kept * (keys.cols() + values.cols()) * static_cast<kvfit::index_t>(size_of(storage)) +
        kept * static_cast<kvfit::index_t>(sizeof(float));
    copied += heads[h].fallback ? 1 : 0;
    is_held_out = is_held_out && heads[h].held_out.has_value();
  }
  const auto ratio_of = [](kvfit::index_t before, kvfit::index_t after) {
    return static_cast<double>(before) / static_cast<double>(after);
  };
  const std::string type(name(storage));
  std::printf("%s: method %s, ratio %s, %s, %zu heads\n", arguments.output.c_str(),
              label_of(arguments.what).c_str(), ratio_text(arguments.ratio).c_str(), type.c_str(),
              heads.size());
  std::printf("rows          %lld -> %lld (ratio %.1f)\n", static_cast<long long>(rows_before),
              static_cast<long long>(rows_after), ratio_of(rows_before, rows_after));
  std::printf("bytes         %lld -> %lld (ratio %.1f; keys, values, biases)\n",
              static_cast<long long>(bytes_before), static_cast<long long>(bytes_after),
              ratio_of(bytes_before, bytes_after));
  if (rows_after == rows_before) {
    std::printf("errors        none: every row was kept as it is\n");
  } else {
    const own_error output = over(heads, &kvfit::fidelity::output_error);
    const own_error mass = over(heads, &kvfit::fidelity::mass_error);
    std::printf("output error  %.3g mean over heads, %.3g worst (%s)\n", output.mean, output.worst,
                name_of(places[output.worst_head]).c_str());
    std::printf("mass error    %.3g mean over heads, %.3g worst (%s)\n", mass.mean, mass.worst,
                name_of(places[mass.worst_head]).c_str());
    std::printf("measured on   %s\n", is_held_out
                                          ? "queries held out from the fit"
                                          : "the queries fitted on: new queries will fare worse");
  }
  if (copied > 0) {
    std::printf("copied        %lld heads, whose method failed:\n", static_cast<long long>(copied));
    for (std::size_t h = 0; h < heads.size(); ++h) {
      if (!heads[h].fallback) continue;
      std::printf("  %s: %s\n", name_of(places[h]).c_str(), heads[h].fallback->message().c_str());
    }
  }
  std::printf("seconds       %.2f with %d %s\n", seconds, threads,
              threads == 1 ? "thread" : "threads");
}

std::vector<kvfit::compact_layer> layers_of(const kvfit::capture& capture,
                                            const std::vector<placed_head>& places,
                                            const std::vector<done_head>& heads,
                                            const row_spool& spool) {
  std::vector<kvfit::compact_layer> layers;
  for (std::size_t h = 0; h < heads.size(); ++h) {
    const kvfit::index_t number = places[h].layer;
    if (layers.empty() || layers.back().number != number) {
      layers.push_back({number, {}, capture.layers[layers.size()].rule()});
    }
    const done_head& head = heads[h];
    layers.back().heads.push_back(
        {.keys = spool.view(head.keys),
         .values = spool.view(head.values),
         .bias = {head.bias.data(), static_cast<std::size_t>(head.bias.size())},
         .positions = head.positions,
         .key_positions = head.key_positions});
  }
  return layers;
}

}  // namespace

int run_compact(const compact_arguments& arguments) {
  if (const auto ok = check_writable(arguments.output); !ok) {
    return fail(arguments.output, ok.error());
  }
  const auto capture = kvfit::read_capture(arguments.capture);
  if (!capture) return fail(arguments.capture, capture.error());
  if (const auto ok = check_ratio(*capture, arguments.ratio); !ok) {
    return fail(arguments.capture, ok.error());
  }
  kvfit::thread_pool pool(arguments.threads);
  check_threads(pool, arguments.threads);
  const kvfit::dtype storage = arguments.storage.value_or(storage_of(*capture));

  cache_request request{.head = {.what = arguments.what,
                                 .storage = storage,
                                 .protect = {.first = arguments.protect_first,
                                             .last = arguments.protect_last,
                                             .rows = arguments.protect_rows},
                                 .seed = arguments.seed},
                        .ratio = arguments.ratio,
                        .shares = arguments.shares,
                        .given = {},
                        .copies_failed = arguments.copies_failed};
  if (arguments.shares == share_policy::given) {
    auto shares = kvfit::read_budgets_file(arguments.shares_file);
    if (!shares) return fail(arguments.shares_file, shares.error());
    request.given = std::move(*shares);
  }

  const std::vector<placed_head> places = heads_of(*capture);
  std::vector<done_head> heads(places.size());
  row_spool spool(storage);
  if (const auto ok = spool.open(std::filesystem::path(arguments.output).parent_path()); !ok) {
    return fail(arguments.output, ok.error());
  }
  const auto start = std::chrono::steady_clock::now();
  {
    progress_bar bar(static_cast<kvfit::index_t>(places.size()), "heads");
    bar.show(0);
    const auto all = compact_capture(
        *capture, request, pool,
        [&](finished_head&& done) -> kvfit::result<void> {
          const auto keys = spool.append(done.rows.keys);
          if (!keys) return keys.error();
          const auto values = spool.append(done.rows.values);
          if (!values) return values.error();
          heads[done.place] = {*keys,
                               *values,
                               std::move(done.rows.bias),
                               std::move(done.rows.positions),
                               std::move(done.rows.key_positions),
                               done.rows.train,
                               done.rows.held_out,
                               std::move(done.fallback)};
          return {};
        },
        {.cancel = &interrupt(),
         .progress = [&bar](kvfit::index_t done, kvfit::index_t) { bar.show(done); }});
    if (!all) return fail(arguments.capture, all.error());
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  if (const auto ok = spool.finish(); !ok) return fail(arguments.output, ok.error());

  const kvfit::compact_file_info info{.method = label_of(arguments.what),
                                      .next_position = capture->next_position,
                                      .scale = capture->scale,
                                      .storage = storage,
                                      .fingerprint = capture->fingerprint};
  {
    const uninterrupted guard;
    const auto done = kvfit::write_compact_file(arguments.output, info,
                                                layers_of(*capture, places, heads, spool));
    if (!done) return fail(arguments.output, done.error());
  }
  print_summary(arguments, places, heads, storage, seconds.count(), pool.threads());
  return exit_done;
}

}  // namespace kvfit_tool
