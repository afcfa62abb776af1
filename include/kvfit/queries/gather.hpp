// SPDX-License-Identifier: MIT
/// `gather_queries()`: reference queries from an engine, a mixture of sources cut to a budget.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/queries/cache_prefix.hpp"
#include "kvfit/queries/keep_rows.hpp"
#include "kvfit/queries/mixture_rows.hpp"
#include "kvfit/queries/reader.hpp"
#include "kvfit/queries/readings.hpp"
#include "kvfit/queries/reference_queries.hpp"
#include "kvfit/queries/sources.hpp"
#include "kvfit/queries/subsample.hpp"
#include "kvfit/queries/synthetic_rows.hpp"

namespace kvfit {

/// How many queries `gather_queries` takes, and which.
struct gather_options {
  /// Queries a KV head, ≥ 1: with G query heads each, ⌊budget / G⌋ tokens, whose queries are taken
  /// from every query head alike. Where layers differ in G, the largest counts.
  index_t budget = 10000;
  sampling how = sampling::stride;
  std::uint64_t seed = 0;  ///< of the reservoir
  /// Bytes that the queries kept may take. Where the budget needs more, there are fewer, and
  /// the report says so.
  index_t memory = index_t{1} << 30;
  /// Where a source has fewer rows than it is asked for: true cuts all sources by the same factor,
  /// so that the mixture stays what it was asked to be; false takes what there is of each.
  bool is_cut_alike = true;
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// One gathering, from settings to queries.
template <engine E, executor X>
class gathering {
 public:
  gathering(const reader<E, X>& read, std::span<const token> context, const cache_prefix& cache,
            std::span<const weighted_source> mixture, const gather_options& options)
      : read_(read), context_(context), cache_(cache), mixture_(mixture), options_(options) {}

  result<reference_queries> run() {
    if (const auto ok = check(); !ok) return ok.error();
    if (const auto ok = ask(); !ok) return ok.error();
    if (const auto ok = obtain(); !ok) return ok.error();
    allot();
    for (std::size_t s = 0; s < mixture_.size(); ++s) {
      if (const auto ok = fill(s); !ok) return ok.error();
    }
    for (auto& readings : readings_) {
      for (query_reading& reading : readings) {
        if (!reading.rows.empty()) out_.readings.push_back(std::move(reading));
      }
    }
    return std::move(out_);
  }

 private:
  result<void> check() {
    for (const weighted_source& one : mixture_) fractions_.push_back(one.fraction);
    if (const auto ok = check_fractions(fractions_); !ok) return ok;
    if (options_.budget < 1) {
      return error{errc::budget_out_of_range, "budget", options_.budget, 1, "must be at least 1"};
    }
    if (const auto ok = check_prefix(cache_, read_.shapes()); !ok) return ok;
    layers_ = global_layers(read_.shapes());
    if (layers_.empty()) {
      return error{errc::empty_input, "layers", 0, error::none, "no layer remembers every row"};
    }
    return {};
  }

  /// What each source is asked for.
  result<void> ask() {
    index_t group = 1;
    index_t bytes = static_cast<index_t>(sizeof(index_t));
    for (const index_t l : layers_) {
      const layer_shape& shape = read_.shape(l);
      group = (std::max)(group, shape.query_heads / shape.kv_heads);
      bytes += shape.query_heads * shape.key_size * static_cast<index_t>(sizeof(float));
    }
    bytes_ = bytes;
    gather_report& report = out_.report;
    report.budget = options_.budget;
    report.rows = options_.budget / group;
    if (report.rows < 1) {
      return error{errc::budget_out_of_range, "budget", options_.budget, group,
                   "one query a query head at least"};
    }
    const index_t allowed = std::max<index_t>(options_.memory, 0) / bytes;
    if (allowed < report.rows) {
      report.rows = allowed;
      report.is_cut_by_memory = true;
    }
    auto asked = rows_asked(report.rows, fractions_);
    if (!asked) {
      if (!report.is_cut_by_memory) return asked.error();
      return error{errc::memory_cap_exceeded, "memory", asked.error().expected * bytes,
                   options_.memory, "one query a query head and source at least"};
    }
    asked_ = std::move(*asked);
    return {};
  }

  /// Texts, and how many rows each source can give. Those that generate come last, so that whatever
  /// is wrong with the settings is found before.
  result<void> obtain() {
    obtained_.resize(mixture_.size());
    readings_.resize(mixture_.size());
    for (const bool is_generated : {false, true}) {
      for (std::size_t s = 0; s < mixture_.size(); ++s) {
        const auto* study = std::get_if<sources::self_study>(&mixture_[s].source);
        if (!is_generated && study != nullptr) {
          if (const auto ok = check_prompts(read_, cache_, *study); !ok) return ok;
        } else if (is_generated == (study != nullptr)) {
          if (const auto ok = obtain(s); !ok) return ok;
        }
      }
    }
    return {};
  }

  result<void> obtain(std::size_t s) {
    auto readings =
        std::visit([&](const auto& source) { return readings_of(read_, context_, cache_, source); },
                   mixture_[s].source);
    if (!readings) return readings.error();
    index_t rows = 0;
    for (const query_reading& one : *readings) rows += static_cast<index_t>(one.tokens.size());
    rows -= unsampled(s);
    if (std::holds_alternative<sources::cache_keys>(mixture_[s].source))
      rows = fewest_keys(cache_, layers_, read_.shapes());
    if (std::holds_alternative<sources::random_vectors>(mixture_[s].source)) rows = asked_[s];
    if (rows < 1) {
      return error{errc::empty_input, "cache_keys", rows, 1,
                   "a head has fewer keys than query heads"};
    }
    obtained_[s] = rows;
    readings_[s] = std::move(*readings);
    return {};
  }

  /// Tokens of the context that are read and never sampled.
  [[nodiscard]] index_t unsampled(std::size_t s) const {
    const auto* context = std::get_if<sources::context>(&mixture_[s].source);
    return context == nullptr ? 0 : context->first;
  }

  /// Which rows are kept, where they lie and where they stand; memory for all.
  void allot() {
    const std::vector<index_t> kept =
        options_.is_cut_alike ? rows_kept(asked_, obtained_) : rows_there(asked_, obtained_);
    for (std::size_t s = 0; s < mixture_.size(); ++s) {
      first_rows_.push_back(out_.rows());
      kept_.push_back(kept[s]);
      out_.report.sources.push_back({name(mixture_[s].source), asked_[s], obtained_[s], kept[s]});
      if (readings_[s].empty()) {
        out_.positions.insert(out_.positions.end(), static_cast<std::size_t>(kept[s]),
                              cache_.positions);
      } else {
        place(s, sample_rows(obtained_[s], kept[s], options_.how, seed_of(options_.seed, s)));
      }
    }
    out_.report.bytes = out_.rows() * bytes_;
    for (const index_t l : layers_) {
      const layer_shape& shape = read_.shape(l);
      out_.layers.push_back({l, std::vector<matrix>(static_cast<std::size_t>(shape.query_heads),
                                                    matrix(out_.rows(), shape.key_size))});
    }
  }

  /// Rows of one source, counted through all its texts, given to the texts they are of.
  void place(std::size_t s, const std::vector<index_t>& rows) {
    const auto* context = std::get_if<sources::context>(&mixture_[s].source);
    const index_t behind =
        context != nullptr && !context->is_causal
            ? cache_.positions - context->first  // the first one stands right behind
            : 0;
    index_t start = -unsampled(s);
    std::size_t next = 0;
    for (query_reading& reading : readings_[s]) {
      const index_t end = start + static_cast<index_t>(reading.tokens.size());
      reading.first_row = out_.rows();
      for (; next < rows.size() && rows[next] < end; ++next) {
        const index_t row = rows[next] - start;
        reading.rows.push_back(row);
        out_.positions.push_back(reading.position + row + behind);
      }
      start = end;
    }
  }

  result<void> fill(std::size_t s) {
    const auto& source = mixture_[s].source;
    if (std::holds_alternative<sources::cache_keys>(source)) {
      for (reference_queries::layer& layer : out_.layers) {
        deal_keys(cache_.blocks[static_cast<std::size_t>(layer.number)], {first_rows_[s], kept_[s]},
                  options_.how, seed_of(options_.seed, s), layer);
      }
      return {};
    }
    if (const auto* random = std::get_if<sources::random_vectors>(&source)) {
      draw_rows(*random, {first_rows_[s], kept_[s]}, out_);
      return {};
    }
    for (const query_reading& reading : readings_[s]) {
      if (reading.rows.empty()) continue;
      if (const auto ok = capture(reading); !ok) return ok;
    }
    return {};
  }

  result<void> capture(const query_reading& reading) {
    const cache_prefix nothing;
    const cache_prefix& before = reading.is_after_cache ? cache_ : nothing;
    live_cache live(read_.shapes(), reading.position);
    std::vector<reference_queries::layer*> wanted(read_.shapes().size(), nullptr);
    for (reference_queries::layer& layer : out_.layers) {
      wanted[static_cast<std::size_t>(layer.number)] = &layer;
    }
    const auto keep = [&](index_t layer, index_t first, const layer_rows& rows) {
      auto* into = wanted[static_cast<std::size_t>(layer)];
      if (into != nullptr) keep_rows(reading, first, rows, *into);
    };
    const auto hidden = read_.read(before, live, reading.tokens, keep);
    if (!hidden) return hidden.error();
    return {};
  }

  const reader<E, X>& read_;
  std::span<const token> context_;
  const cache_prefix& cache_;
  std::span<const weighted_source> mixture_;
  const gather_options& options_;
  std::vector<double> fractions_;
  std::vector<index_t> layers_;
  index_t bytes_ = 0;  // a row of every query head, and its position
  std::vector<index_t> asked_;
  std::vector<index_t> obtained_;
  std::vector<index_t> kept_;
  std::vector<index_t> first_rows_;
  std::vector<std::vector<query_reading>> readings_;
  reference_queries out_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// Reference queries of a cache, source by source (arXiv:2602.16284, reference queries): texts are
/// made (self-study answers are generated), rows are allotted, then each text is read once over the
/// cache and only the rows kept are copied, so that memory is known before.
///
/// context: the tokens that the cache was made of, which `context` and `repeat` read; others don't
/// use it. cache: full, or compact where an iteration asks what the compact model asks.
/// Queries are those of global layers, after the engine's rotation, never rescaled. All layers and
/// heads have the same tokens.
///
///     const kvfit::query_mixture mixture = {{kvfit::sources::repeat{}, 0.75},
///                                           {kvfit::sources::texts{questions}, 0.25}};
///     auto queries = kvfit::gather_queries(*read, tokens, kvfit::prefix_of(text->cache), mixture,
///                                          {.budget = 4096});
///     auto small = kvfit::compact_cache(text->cache.view(), queries->view(), options, how);
///
/// Errors, before any text is read: those of `check_fractions`, `rows_asked`, `check_prefix` and
/// `reader::check_tokens`; `budget_out_of_range` for a budget below G; `memory_cap_exceeded` where
/// not one row of each source fits; source settings out of range. On the way: the engine's and
/// `reader::run`'s, `cancelled` among them. Same input, same bytes, whoever runs the heads.
///
/// Cost: a pass through all layers for every token of every text, and for every token generated.
/// Memory: the queries kept, and the live rows of one text.
template <engine E, executor X>
[[nodiscard]] result<reference_queries> gather_queries(const reader<E, X>& read,
                                                       std::span<const token> context,
                                                       const cache_prefix& cache,
                                                       std::span<const weighted_source> mixture,
                                                       const gather_options& options = {}) {
  return detail::catch_bad_alloc("gather_queries", [&] {
    return detail::gathering<E, X>(read, context, cache, mixture, options).run();
  });
}

/// The same from one source.
template <engine E, executor X>
[[nodiscard]] result<reference_queries> gather_queries(const reader<E, X>& read,
                                                       std::span<const token> context,
                                                       const cache_prefix& cache,
                                                       const query_source& source,
                                                       const gather_options& options = {}) {
  const weighted_source one{source, 1.0};
  return gather_queries(read, context, cache, std::span<const weighted_source>(&one, 1), options);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
