// SPDX-License-Identifier: MIT
/// Influence curves that a model measures itself: what it says once one head alone is compacted.
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/heads.hpp"
#include "kvfit/cache/influence_curve.hpp"
#include "kvfit/compact/compacted.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/queries/cache_prefix.hpp"
#include "kvfit/queries/live_cache.hpp"
#include "kvfit/queries/reader.hpp"

namespace kvfit {

/// Compacts one head to so many rows: `compact_head(head, rows)`.
template <class F>
concept head_compaction = requires(F& compact, const head_id& head, index_t rows) {
  { compact(head, rows) } -> std::same_as<result<compacted>>;
};

/// A text that judges, and how much what the model says of it counts.
struct judged_text {
  std::vector<token> tokens;
  index_t first = 0;  ///< what is said after earlier tokens does not count, 0 ≤ first < length
  double weight = 1;  ///< of each token that counts, finite, ≥ 0
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// ln p of every token after each row: n × vocabulary, from logits.
inline matrix log_softmax(const matrix& logits) {
  matrix out(logits.rows(), logits.cols());
  for (index_t i = 0; i < logits.rows(); ++i) {
    const Eigen::RowVectorXd wide = logits.row(i).cast<double>();
    const double most = wide.maxCoeff();
    const double norm = most + std::log((wide.array() - most).exp().sum());
    out.row(i) = (wide.array() - norm).cast<float>();
  }
  return out;
}

/// Σ over rows from `first` on of KL(p ‖ q), nats.
inline double divergence(const matrix& log_p, const matrix& log_q, index_t first) {
  double sum = 0;
  for (index_t i = first; i < log_p.rows(); ++i) {
    const Eigen::ArrayXd p = log_p.row(i).cast<double>().transpose();
    const Eigen::ArrayXd q = log_q.row(i).cast<double>().transpose();
    sum += (p.exp() * (p - q)).sum();
  }
  return sum;
}

/// A text over the full cache: hidden states as they enter every layer, and what the model says.
struct full_reading {
  index_t first = 0;
  double weight = 1;
  std::vector<matrix> entering;
  matrix log_probabilities;
};

template <engine E, executor X>
class influence_measurement {
 public:
  influence_measurement(const reader<E, X>& read, cache_prefix prefix,
                        std::span<const index_t> grid)
      : read_(read), prefix_(std::move(prefix)), grid_(grid) {}

  result<void> read_full(std::span<const judged_text> texts) {
    for (const judged_text& text : texts) {
      auto hidden = read_.embed(text.tokens, prefix_.positions);
      if (!hidden) return hidden.error();
      full_reading& made = readings_.emplace_back();
      made.first = text.first;
      made.weight = text.weight;
      live_cache live(read_.shapes(), prefix_.positions);
      for (index_t l = 0; l < read_.layers(); ++l) {
        made.entering.push_back(*hidden);
        if (const auto ok = read_.run(prefix_, live, l, l + 1, *hidden); !ok) return ok;
      }
      auto said = says(*hidden);
      if (!said) return said.error();
      made.log_probabilities = std::move(*said);
      weight_ += text.weight * static_cast<double>(hidden->rows() - text.first);
    }
    return {};
  }

  /// One head of `layer`, at every budget of the grid.
  template <class Compact>
  result<influence_curve> curve(const cache_layer& layer, index_t head, Compact& compact) {
    influence_curve made;
    const index_t length = layer.heads[static_cast<std::size_t>(head)].keys.rows();
    for (const index_t rows : grid_) {
      if (rows >= length) break;
      const auto small = compact(head_id{layer.number, head}, rows);
      if (!small) return small.error();
      const auto loss = loss_with(layer.number, head, small->block());
      if (!loss) return loss.error();
      made.points.push_back({rows, *loss});
    }
    made.points.push_back({length, 0});  // every row kept: nothing changes
    return made;
  }

 private:
  result<matrix> says(const matrix& hidden) const {
    const auto logits = read_.model().logits(hidden);
    if (!logits) return logits.error();
    if (logits->rows() != hidden.rows() || logits->cols() != read_.model().vocabulary()) {
      return error{errc::shape_mismatch, "logits", logits->cols(), read_.model().vocabulary(),
                   "a column per token"};
    }
    return log_softmax(*logits);
  }

  /// Layers below are as they were, so reading goes on from the states that enter this one.
  result<double> loss_with(index_t layer, index_t head, const kv_block& small) {
    auto& blocks = prefix_.blocks[static_cast<std::size_t>(layer)][static_cast<std::size_t>(head)];
    std::vector<kv_block> before = {small};
    std::swap(blocks, before);
    double sum = 0;
    result<void> ok;
    for (const full_reading& text : readings_) {
      matrix hidden = text.entering[static_cast<std::size_t>(layer)];
      live_cache live(read_.shapes(), prefix_.positions);
      ok = read_.run(prefix_, live, layer, read_.layers(), hidden);
      if (!ok) break;
      const auto said = says(hidden);
      if (!said) {
        ok = said.error();
        break;
      }
      sum += text.weight * divergence(text.log_probabilities, *said, text.first);
    }
    std::swap(blocks, before);
    if (!ok) return ok.error();
    return sum / weight_;
  }

  const reader<E, X>& read_;
  cache_prefix prefix_;
  std::span<const index_t> grid_;
  std::vector<full_reading> readings_;
  double weight_ = 0;
};

inline result<void> check_judging(std::span<const judged_text> texts) {
  if (texts.empty()) return error{errc::empty_input, "texts", 0, error::none, {}};
  bool counts = false;
  for (const judged_text& text : texts) {
    const auto length = static_cast<index_t>(text.tokens.size());
    if (text.first < 0 || (length > 0 && text.first >= length)) {
      return error{errc::invalid_option, "first", text.first, length,
                   "must be a place within its text"};
    }
    if (!(text.weight >= 0 && std::isfinite(text.weight))) {
      return refuse_number("weight", text.weight, "must be finite and not negative");
    }
    counts = counts || text.weight > 0;
  }
  if (counts) return {};
  return error{errc::invalid_option, "weight", error::none, error::none, "all are 0"};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// The influence curve of every head of the global layers, in the order of the view: at each budget
/// of the grid that head alone is compacted, and the loss is what the model says then,
///
///     f_h(t) = mean over tokens of the texts of KL(full ‖ head h at t rows), nats
///
/// of the next token's distribution; the mean is weighted where texts say so. It is what
/// `measure_influence` can only stand in for: a head that copies shows its worth in what is said,
/// whatever its own errors are. The paper measures changes of the answer's log-perplexity so
/// (arXiv:2602.16284, influence curves), once per model. Heads are measured one by one, and what
/// they lose together is taken for the sum.
///
/// full: the cache, all layers of the engine, its next token at `positions`. texts: what is read
/// after it; such as will be asked, and none that the heads are fitted on. Few tokens that matter,
/// such as answers, count beside many others by their weight. grid: rows, ≥ 1,
/// strictly ascending; a head's own length (loss 0) ends every curve, and budgets from there on are
/// left out. compact_head: `result<compacted>(const head_id&, index_t rows)`, which must not keep
/// what it is given.
///
///     auto curves = kvfit::measure_model_influence(*read, cache, 1024, texts, grid,
///         [&](const kvfit::head_id& h, kvfit::index_t rows) { return compact(..., {.budget =
///         rows});
///         });
///     asked.shares = kvfit::budgets::influence{*curves};
///
/// Errors: `empty_input` for no text, budget or global layer; `invalid_option` for budgets out of
/// order, and for a text's first token or weight out of range; those of `prefix_of`,
/// `reader::embed` and `reader::run` (`cancelled` among them), and of `compact_head`. Cost: heads ×
/// grid compactions, and as many readings of the texts from the head's layer on. Memory: a state a
/// token and layer, a number a token and word of the vocabulary. Same input, same bytes, whoever
/// runs the heads.
template <engine E, executor X, head_compaction Compact>
[[nodiscard]] result<std::vector<influence_curve>> measure_model_influence(
    const reader<E, X>& read, const cache_view& full, index_t positions,
    std::span<const judged_text> texts, std::span<const index_t> grid, Compact&& compact_head) {
  if (const auto ok = detail::check_judging(texts); !ok) return ok.error();
  if (grid.empty()) return error{errc::empty_input, "grid", 0, error::none, {}};
  for (std::size_t i = 0; i < grid.size(); ++i) {
    const index_t before = i > 0 ? grid[i - 1] : 0;
    if (grid[i] > before) continue;
    return error{errc::invalid_option, "grid", grid[i], before, "must be at least 1 and ascend"};
  }
  return detail::catch_bad_alloc(
      "measure_model_influence", [&]() -> result<std::vector<influence_curve>> {
        auto prefix = prefix_of(full, read.layers(), positions);
        if (!prefix) return prefix.error();
        if (const auto ok = check_prefix(*prefix, read.shapes()); !ok) return ok.error();
        detail::influence_measurement<E, X> measurement(read, std::move(*prefix), grid);
        if (const auto ok = measurement.read_full(texts); !ok) return ok.error();
        std::vector<influence_curve> curves;
        for (const cache_layer& layer : full.layers) {
          if (layer.kind != layer_kind::global) continue;
          for (index_t h = 0; h < static_cast<index_t>(layer.heads.size()); ++h) {
            auto curve = measurement.curve(layer, h, compact_head);
            if (!curve) return curve.error();
            curves.push_back(std::move(*curve));
          }
        }
        if (curves.empty())
          return error{errc::empty_input, "layers", 0, error::none, "no global one"};
        return curves;
      });
}

/// The same, every token of every text alike.
template <engine E, executor X, head_compaction Compact>
[[nodiscard]] result<std::vector<influence_curve>> measure_model_influence(
    const reader<E, X>& read, const cache_view& full, index_t positions,
    std::span<const std::vector<token>> texts, std::span<const index_t> grid,
    Compact&& compact_head) {
  return detail::catch_bad_alloc(
      "measure_model_influence", [&]() -> result<std::vector<influence_curve>> {
        std::vector<judged_text> alike;
        for (const std::vector<token>& text : texts) alike.push_back({.tokens = text});
        return measure_model_influence(read, full, positions, std::span<const judged_text>(alike),
                                       grid, compact_head);
      });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
