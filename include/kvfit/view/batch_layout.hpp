// SPDX-License-Identifier: MIT
/// Caches of Hugging Face transformers and MLX: one head's keys or values as a view.
///
/// Errors: `shape_mismatch` (a size below 1, sizes beyond 64 bits, more tokens or entries than
/// there is space for, dims that are no multiples of a block, memory that is too small),
/// `invalid_option` (a head or the like that is not there, a type without a layout, scales of a
/// type that takes none, whatever else is set and not used), `invalid_position` (a cell or page
/// that is not there), `null_data`. No numbers are read; nothing is allocated.
#pragma once

#include <array>
#include <cstddef>

#include "kvfit/core/result.hpp"
#include "kvfit/view/layout_sizes.hpp"

namespace kvfit {

/// One layer's K or V tensor of Hugging Face or MLX: [sequences, heads, allocated, dim], of which
/// the first tokens of each sequence are in use.
struct batch_cache {
  const void* data = nullptr;
  dtype type = dtype::fp16;
  index_t sequences = 1;
  index_t heads = 0;
  index_t allocated = 0;  ///< tokens there is space for
  index_t dim = 0;
  cache_scales scales = {};  ///< of int8 and fp8
  std::size_t bytes = 0;     ///< of the memory at `data`; 0: not known, not checked
};

/// The first `tokens` tokens of one head of one sequence: tokens × dim.
inline result<row_view> batch_head(const batch_cache& cache, index_t sequence, index_t head,
                                   index_t tokens) {
  const std::array<detail::named_size, 4> sizes = {{{"sequences", cache.sequences},
                                                    {"heads", cache.heads},
                                                    {"allocated", cache.allocated},
                                                    {"dim", cache.dim}}};
  if (const auto ok = detail::check_sizes(sizes); !ok) return ok.error();
  if (const auto ok = detail::check_place("sequence", sequence, cache.sequences); !ok) {
    return ok.error();
  }
  if (const auto ok = detail::check_place("head", head, cache.heads); !ok) return ok.error();
  if (tokens < 0 || tokens > cache.allocated) {
    return detail::refuse_memory("tokens", tokens, cache.allocated, "no more than allocated");
  }
  if (const auto ok = detail::check_cache_scales(cache.type, cache.scales, false, false, cache.dim);
      !ok) {
    return ok.error();
  }
  constexpr index_t large = index_t{1} << 61U;
  const index_t row =
      cache.dim > large ? large : cache.dim + detail::tail_of(cache.type, cache.scales);
  const detail::dense<4> axes({cache.sequences, cache.heads, cache.allocated, row});
  if (const auto ok = detail::check_room(cache.type, axes.total, cache.dim, cache.bytes); !ok) {
    return ok.error();
  }
  const index_t before = (sequence * cache.heads + head) * cache.allocated;  // rows
  row_memory memory{.data = detail::advance(cache.data, cache.type, before * row),
                    .type = cache.type,
                    .rows = tokens,
                    .cols = cache.dim,
                    .row_stride = row};
  if (detail::has_scales(cache.type, cache.scales)) {
    const auto of_groups = [&] {
      const index_t groups = cache.dim / cache.scales.group;
      return detail::scale_places{before * groups, groups, 0};
    };
    const auto of_tokens = [&] { return detail::scale_places{before, 1, 0}; };
    const auto scales =
        detail::scales_of(memory, 0, cache.scales, cache.scales.data, head, of_groups, of_tokens);
    if (!scales) return scales.error();
    memory.scales = *scales;
  }
  return make_view(memory);
}

}  // namespace kvfit
