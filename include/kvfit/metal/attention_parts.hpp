// SPDX-License-Identifier: MIT
/// Attention of a head's queries over blocks of keys: the dispatches, and where they leave results.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/metal/batch.hpp"
#include "kvfit/metal/head.hpp"
#include "kvfit/metal/kernels/shared/attention_arguments.h"

namespace kvfit::metal {
inline namespace KVFIT_ISA {

/// Threadgroups that a dispatch should have at least: work is cut into parts until there are as
/// many. The same for every device, so that the same input gives the same bytes on all of one kind.
inline constexpr index_t wanted_groups = 128;

/// How a range of `count` is cut for a dispatch that has `others` threadgroups besides: into parts
/// of whole `tile`s.
struct part_sizes {
  index_t parts = 1;
  index_t each = 1;
};
inline part_sizes cut_parts(index_t count, index_t tile, index_t others) noexcept {
  const index_t tiles = (count + tile - 1) / tile;
  const index_t wanted = std::clamp<index_t>((wanted_groups + others - 1) / others, 1, tiles);
  const index_t each = (tiles + wanted - 1) / wanted;
  return {(tiles + each - 1) / each, each * tile};
}

constexpr index_t tiles(index_t count, index_t tile) noexcept {
  return count / tile + (count % tile != 0 ? 1 : 0);
}

/// Results of a head's queries, one number each, and their outputs n × d_v.
struct attention_results {
  buffer max;
  buffer mass;
  buffer log_mass;
  buffer faults;
  buffer outputs;
  index_t queries = 0;
  index_t width = 0;

  /// Whether any query met a number that is not finite.
  [[nodiscard]] bool has_faults() const {
    const auto* bits = faults.as<std::uint32_t>();
    return std::any_of(bits, bits + queries, [](std::uint32_t b) { return b != 0; });
  }
};

/// The dispatches of `attention` over blocks of keys, or of `score_pass` where no outputs are
/// wanted, then of `merge_states`: two steps, with a barrier of the batch between and after.
class attention_pass {
 public:
  /// `heads`: the blocks, all of the same width; `sinks`: `sinks_of`, or empty. All must outlive
  /// the run. Without `has_outputs` values are not read, and need not be placed.
  static result<attention_pass> make(device& on, const placed_queries& queries,
                                     std::span<const placed_head> heads,
                                     std::span<const float> sinks, bool has_outputs = true) {
    attention_pass out(queries, heads, has_outputs);
    const index_t n = queries.count;
    const index_t width = has_outputs ? index_t{heads[0].values.width} : 0;
    const index_t slices = has_outputs ? tiles(width, kernels::value_tile) : 1;
    const index_t others = tiles(n, kernels::query_tile) * slices;
    for (const placed_head& head : heads) {
      out.cuts_.push_back(cut_parts(head.logits.keys, kernels::key_tile, others));
      out.parts_ += out.cuts_.back().parts;
    }
    attention_results& to = out.results_;
    to.queries = n;
    to.width = width;
    struct wanted {
      buffer* to;
      index_t bytes;
    };
    const index_t number = sizeof(float);
    for (const wanted& one :
         {wanted{&out.states_, n * out.parts_ * index_t{sizeof(kernels::query_state)}},
          wanted{&out.part_outputs_, n * out.parts_ * width * number}, wanted{&to.max, n * number},
          wanted{&to.mass, n * number}, wanted{&to.log_mass, n * number},
          wanted{&to.faults, n * number}, wanted{&to.outputs, n * width * number}}) {
      if (one.bytes == 0) continue;  // of outputs that are not wanted
      auto made = allocate(on, one.bytes);
      if (!made) return made.error();
      *one.to = std::move(*made);
    }
    out.has_sinks_ = !sinks.empty();
    if (out.has_sinks_) {
      auto made = copy_of(on, sinks);
      if (!made) return made.error();
      out.sinks_ = std::move(*made);
    }
    return out;
  }

  /// First step: blocks are independent of each other but for the buffers that all write, so a
  /// barrier stands between them.
  result<void> attend(device& on, batch& to) const {
    index_t part = 0;
    for (std::size_t b = 0; b < heads_.size(); ++b) {
      const placed_head& head = heads_[b];
      const index_t n = queries_->count;
      if (b > 0) to.next();
      if (!has_outputs_) {
        if (const auto ok = score(on, to, b, part * n); !ok) return ok;
        part += cuts_[b].parts;
        continue;
      }
      const index_t width = results_.width;
      const index_t slices = tiles(width, kernels::value_tile);
      const kernels::attention_arguments arguments = {head.logits,
                                                      head.values,
                                                      part * n,
                                                      part * n * width,
                                                      static_cast<std::int32_t>(cuts_[b].each),
                                                      static_cast<std::int32_t>(slices)};
      std::vector<binding> bound = head.bindings(*queries_);
      bound.push_back({kernels::attention_buffer_values, &head.value_rows.memory});
      bound.push_back({kernels::attention_buffer_states, &states_});
      bound.push_back({kernels::attention_buffer_part_outputs, &part_outputs_});
      const auto ok = to.add(head.kernel(on, "attention"), arguments, kernels::buffer_arguments,
                             std::span<const binding>(bound),
                             {tiles(n, kernels::query_tile), cuts_[b].parts * slices, 1});
      if (!ok) return ok;
      part += cuts_[b].parts;
    }
    return {};
  }

  /// Second step.
  result<void> merge(batch& to) const {
    kernels::merge_arguments arguments{};
    arguments.output_row_stride = results_.width;
    arguments.queries = static_cast<std::int32_t>(queries_->count);
    arguments.block_rows = static_cast<std::int32_t>(queries_->block_rows);
    arguments.parts = static_cast<std::int32_t>(parts_);
    arguments.output_parts = arguments.parts;
    arguments.width = static_cast<std::int32_t>(results_.width);
    arguments.flags =
        (has_outputs_ ? kernels::merge_outputs : 0U) | (has_sinks_ ? kernels::merge_sinks : 0U);
    std::vector<binding> bound = {{kernels::merge_buffer_states, &states_},
                                  {kernels::merge_buffer_max, &results_.max},
                                  {kernels::merge_buffer_mass, &results_.mass},
                                  {kernels::merge_buffer_log_mass, &results_.log_mass},
                                  {kernels::merge_buffer_faults, &results_.faults}};
    if (has_outputs_) {
      bound.push_back({kernels::merge_buffer_part_outputs, &part_outputs_});
      bound.push_back({kernels::merge_buffer_outputs, &results_.outputs});
    }
    if (has_sinks_) bound.push_back({kernels::merge_buffer_sinks, &sinks_});
    return to.add({"merge_states", "merge_states"}, arguments, kernels::merge_buffer_arguments,
                  std::span<const binding>(bound), {queries_->count, 1, 1});
  }

  [[nodiscard]] const attention_results& results() const noexcept { return results_; }

 private:
  attention_pass(const placed_queries& queries, std::span<const placed_head> heads,
                 bool has_outputs)
      : queries_(&queries), heads_(heads), has_outputs_(has_outputs) {}

  /// Maxima and masses of one block alone.
  result<void> score(device& on, batch& to, std::size_t block, index_t state_offset) const {
    const placed_head& head = heads_[block];
    const kernels::score_arguments arguments = {head.logits, state_offset,
                                                static_cast<std::int32_t>(cuts_[block].each), 0};
    std::vector<binding> bound = head.bindings(*queries_);
    bound.push_back({kernels::score_buffer_states, &states_});
    return to.add(head.kernel(on, "score_pass"), arguments, kernels::buffer_arguments,
                  std::span<const binding>(bound),
                  {tiles(queries_->count, kernels::query_tile), cuts_[block].parts, 1});
  }

  const placed_queries* queries_;
  std::span<const placed_head> heads_;
  bool has_outputs_;
  std::vector<part_sizes> cuts_;
  index_t parts_ = 0;
  bool has_sinks_ = false;
  buffer states_;
  buffer part_outputs_;
  buffer sinks_;
  attention_results results_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
