// SPDX-License-Identifier: MIT
/// From chosen keys and biases to a finished result: store, fit values, judge.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "kvfit/compact/compact_attention.hpp"
#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/head_judge.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/compact/policy_functions.hpp"
#include "kvfit/compact/stopwatch.hpp"
#include "kvfit/compact/storage.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/parallel/stop.hpp"
#include "kvfit/refine/refiner.hpp"
#include "kvfit/view/check.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// What a value stage reads. All of it must outlive the stage.
struct scored_head {
  const kv_block& cache;
  const query_split& parts;
  const attention_scores& scores;  ///< of the queries fitted on
};

/// Fits and judges the values of `out`, whose positions, keys and biases stand. May be asked again,
/// for other ones.
class value_stage {
 public:
  value_stage(const compact_options& options, const scored_head& head, head_judge& judge,
              const stop_when& stop, const executor_ref& threads, stopwatch& clock, compacted& out,
              std::span<const char> is_exact = {})
      : options_(options),
        head_(head),
        judge_(judge),
        stop_(stop),
        threads_(threads),
        clock_(clock),
        out_(out),
        is_exact_(is_exact) {
    gather_original();
  }

  /// The kept rows' own values, until they are rounded to storage.
  [[nodiscard]] const matrix& original() const noexcept { return original_; }
  /// Undoes that rounding.
  void gather_original() { original_ = gather_rows(head_.cache.values, out_.positions); }

  /// Rounds keys and biases to what will be stored, fits values to what is left of them (on the
  /// `sets` besides the queries given), or takes them from the keys they are tied to, and judges.
  result<void> run(const std::vector<scored_set>& sets) {
    if (const auto ok = check_stop(stop_, "values"); !ok) return ok;
    if (const auto ok = store_keys(); !ok) return ok;
    if (options_.tied_values_from) {
      out_.values = out_.keys.middleCols(*options_.tied_values_from, original_.cols());
    } else if (const auto ok = fit_values_to(sets); !ok) {
      return ok;
    }
    return store_and_judge("value policy's");
  }

  /// Fits values to keys and biases as they are, neither rounded nor judged.
  result<void> fit_unstored() {
    attend_fitted();
    const auto ok = fit_values_to({});
    train_ = {};
    return ok;
  }

  /// The same as `run` for values that stand already.
  result<void> run_with_values() {
    if (const auto ok = store_keys(); !ok) return ok;
    return store_and_judge("gradient method's");
  }

 private:
  /// Rounds keys and biases, and attends to them.
  result<void> store_keys() {
    if (const auto ok = round_to_storage(out_.keys, options_.storage.rows, "keys"); !ok) return ok;
    if (const auto ok = round_to_storage(out_.bias, options_.storage.bias, "bias"); !ok) return ok;
    attend_fitted();
    return {};
  }

  void attend_fitted() {
    train_ = {};  // before the next one is made beside it
    train_ = attend_compact(head_.parts.fit, head_.cache, options_.rule, out_, threads_);
  }

  result<void> fit_values_to(const std::vector<scored_set>& sets) {
    matrix all_weights;  // of the queries given and of the sets
    matrix all_output;
    if (!sets.empty()) stack(sets, all_weights, all_output);
    const values_problem all{sets.empty() ? &train_.weights : &all_weights,
                             sets.empty() ? &head_.scores.output : &all_output, &original_, nullptr,
                             threads_};
    auto fit = is_exact_.empty() ? fit_values(options_.values, all) : fit_free_values(all);
    if (!fit) return fit.error();
    out_.values = std::move(fit->values);
    out_.report.is_values_fitted = fit->is_fitted;
    out_.report.values = fit->report;
    if (out_.values.rows() != original_.rows()) {
      return error{errc::shape_mismatch, "value policy's values", out_.values.rows(),
                   original_.rows(), "rows"};
    }
    if (out_.values.cols() != original_.cols()) {
      return error{errc::shape_mismatch, "value policy's values", out_.values.cols(),
                   original_.cols(), "columns"};
    }
    return {};
  }

  /// Values of the rows that are not exact, fitted to what the exact ones leave; theirs beside.
  [[nodiscard]] result<values_fit> fit_free_values(const values_problem& all) const {
    const index_t n = all.weights->rows();
    const index_t t = original_.rows();
    const index_t width = original_.cols();
    std::vector<index_t> free;
    for (index_t l = 0; l < t; ++l) {
      if (is_exact_[static_cast<std::size_t>(l)] == 0) free.push_back(l);
    }
    const auto many = static_cast<index_t>(free.size());
    if (many == 0) return values_fit{.values = original_};
    matrix known = original_;
    for (const index_t l : free) std::fill_n(known.data() + l * width, width, 0.0F);
    matrix left = weighted_values(*all.weights, known, threads_);
    for (index_t k = 0; k < left.size(); ++k)
      left.data()[k] = all.output->data()[k] - left.data()[k];
    matrix weights(n, many);
    for (index_t i = 0; i < n; ++i) {
      const float* const from = all.weights->data() + i * t;
      float* to = weights.data() + i * many;
      for (const index_t l : free) *to++ = from[l];
    }
    const matrix original = gather_rows(original_, free);
    auto fit = fit_values(options_.values,
                          values_problem{&weights, &left, &original, all.output, threads_});
    if (!fit || fit->values.rows() != many || fit->values.cols() != width) return fit;
    for (std::size_t k = 0; k < free.size(); ++k) {
      std::copy_n(fit->values.data() + static_cast<index_t>(k) * width, width,
                  known.data() + free[k] * width);
    }
    for (index_t l = 0; l < t; ++l) {
      if (is_exact_[static_cast<std::size_t>(l)] == 0) continue;
      std::copy_n(original_.data() + l * width, width, known.data() + l * width);
    }
    fit->values = std::move(known);
    return fit;
  }

  /// Weights over the kept rows, and full outputs, of the queries given and of the sets.
  void stack(const std::vector<scored_set>& sets, matrix& weights, matrix& output) const {
    index_t n = train_.weights.rows();
    for (const scored_set& set : sets) n += set.scores.output.rows();
    weights.resize(n, train_.weights.cols());
    output.resize(n, head_.scores.output.cols());
    index_t at = 0;
    const auto append = [&](const matrix& some_weights, const matrix& some_output) {
      weights.middleRows(at, some_weights.rows()) = some_weights;
      output.middleRows(at, some_weights.rows()) = some_output;
      at += some_weights.rows();
    };
    append(train_.weights, head_.scores.output);
    for (const scored_set& set : sets) {
      append(attend_compact(set.queries.part, head_.cache, options_.rule, out_, threads_).weights,
             set.scores.output);
    }
  }

  /// `made_by`: whose values they are, for errors.
  result<void> store_and_judge(const char* made_by) {
    copies_fit_ = round_to_storage(original_, options_.storage.rows, "values").has_value();
    if (const auto ok = round_to_storage(out_.values, options_.storage.rows, "values"); !ok)
      return ok;
    out_.report.seconds.values += clock_.lap();
    if (const auto ok = judge(); !ok) return ok;
    // A caller's own policy may fit anything, and nothing better may have taken its place.
    const index_t bad = first_non_finite(out_.values.data(), out_.values.size());
    if (bad == out_.values.size()) return {};
    return error{errc::non_finite, std::string(made_by) + " values", bad / out_.values.cols(),
                 bad % out_.values.cols()};
  }

  result<void> judge() {
    const attention_scores& scores = head_.scores;
    matrix train_output = weighted(train_.weights, out_.values);
    const auto errors_on_train = [&] {
      return compare(scores.output, scores.log_mass, train_output, train_.log_mass);
    };
    out_.report.train = errors_on_train();
    out_.report.mass_residual = mass_residual();
    const bool may_copy =
        options_.keep_better_values && out_.report.is_values_fitted && copies_fit_ &&
        options_.gradient
            .holds<no_gradient>();  // whose keys have left their rows, and which nothing guards
    const auto train_with_copies = [&] {
      train_output = matrix();  // before the next one is made
      train_output = weighted(train_.weights, original_);
      return errors_on_train();
    };
    bool is_judged = false;
    if (judge_.has_held_out()) {
      const auto full = judge_.held_out_scores();
      if (!full) return full.error();
      const attention_scores& wanted = **full;
      const compact_attention found = judge_.held_out_attention(out_);
      const matrix& weights = found.weights;
      const matrix fitted_output = weighted(weights, out_.values);
      const fidelity fitted =
          compare(wanted.output, wanted.log_mass, fitted_output, found.log_mass);
      is_judged = fitted.queries > 0;  // queries that see nothing judge nothing
      if (is_judged) out_.report.held_out = fitted;
      if (is_judged && may_copy) {
        const matrix copied_output = weighted(weights, original_);
        const fidelity copied =
            compare(wanted.output, wanted.log_mass, copied_output, found.log_mass);
        if (!(fitted.output_error <= copied.output_error) &&  // true for NaN, too
            !mostly_closer(wanted.output, fitted_output, copied_output)) {
          out_.report.held_out = copied;
          take_copies(train_with_copies());
        }
      }
    }
    if (!is_judged && may_copy) {
      const fidelity copied = train_with_copies();
      if (!(out_.report.train.output_error <= copied.output_error)) take_copies(copied);
    }
    out_.report.seconds.judge += clock_.lap();
    return {};
  }

  [[nodiscard]] matrix weighted(const matrix& weights, const matrix& values) const {
    return weighted_values(weights, values, threads_);
  }

  /// √(Σ_i (ŷ_i / y_i − 1)² / n) over the queries fitted on that see a key.
  [[nodiscard]] double mass_residual() const {
    double squares = 0;
    index_t seen = 0;
    for (index_t i = 0; i < head_.scores.log_mass.size(); ++i) {
      if (std::isinf(head_.scores.log_mass[i])) continue;
      const double relative = std::expm1(static_cast<double>(train_.log_mass[i]) -
                                         static_cast<double>(head_.scores.log_mass[i]));
      squares += relative * relative;
      ++seen;
    }
    return std::sqrt(squares / static_cast<double>(std::max<index_t>(seen, 1)));
  }

  /// Whether `fitted` is closer to `output` than `copied` is for more than half of the rows: a mean
  /// over few queries may hang on one of them, which alone shall not decide.
  static bool mostly_closer(const matrix& output, const matrix& fitted, const matrix& copied) {
    index_t closer = 0;
    for (index_t i = 0; i < output.rows(); ++i) {
      // In double: squares of small numbers vanish in fp32.
      const double error = (output.row(i) - fitted.row(i)).cast<double>().squaredNorm();
      closer += error < (output.row(i) - copied.row(i)).cast<double>().squaredNorm() ? 1 : 0;
    }
    return 2 * closer > output.rows();
  }

  void take_copies(const fidelity& train) {
    out_.values = original_;
    out_.report.train = train;
    out_.report.is_values_fitted = false;
    out_.report.values = {};
    out_.report.copies_judged_better = true;
  }

  const compact_options& options_;
  scored_head head_;
  head_judge& judge_;
  const stop_when& stop_;
  const executor_ref& threads_;
  stopwatch& clock_;
  compacted& out_;
  std::span<const char> is_exact_;
  matrix original_;
  bool copies_fit_ = true;   // the kept rows' own values fit their storage type
  compact_attention train_;  // of the queries fitted on, over the result
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
