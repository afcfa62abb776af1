// SPDX-License-Identifier: MIT
/// Fits a layer's heads on rows that are chosen already: the same rows for all of them, or those of
/// a result that is to do without biases.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/guarded.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor.hpp"
#include "kvfit/parallel/serial.hpp"

namespace kvfit::detail::inline KVFIT_ISA {

/// `cause` with the head it was met in.
inline error in_head(error cause, const head_id& id) {
  if (!cause.detail.empty()) cause.detail += "; ";
  cause.detail += name(id);
  return cause;
}

/// Query heads that read each KV head, or `shape_mismatch` where they do not divide.
inline result<std::size_t> group_size_of(const cache_layer& layer,
                                         std::span<const query_block> queries) {
  const std::size_t heads = layer.heads.size();
  if (layer.kind != layer_kind::global) {
    return error{errc::invalid_option, "layer " + std::to_string(layer.number), error::none,
                 error::none, "only global layers are compacted"};
  }
  if (heads == 0) {
    return error{errc::empty_input, "layer " + std::to_string(layer.number), 0, error::none,
                 "no heads"};
  }
  if (queries.empty() || queries.size() % heads != 0) {
    return error{errc::shape_mismatch, "queries", static_cast<index>(queries.size()),
                 static_cast<index>(heads), "heads must be a multiple of the KV heads"};
  }
  return queries.size() / heads;
}

/// The options of one head's refit; `rows` ascend, protected ones among them.
inline compact_options refit_options(const cache_layer& layer, const compact_options& options,
                                     const std::vector<index>& rows, index length) {
  compact_options asked = options;
  asked.budget = static_cast<index>(rows.size());
  if (layer.rule) asked.rule = *layer.rule;
  if (!asked.refine.rotation) asked.refine.rotation = layer.rotation;
  // The selection asked for would have been refined; rows that are given are not, unless told so.
  if (!asked.refine.steps && std::holds_alternative<bias::zero>(asked.bias)) {
    asked.refine.fits_bias = false;
  }
  if (!asked.gradient) {
    asked.refine = with_steps(asked.refine, selection::refines_by_default(asked.selection) &&
                                                values::fits_values(asked.values));
  }
  selection::given named;
  for (const index row : rows) {
    if (row >= asked.protect_first && row < length - asked.protect_last) {
      named.positions.push_back(row);
    }
  }
  asked.selection = std::move(named);
  return asked;
}

/// Rows that ascend within 0 … T − 1, every protected row among them.
inline result<void> check_rows(const kv_block& cache, const std::vector<index>& rows,
                               const compact_options& options) {
  const index length = cache.keys.rows();
  index last = -1;
  for (const index row : rows) {
    if (row <= last || row >= length) {
      return error{errc::invalid_position, "rows", row, length, "must ascend within the cache"};
    }
    last = row;
  }
  const auto need = [&](index first, index end) -> result<void> {
    for (index row = std::max<index>(first, 0); row < std::min(end, length); ++row) {
      const bool is_hidden =
          !cache.bias.empty() && std::isinf(cache.bias[static_cast<std::size_t>(row)]);
      if (is_hidden || std::binary_search(rows.begin(), rows.end(), row)) continue;
      return error{errc::invalid_position, "rows", row, error::none, "is protected, and not there"};
    }
    return {};
  };
  if (const auto ok = need(0, options.protect_first); !ok) return ok;
  return need(length - std::min(options.protect_last, length), length);
}

inline result<compacted> refit_head(const cache_layer& layer, std::size_t head,
                                    const std::vector<index>& rows,
                                    std::span<const query_block> queries,
                                    const compact_options& options) {
  return guard_memory("refit", [&]() -> result<compacted> {
    const kv_block& cache = layer.heads[head];
    if (const auto ok = check_rows(cache, rows, options); !ok) return ok.error();
    auto fitted = compact(cache, queries, refit_options(layer, options, rows, cache.keys.rows()));
    if (!fitted) return fitted.error();
    if (fitted->positions != rows) {
      return error{errc::invalid_position, "rows", static_cast<index>(rows.size()), error::none,
                   "the bias hides one of them"};
    }
    return std::move(*fitted);
  });
}

/// Results of a layer's heads, one below the other; an empty optional is a head without rows.
inline compacted_layer join_heads(const cache_layer& layer,
                                  std::vector<std::optional<compacted>> heads) {
  compacted_layer out;
  out.number = layer.number;
  out.offsets.push_back(0);
  for (const auto& head : heads) {
    out.offsets.push_back(out.offsets.back() + (head ? head->keys.rows() : 0));
  }
  const index rows = out.offsets.back();
  out.keys.resize(rows, layer.heads.front().keys.cols());
  out.values.resize(rows, layer.heads.front().values.cols());
  out.bias.resize(rows);
  out.positions.reserve(static_cast<std::size_t>(rows));
  out.key_positions.reserve(static_cast<std::size_t>(rows));
  for (std::size_t h = 0; h < heads.size(); ++h) {
    head_report report{.id = {layer.number, static_cast<index>(h)},
                       .rows_before = layer.heads[h].keys.rows(),
                       .rows = out.rows(h),
                       .outcome = head_outcome::empty,
                       .cause = {},
                       .report = {}};
    if (heads[h]) {
      compacted& one = *heads[h];
      out.keys.middleRows(out.offsets[h], report.rows) = one.keys;
      out.values.middleRows(out.offsets[h], report.rows) = one.values;
      out.bias.segment(out.offsets[h], report.rows) = one.bias;
      out.positions.insert(out.positions.end(), one.positions.begin(), one.positions.end());
      out.key_positions.insert(out.key_positions.end(), one.key_positions.begin(),
                               one.key_positions.end());
      report.outcome = one.report.is_identity ? head_outcome::identity : head_outcome::fitted;
      report.report = std::move(one.report);
    }
    out.heads.push_back(std::move(report));
  }
  return out;
}

}  // namespace kvfit::detail::inline KVFIT_ISA

namespace kvfit::inline KVFIT_ISA {

/// Compacts every head of `layer` to the rows named for it: `compact` with `selection::given`, so
/// biases and values are fitted to full attention for these very rows.
///
/// rows: one list a head, ascending, hidden rows not among them; an empty list leaves the head
/// without rows. Rows that `options` protects must be named. queries: one block per query head, in
/// the engine's order, a multiple of the KV heads. options: of each head; `budget` and `selection`
/// are not looked at, but where the selection would have been refined by default the rows are, too.
/// `bias::from_selection` has nothing to take weights from and is an error. The layer's own rule
/// and rotation stand in for those of the options.
///
/// Errors: `invalid_option` for a layer that is not global; `empty_input`; `shape_mismatch`;
/// `invalid_position` for rows that can't be kept; those of `compact`, of the first head that has
/// one, named in `detail`; `out_of_memory`. Nothing is returned then. Cost: one `compact` a head,
/// spread over the executor; the same bytes for every one of them.
///
///     const std::vector<std::vector<index>> rows = {{0, 3, 9}, {0, 4, 9}};
///     auto refitted = kvfit::refit_layer(layer, rows, queries, options, pool);
template <executor E>
[[nodiscard]] result<compacted_layer> refit_layer(const cache_layer& layer,
                                                  std::span<const std::vector<index>> rows,
                                                  std::span<const query_block> queries,
                                                  const compact_options& options, E& how) {
  return detail::guard_memory("refit_layer", [&]() -> result<compacted_layer> {
    const auto group = detail::group_size_of(layer, queries);
    if (!group) return group.error();
    const std::size_t heads = layer.heads.size();
    if (rows.size() != heads) {
      return error{errc::shape_mismatch, "rows", static_cast<index>(rows.size()),
                   static_cast<index>(heads), "one list a head"};
    }
    for (const kv_block& head : layer.heads) {
      const kv_block& first = layer.heads.front();
      if (head.keys.cols() == first.keys.cols() && head.values.cols() == first.values.cols()) {
        continue;
      }
      return error{errc::shape_mismatch, "layer " + std::to_string(layer.number), head.keys.cols(),
                   first.keys.cols(), "columns must be the same in all heads"};
    }
    std::vector<std::optional<compacted>> done(heads);
    std::vector<std::optional<error>> failed(heads);
    how.run(static_cast<index>(heads), [&](index i) noexcept {
      const auto h = static_cast<std::size_t>(i);
      if (rows[h].empty()) return;
      auto one =
          detail::refit_head(layer, h, rows[h], queries.subspan(h * *group, *group), options);
      if (one) {
        done[h] = std::move(*one);
      } else {
        failed[h] = one.error();
      }
    });
    for (std::size_t h = 0; h < heads; ++h) {
      if (failed[h]) {
        return detail::in_head(std::move(*failed[h]), {layer.number, static_cast<index>(h)});
      }
    }
    return detail::join_heads(layer, std::move(done));
  });
}

/// The same on the calling thread.
[[nodiscard]] inline result<compacted_layer> refit_layer(const cache_layer& layer,
                                                         std::span<const std::vector<index>> rows,
                                                         std::span<const query_block> queries,
                                                         const compact_options& options) {
  const serial how;
  return refit_layer(layer, rows, queries, options, how);
}

}  // namespace kvfit::inline KVFIT_ISA
