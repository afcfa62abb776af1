// SPDX-License-Identifier: MIT
/// Judges compact caches on held-out queries, head by head.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kvfit/attention/attend.hpp"
#include "kvfit/attention/compare.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/check_layer.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/cache/heads.hpp"
#include "kvfit/cache/queries_of_layer.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {

/// What `held_out_judge` counts.
struct judge_options {
  double mass = 1;         ///< of the mass error beside the output error, finite, ≥ 0
  bool is_causal = false;  ///< whether queries see only keys that stand before them
  logit_rule rule = {};    ///< of layers without one of their own
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// The mean over heads of output error + mass · mass error (`fidelity`), each of attention over the
/// compacted rows against attention over those they stand for; queries of several entries that name
/// one layer are taken together. Full attention is computed once, at `make`; what cache and queries
/// refer to must outlive the judge.
class held_out_judge {
 public:
  /// Errors: `invalid_option` for settings out of range, for layers that do not ascend and for
  /// queries of a layer that `full` does not have; `empty_input` where no global layer has queries;
  /// those of `queries_of_layer`; those of `attend`.
  [[nodiscard]] static result<held_out_judge> make(const cache_view& full,
                                                   const cache_queries& queries,
                                                   const judge_options& options = {}) {
    if (!(options.mass >= 0 && std::isfinite(options.mass))) {
      return detail::refuse_number("mass", options.mass, "must be finite and not negative");
    }
    return detail::catch_bad_alloc("held_out_judge", [&]() -> result<held_out_judge> {
      held_out_judge judge(options.mass);
      if (const auto ok = check_query_layers(full, queries); !ok) return ok.error();
      index_t before = -1;
      for (const cache_layer& layer : full.layers) {
        if (layer.number <= before) {
          return error{errc::invalid_option, "layer", layer.number, before + 1,
                       "layers must ascend"};
        }
        before = layer.number;
        const bool is_asked =
            std::any_of(queries.begin(), queries.end(),
                        [&](const layer_queries& asked) { return asked.layer == layer.number; });
        if (!is_asked || layer.kind != layer_kind::global) continue;
        if (const auto ok = judge.add(layer, queries, options); !ok) return ok.error();
      }
      if (judge.heads_.empty()) return error{errc::empty_input, "queries", 0, error::none, {}};
      return judge;
    });
  }

  /// A head without rows has output 0 and no mass: both errors are 1.
  ///
  /// Errors: those of `check_layer` and `check_layer_order`; `missing_entry` for a cache without a
  /// layer or head that is judged; `shape_mismatch` for values of another width; those of `attend`.
  [[nodiscard]] result<double> operator()(const compacted_cache& cache) const {
    return detail::catch_bad_alloc("held_out_judge", [&]() -> result<double> {
      for (const compacted_layer& layer : cache.layers) {
        if (const auto ok = check_layer(layer); !ok) return ok.error();
      }
      if (const auto ok = check_layer_order(cache); !ok) return ok.error();
      double sum = 0;
      for (const judged_head& head : heads_) {
        const auto errors = errors_of(head, cache);
        if (!errors) return errors.error();
        sum += errors->output_error + mass_ * errors->mass_error;
      }
      return sum / static_cast<double>(heads_.size());
    });
  }

 private:
  struct judged_head {
    head_id id;
    std::vector<query_block> queries;
    logit_rule rule;
    attention_output full;
  };

  explicit held_out_judge(double mass) : mass_(mass) {}

  result<void> add(const cache_layer& layer, const cache_queries& queries,
                   const judge_options& options) {
    const std::size_t heads = layer.heads.size();
    const auto asked = queries_of_layer(queries, layer.number, static_cast<index_t>(heads));
    if (!asked) return asked.error();
    const std::size_t group = asked->size() / heads;
    for (std::size_t h = 0; h < heads; ++h) {
      judged_head head;
      head.id = {layer.number, static_cast<index_t>(h)};
      const auto first = asked->begin() + static_cast<std::ptrdiff_t>(h * group);
      head.queries.assign(first, first + static_cast<std::ptrdiff_t>(group));
      head.rule = layer.rule.value_or(options.rule);
      if (options.is_causal) head.rule.causal = true;
      auto full = attend(std::span<const query_block>(head.queries), {layer.heads[h]}, head.rule);
      if (!full) return full.error();
      head.full = std::move(*full);
      heads_.push_back(std::move(head));
    }
    return {};
  }

  [[nodiscard]] static result<fidelity> errors_of(const judged_head& head,
                                                  const compacted_cache& cache) {
    const auto layer =
        std::find_if(cache.layers.begin(), cache.layers.end(),
                     [&](const compacted_layer& one) { return one.number == head.id.layer; });
    const auto h = static_cast<std::size_t>(head.id.head);
    if (layer == cache.layers.end() || h + 1 >= layer->offsets.size()) {
      return error{errc::missing_entry, "cache", error::none, error::none, name(head.id)};
    }
    if (layer->values.cols() != head.full.output.cols()) {
      return error{errc::shape_mismatch, name(head.id) + ": values", layer->values.cols(),
                   head.full.output.cols(), "columns must be those of the full cache"};
    }
    if (layer->rows(h) == 0) {
      const matrix nothing = matrix::Zero(head.full.output.rows(), head.full.output.cols());
      const vector no_mass =
          vector::Constant(head.full.log_mass.size(), -std::numeric_limits<float>::infinity());
      return compare(head.full.output, head.full.log_mass, nothing, no_mass);
    }
    const auto found =
        attend(std::span<const query_block>(head.queries), {layer->block(h)}, head.rule);
    if (!found) return found.error();
    return compare(head.full.output, head.full.log_mass, found->output, found->log_mass);
  }

  double mass_;
  std::vector<judged_head> heads_;
};

static_assert(std::is_nothrow_move_constructible_v<held_out_judge>);

}  // namespace KVFIT_ISA
}  // namespace kvfit
