// SPDX-License-Identifier: MIT
/// `reader`: runs tokens through an engine's layers over a cache that it need not know of.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/attention/attend.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/serial.hpp"
#include "kvfit/parallel/stop.hpp"
#include "kvfit/queries/cache_prefix.hpp"
#include "kvfit/queries/engine.hpp"
#include "kvfit/queries/layer_attention.hpp"
#include "kvfit/queries/live_cache.hpp"

namespace kvfit {

/// How a `reader` runs an engine.
struct read_options {
  /// Tokens that go through the layers together, ≥ 1. More cost memory: the engine's rows of one
  /// layer, and a panel of logits.
  index_t chunk = 512;
  stop_when stop = {};  ///< checked before every layer
  /// Of the attention of each KV head of a chunk, its cap on memory among them: as many heads as
  /// the executor runs hold so much each.
  attend_options attention = {};
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// Nobody reads the rows.
struct unseen {
  void operator()(index_t, index_t, const layer_rows&) const noexcept {}
};

/// An engine, checked once, with who runs its heads. By reference; made by `make_reader`.
///
/// `seen(layer, first, rows)`, where it is taken, is called with what each layer makes of tokens
/// first … of the text read, before they attend: rotated queries, keys and values.
template <engine E, executor X>
class reader {
 public:
  [[nodiscard]] const E& model() const noexcept { return *model_; }
  [[nodiscard]] X& how() const noexcept { return *how_; }
  [[nodiscard]] const read_options& options() const noexcept { return options_; }
  [[nodiscard]] index_t layers() const noexcept { return static_cast<index_t>(shapes_.size()); }
  [[nodiscard]] std::span<const layer_shape> shapes() const noexcept { return shapes_; }
  [[nodiscard]] const layer_shape& shape(index_t layer) const noexcept {
    return shapes_[static_cast<std::size_t>(layer)];
  }

  /// Refuses tokens that can't be read from `position` on: `empty_input` for none, `invalid_option`
  /// for one outside the vocabulary, or where the text ends beyond the engine's positions.
  [[nodiscard]] result<void> check_tokens(std::span<const token> tokens, index_t position) const {
    if (tokens.empty()) return error{errc::empty_input, "tokens", 0, error::none, {}};
    const index_t vocabulary = model_->vocabulary();
    for (const token one : tokens) {
      if (one < 0 || one >= vocabulary) {
        return error{errc::invalid_option, "tokens", one, vocabulary, "not in the vocabulary"};
      }
    }
    const index_t limit = model_->positions();
    const auto count = static_cast<index_t>(tokens.size());
    if (position < 0 || count > limit - position) {
      return error{errc::invalid_option, "tokens", position + count, limit,
                   std::to_string(count) + " tokens from position " + std::to_string(position) +
                       " reach beyond the engine's positions"};
    }
    return {};
  }

  /// Hidden states (n × width) as they enter layer 0. Errors: those of `check_tokens`, and the
  /// engine's.
  [[nodiscard]] result<matrix> embed(std::span<const token> tokens, index_t position) const {
    if (const auto ok = check_tokens(tokens, position); !ok) return ok.error();
    auto hidden = model_->embed(tokens);
    if (!hidden) return hidden.error();
    if (hidden->rows() != static_cast<index_t>(tokens.size())) {
      return error{errc::shape_mismatch, "hidden", hidden->rows(),
                   static_cast<index_t>(tokens.size()), "rows that the engine embedded"};
    }
    return hidden;
  }

  /// Carries hidden states (n × width) of the tokens that follow `live` through layers first …
  /// end − 1: each layer projects them, its rows are appended to `live`, they attend over `before`
  /// and over the live rows up to themselves, and the layer finishes them. A chunk goes through all
  /// these layers before the next one enters.
  ///
  /// `live` starts where `before` ends, and has as many rows in all these layers. Errors, with
  /// `live` as long as it was and `hidden` of no use: those of `check_prefix`, of the engine and of
  /// `attend`; `invalid_option` for layers that are none, `invalid_position` where `live` does not
  /// follow `before`, `cancelled` (layer passes done, of how many).
  template <class Seen = unseen>
  [[nodiscard]] result<void> run(const cache_prefix& before, live_cache& live, index_t first,
                                 index_t end, matrix& hidden, Seen&& seen = {}) const {
    if (const auto ok = check_run(before, live, first, end, hidden); !ok) return ok;
    const index_t start = live.rows(first);
    auto ran = detail::catch_bad_alloc(
        "reader::run", [&] { return run_chunks(before, live, first, end, hidden, seen); });
    if (!ran) {
      for (index_t l = first; l < end; ++l) live.truncate(l, start);
    }
    return ran;
  }

  /// Reads tokens through all layers; returns their hidden states as they leave the last one.
  ///
  /// Errors: those of `embed` and `run`.
  template <class Seen = unseen>
  [[nodiscard]] result<matrix> read(const cache_prefix& before, live_cache& live,
                                    std::span<const token> tokens, Seen&& seen = {}) const {
    if (live.layers() != layers()) return wrong_layers(live);
    auto hidden = embed(tokens, live.first_position() + live.rows(0));
    if (!hidden) return hidden.error();
    if (const auto ok = run(before, live, 0, layers(), *hidden, seen); !ok) return ok.error();
    return hidden;
  }

  /// `project` of one layer, checked.
  [[nodiscard]] result<layer_rows> project(index_t layer, const matrix& hidden,
                                           index_t position) const {
    auto rows = model_->project(layer, hidden, position);
    if (!rows) return rows.error();
    if (const auto ok = detail::check_projected(shape(layer), *rows, hidden.rows()); !ok) {
      return ok.error();
    }
    return rows;
  }

  /// Attention of rows that have been appended to `live`, then `finish`: hidden leaves the layer.
  [[nodiscard]] result<void> finish(index_t layer, const cache_prefix& before,
                                    const live_cache& live, const layer_rows& rows,
                                    index_t position, matrix& hidden) const {
    const auto outputs =
        attend_layer(*how_, shape(layer), before, live, layer, rows, position, options_.attention);
    if (!outputs) return outputs.error();
    const index_t tokens = hidden.rows();
    const index_t width = hidden.cols();
    if (const auto ok = model_->finish(layer, *outputs, hidden); !ok) return ok;
    if (hidden.rows() != tokens || hidden.cols() != width) {
      return error{errc::shape_mismatch, "hidden", hidden.rows(), tokens,
                   "the engine changed its size"};
    }
    return {};
  }

  /// `cancelled` where `options().stop` is due; the detail says why.
  [[nodiscard]] result<void> check_cancelled(index_t done, index_t count) const {
    const auto ok = check_stop(options_.stop, "layer passes");
    if (ok) return {};
    error cause = ok.error();
    cause.actual = done;
    cause.expected = count;
    return cause;
  }

 private:
  template <engine M, executor H>
  friend result<reader<M, H>> make_reader(const M& model, H& how, const read_options& options);

  reader(const E& model, X& how, const read_options& options, std::vector<layer_shape> shapes)
      : model_(&model), how_(&how), options_(options), shapes_(std::move(shapes)) {}

  [[nodiscard]] error wrong_layers(const live_cache& live) const {
    return {errc::shape_mismatch, "live", live.layers(), layers(), "layers"};
  }

  [[nodiscard]] result<void> check_run(const cache_prefix& before, const live_cache& live,
                                       index_t first, index_t end, const matrix& hidden) const {
    if (live.layers() != layers()) return wrong_layers(live);
    if (first < 0 || end <= first || end > layers()) {
      return error{errc::invalid_option, "layers", end, layers(),
                   "layers from " + std::to_string(first)};
    }
    if (hidden.rows() < 1) return error{errc::empty_input, "hidden", hidden.rows(), 1};
    if (const auto ok = check_prefix(before, shapes_); !ok) return ok;
    if (live.first_position() != before.positions) {
      return error{errc::invalid_position, "live", live.first_position(), before.positions,
                   "must equal it: live rows follow the prefix"};
    }
    for (index_t l = first; l < end; ++l) {
      if (live.rows(l) != live.rows(first)) {
        return error{errc::shape_mismatch, "live", live.rows(l), live.rows(first),
                     "rows of layer " + std::to_string(l)};
      }
    }
    return {};
  }

  template <class Seen>
  result<void> run_chunks(const cache_prefix& before, live_cache& live, index_t first, index_t end,
                          matrix& hidden, Seen& seen) const {
    const index_t tokens = hidden.rows();
    const index_t chunks = (tokens + options_.chunk - 1) / options_.chunk;
    index_t done = 0;
    for (index_t from = 0; from < tokens; from += options_.chunk) {
      const index_t count = (std::min)(options_.chunk, tokens - from);
      matrix part = hidden.middleRows(from, count);
      const index_t position = live.first_position() + live.rows(first);
      for (index_t l = first; l < end; ++l) {
        if (const auto ok = check_cancelled(done, chunks * (end - first)); !ok) return ok;
        const auto rows = project(l, part, position);
        if (!rows) return rows.error();
        seen(l, from, *rows);
        live.append(l, *rows);
        if (const auto ok = finish(l, before, live, *rows, position, part); !ok) return ok;
        ++done;
      }
      hidden.middleRows(from, count) = part;
    }
    return {};
  }

  const E* model_;
  X* how_;
  read_options options_;
  std::vector<layer_shape> shapes_;
};

/// A reader of `model`, whose KV heads run on `how`. Both must outlive it.
///
///     auto read = kvfit::make_reader(model);
///     auto text = kvfit::prefill(*read, tokens);
///
/// Errors, named by layer: `empty_input` for no layer or no vocabulary; `invalid_option` for a size
/// below 1, a recurrent layer, a chunk below 1; `shape_mismatch` where KV heads do not divide the
/// query heads; those of `check_rule` and `check_rope`.
template <engine E, executor X>
[[nodiscard]] result<reader<E, X>> make_reader(const E& model, X& how,
                                               const read_options& options = {}) {
  if (options.chunk < 1) {
    return error{errc::invalid_option, "chunk", options.chunk, 1, "must be at least 1"};
  }
  if (model.layers() < 1) return error{errc::empty_input, "layers", model.layers(), 1};
  if (model.vocabulary() < 1) return error{errc::empty_input, "vocabulary", model.vocabulary(), 1};
  return detail::catch_bad_alloc("make_reader", [&]() -> result<reader<E, X>> {
    std::vector<layer_shape> shapes;
    for (index_t l = 0; l < model.layers(); ++l) {
      const layer_shape shape = model.shape(l);
      const std::string here = "layer " + std::to_string(l);
      const auto in_layer = [&](error cause) {
        cause.detail = cause.detail.empty() ? here : here + ": " + cause.detail;
        return cause;
      };
      if (shape.kind == layer_kind::recurrent) {
        return error{errc::invalid_option, "kind", error::none, error::none,
                     here + ": a recurrent layer has no keys"};
      }
      const index_t least =
          (std::min)({shape.query_heads, shape.kv_heads, shape.key_size, shape.value_size});
      if (least < 1) {
        return error{errc::invalid_option, "shape", least, 1,
                     here + ": heads and sizes must be at least 1"};
      }
      if (shape.query_heads % shape.kv_heads != 0) {
        return error{errc::shape_mismatch, "query_heads", shape.query_heads, shape.kv_heads,
                     here + ": must be a multiple of the KV heads"};
      }
      if (const auto ok = check_rule(shape.rule); !ok) return in_layer(ok.error());
      if (shape.rotation) {
        const auto ok = check_rope(*shape.rotation, shape.key_size);
        if (!ok) return in_layer(ok.error());
      }
      shapes.push_back(shape);
    }
    return reader<E, X>(model, how, options, std::move(shapes));
  });
}

/// The same, on the calling thread.
template <engine E>
[[nodiscard]] result<reader<E, const serial>> make_reader(const E& model,
                                                          const read_options& options = {}) {
  static constexpr serial in_order;
  return make_reader(model, in_order, options);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
