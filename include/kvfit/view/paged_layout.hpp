// SPDX-License-Identifier: MIT
/// Pools of pages: one head's keys or values as a view.
///
/// The orders are those of vLLM (get_kv_cache_shape of its attention backends), FlashInfer
/// ("KV-Cache Layout in FlashInfer") and TensorRT-LLM (its paged KV cache). Engines change: compare
/// with yours.
///
/// Errors: `shape_mismatch` (a size below 1, sizes beyond 64 bits, more tokens or entries than
/// there is space for, dims that are no multiples of a block, memory that is too small),
/// `invalid_option` (a head or the like that is not there, a type without a layout, scales of a
/// type that takes none, whatever else is set and not used), `invalid_position` (a cell or page
/// that is not there), `null_data`. No numbers are read; nothing is allocated.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kvfit/core/result.hpp"
#include "kvfit/view/layout_sizes.hpp"

namespace kvfit {

/// Which of the two a view is of.
enum class kv_part : std::uint8_t { keys, values };

/// How a pool of pages is ordered.
enum class page_order : std::uint8_t {
  vllm_nhd,        ///< [2, pages, page_size, heads, dim]
  vllm_hnd,        ///< [2, pages, heads, page_size, dim]
  vllm_packed,     ///< [pages, heads, page_size, dim + value_dim]: a key, then its value
  flashinfer_nhd,  ///< [pages, 2, page_size, heads, dim]
  flashinfer_hnd,  ///< [pages, 2, heads, page_size, dim]
  separate_nhd,    ///< [pages, page_size, heads, dim]: keys and values are two tensors
  separate_hnd,    ///< [pages, heads, page_size, dim]
  tensorrt_llm = flashinfer_hnd,
};

/// One layer's pool of pages. Axis "2" is keys, then values.
struct paged_cache {
  const void* data = nullptr;
  dtype type = dtype::fp16;
  page_order order = page_order::vllm_nhd;
  index_t pages = 0;
  index_t page_size = 0;  ///< tokens of a page
  index_t heads = 0;
  index_t dim = 0;
  index_t value_dim = 0;     ///< of `vllm_packed` alone; 0: dim
  index_t page_stride = 0;   ///< elements between pages, where layers share a pool; 0: no gaps
  cache_scales scales = {};  ///< of int8 and fp8; those a group allow no gaps between pages
  std::size_t bytes = 0;     ///< of the memory at `data`; 0: not known, not checked
};

namespace detail {

/// Where one head of a pool of pages lies, in numbers.
struct page_axes {
  index_t start = 0;
  index_t page = 0;
  index_t slot = 0;
  index_t total = 0;
};

/// `total` is −1 where the pool is beyond 64 bits.
inline page_axes axes_of(const paged_cache& cache, index_t dim, index_t value_dim, kv_part part,
                         index_t head) noexcept {
  constexpr std::size_t none = 4;  // no axis of its own for keys and values
  const index_t which = part == kv_part::values ? 1 : 0;
  const auto place = [&](const auto& shape, std::size_t page, std::size_t slot, std::size_t heads,
                         std::size_t half) {
    const dense axes(shape);
    if (axes.total < 0) return page_axes{.total = -1};
    const index_t start =
        head * axes.stride[heads] + (half == none ? 0 : which * axes.stride[half]);
    return page_axes{start, axes.stride[page], axes.stride[slot], axes.total};
  };
  using four = std::array<index_t, 4>;
  using five = std::array<index_t, 5>;
  const index_t pages = cache.pages;
  const index_t size = cache.page_size;
  const index_t heads = cache.heads;
  switch (cache.order) {
    case page_order::vllm_nhd:
      return place(five{2, pages, size, heads, dim}, 1, 2, 3, 0);
    case page_order::vllm_hnd:
      return place(five{2, pages, heads, size, dim}, 1, 3, 2, 0);
    case page_order::flashinfer_nhd:
      return place(five{pages, 2, size, heads, dim}, 0, 2, 3, 1);
    case page_order::flashinfer_hnd:
      return place(five{pages, 2, heads, size, dim}, 0, 3, 2, 1);
    case page_order::separate_nhd:
      return place(four{pages, size, heads, dim}, 0, 1, 2, none);
    case page_order::separate_hnd:
      return place(four{pages, heads, size, dim}, 0, 2, 1, none);
    case page_order::vllm_packed:
      break;
  }
  page_axes axes = place(four{pages, heads, size, dim + value_dim}, 0, 2, 1, none);
  if (axes.total > 0) axes.start += which * dim;
  return axes;
}

/// Whether the tokens of a page lie head by head.
inline bool is_by_heads(page_order order) noexcept {
  return order == page_order::vllm_hnd || order == page_order::flashinfer_hnd ||
         order == page_order::separate_hnd || order == page_order::vllm_packed;
}

template <class Entry>
result<row_view> paged_head(const paged_cache& cache, kv_part part, index_t head,
                            std::span<const Entry> table, index_t tokens) {
  const index_t value_dim = cache.value_dim == 0 ? cache.dim : cache.value_dim;
  const std::array<named_size, 5> sizes = {{{"pages", cache.pages},
                                            {"page_size", cache.page_size},
                                            {"heads", cache.heads},
                                            {"dim", cache.dim},
                                            {"value_dim", value_dim}}};
  if (const auto ok = check_sizes(sizes); !ok) return ok.error();
  if (const auto ok = check_place("head", head, cache.heads); !ok) return ok.error();
  if (cache.order > page_order::separate_hnd) {
    return error{errc::invalid_option, "order", static_cast<index_t>(cache.order),
                 static_cast<index_t>(page_order::separate_hnd)};
  }
  const bool is_packed = cache.order == page_order::vllm_packed;
  if (!is_packed && value_dim != cache.dim) {
    return refuse_option("value_dim", cache.value_dim, cache.dim, "is of packed pools alone");
  }
  const bool of_values = part == kv_part::values;
  const bool has_both = cache.order < page_order::separate_nhd;
  const index_t cols = of_values ? value_dim : cache.dim;
  for (const index_t each : {cache.dim, value_dim}) {  // those of groups, and of tails, are of both
    if (const auto ok = check_cache_scales(cache.type, cache.scales, has_both, of_values, each);
        !ok) {
      return ok.error();
    }
  }
  // Below 2^62 each, or their sum may wrap before it is checked.
  constexpr index_t large = index_t{1} << 61U;
  const bool is_huge = cache.dim > large || value_dim > large;
  const index_t tail = tail_of(cache.type, cache.scales);
  page_axes axes =
      axes_of(cache, is_huge ? 1 : cache.dim + tail, is_huge ? 1 : value_dim + tail, part, head);
  if (is_huge) axes.total = -1;
  for (const index_t run : {cache.dim, value_dim}) {
    if (const auto ok = check_room(cache.type, axes.total, run, 0); !ok) return ok.error();
  }
  row_memory memory{.data = advance(cache.data, cache.type, axes.start),
                    .type = cache.type,
                    .rows = tokens,
                    .cols = cols,
                    .row_stride = axes.slot};
  index_t page_stride = axes.page;
  if (cache.page_stride != 0) {
    if (cache.page_stride < axes.page) {
      return refuse_memory("page_stride", cache.page_stride, axes.page, "pages overlap");
    }
    const bool halves_hold_pages =
        cache.order == page_order::vllm_nhd || cache.order == page_order::vllm_hnd;
    const bool have_groups =
        has_scales(cache.type, cache.scales) && cache.scales.per == scale_scope::group;
    if (halves_hold_pages || have_groups) {
      return error{errc::invalid_option, "page_stride", cache.page_stride, axes.page,
                   "gaps between pages have no meaning here"};
    }
    page_stride = cache.page_stride;
    extent reach;  // the last page ends where its own numbers do
    reach.add_reach(cache.pages, page_stride);
    reach.add_reach(2, axes.page);
    axes.total = cache.pages > 0 ? (reach.fits() ? reach.value() : -1) : 0;
  }
  if (const auto ok = check_room(cache.type, axes.total, cols, cache.bytes); !ok) return ok.error();
  if (has_scales(cache.type, cache.scales)) {
    const cache_scales& given = cache.scales;
    const auto of_groups = [&] {
      const page_axes at =
          axes_of(cache, cache.dim / given.group, value_dim / given.group, part, head);
      return scale_places{at.start, at.slot, at.page};
    };
    const auto of_tokens = [&] {  // one tensor of the keys', one of the values'
      paged_cache rows = cache;
      rows.order = is_by_heads(cache.order) ? page_order::separate_hnd : page_order::separate_nhd;
      const page_axes at = axes_of(rows, 1, 1, part, head);
      return scale_places{at.start, at.slot, at.page};
    };
    const bool are_values = of_values && has_both && is_apart(given.per);
    const auto scales =
        scales_of(memory, page_stride, given, are_values ? given.value_data : given.data, head,
                  of_groups, of_tokens);
    if (!scales) return scales.error();
    memory.scales = *scales;
  }
  return make_paged_view(memory, table, {cache.pages, cache.page_size, page_stride}, tokens);
}

}  // namespace detail

/// The first `tokens` tokens of the sequence whose pages are `table`: tokens × dim (or value_dim).
/// The table must outlive the view.
///
///     paged_head({.data = pool, .order = page_order::tensorrt_llm, .pages = 512, .page_size = 32,
///                 .heads = 8, .dim = 128}, kv_part::keys, head, block_table, tokens)
inline result<row_view> paged_head(const paged_cache& cache, kv_part part, index_t head,
                                   std::span<const std::int32_t> table, index_t tokens) {
  return detail::paged_head(cache, part, head, table, tokens);
}
inline result<row_view> paged_head(const paged_cache& cache, kv_part part, index_t head,
                                   std::span<const index_t> table, index_t tokens) {
  return detail::paged_head(cache, part, head, table, tokens);
}

}  // namespace kvfit
