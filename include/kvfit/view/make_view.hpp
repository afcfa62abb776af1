// SPDX-License-Identifier: MIT
/// Checked views of memory in any layout and type: what does not fit is an error, not a crash.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <utility>

#include "kvfit/core/result.hpp"
#include "kvfit/view/row_view.hpp"

namespace kvfit {

/// How a pool is cut into pages.
struct paging {
  index_t pages = 0;        ///< in the pool: block table entries must be in [0, pages)
  index_t page_size = 0;    ///< rows of a page, ≥ 1
  index_t page_stride = 0;  ///< elements between pages
};

namespace detail {

/// A sum of products of sizes, or the news that it does not fit 64 bits.
class extent {
 public:
  /// Adds |count − 1| · |stride|: how far `count` steps reach.
  void add_reach(index_t count, index_t stride) noexcept {
    if (count > 1) add_product(count - 1, stride);
  }
  void multiply(index_t factor) noexcept {
    const index_t sum = sum_;
    sum_ = 0;
    add_product(sum, factor);
  }
  [[nodiscard]] bool fits() const noexcept { return fits_; }
  [[nodiscard]] index_t value() const noexcept { return sum_; }

 private:
  void add_product(index_t a, index_t b) noexcept {  // a ≥ 0
    constexpr index_t most = (std::numeric_limits<index_t>::max)();
    if (b == (std::numeric_limits<index_t>::min)()) {
      fits_ = fits_ && a == 0;
      return;
    }
    const index_t magnitude = b < 0 ? -b : b;
    if (magnitude != 0 && a > (most - sum_) / magnitude) {
      fits_ = false;
    } else {
      sum_ += a * magnitude;
    }
  }

  index_t sum_ = 0;
  bool fits_ = true;
};

inline error refuse_memory(const char* what, index_t actual, index_t expected, const char* detail) {
  return error{errc::shape_mismatch, what, actual, expected, detail};
}

inline error refuse_option(const char* what, index_t actual, index_t expected, std::string detail) {
  return error{errc::invalid_option, what, actual, expected, std::move(detail)};
}

/// Scales that a type does not take, or that are described and not there.
inline result<void> check_scales_of(dtype type, bool are_set, bool are_there) {
  if (!are_set) return {};
  if (!takes_scales(type)) {
    return refuse_option("scales", error::none, error::none,
                         std::string(name(type)) + " takes no scales");
  }
  if (are_there || type == dtype::int8) return {};  // int8 is not backed without them
  return error{errc::null_data, "scales"};
}

/// What is set, and would not be used for this type or these rows.
inline result<void> check_unused(const row_memory& memory, index_t page_stride) {
  const bool has_scales = memory.scales != group_scales{};
  if (const auto ok = check_scales_of(memory.type, has_scales, memory.scales.data != nullptr);
      !ok) {
    return ok;
  }
  if (memory.scales.page_stride != 0 && !memory.map.is_paged()) {
    return refuse_option("scales.page_stride", memory.scales.page_stride, 0,
                         "these rows are not in pages");
  }
  if (memory.type != dtype::decoded) {
    if (memory.decode == nullptr) return {};
    return refuse_option("decode", error::none, error::none,
                         std::string(name(memory.type)) + " is not decoded by the caller");
  }
  constexpr const char* why = "decoders get numbers of slots, and no strides";
  if (memory.row_stride != 0) return refuse_option("row_stride", memory.row_stride, 0, why);
  if (memory.col_stride != 1) return refuse_option("col_stride", memory.col_stride, 1, why);
  if (page_stride != 0) return refuse_option("page_stride", page_stride, 0, why);
  return {};
}

/// `slots` consecutive ones in each of `pages` pages.
inline result<void> check_scales(const row_memory& memory, index_t slots, index_t pages) {
  const group_scales& scales = memory.scales;
  if (scales.type != dtype::fp32 && scales.type != dtype::fp16) {
    return error{errc::invalid_option, "scales.type", error::none, error::none,
                 std::string(name(scales.type)) + " is neither fp32 nor fp16"};
  }
  if (scales.group < 1) return error{errc::invalid_option, "scales.group", scales.group, 1};
  if (scales.row_group < 1) {
    return error{errc::invalid_option, "scales.row_group", scales.row_group, 1};
  }
  extent reach;
  reach.add_reach((slots - 1) / scales.row_group + 1, scales.row_stride);
  reach.add_reach((memory.cols - 1) / scales.group + 1, scales.group_stride);
  reach.add_reach(pages, scales.page_stride);
  reach.multiply(sizeof(float));
  if (!reach.fits()) return refuse_memory("scales", error::none, error::none, "exceed 64 bits");
  return {};
}

/// Blocks of 32 run along one direction, and all other steps are whole blocks.
inline result<void> check_blocks(const row_memory& memory, index_t pages, index_t page_stride) {
  const bool by_cols = memory.col_stride == 1;
  if (!by_cols && memory.row_stride != 1) {
    return refuse_memory("col_stride", memory.col_stride, 1,
                         "blocks need rows or columns without gaps");
  }
  const index_t other = by_cols ? memory.row_stride : memory.col_stride;
  if (other % block_length != 0) {
    return refuse_memory(by_cols ? "row_stride" : "col_stride", other, block_length,
                         "must be a multiple of the block");
  }
  if (pages > 1 && page_stride % block_length != 0) {
    return refuse_memory("page_stride", page_stride, block_length,
                         "must be a multiple of the block");
  }
  if (by_cols && memory.cols % block_length != 0) {
    return refuse_memory("cols", memory.cols, block_length, "must be a multiple of the block");
  }
  return {};
}

/// Everything but the tables: `slots` consecutive ones in each of `pages` pages.
inline result<void> check_memory(const row_memory& memory, index_t slots, index_t pages,
                                 index_t page_stride) {
  if (memory.rows < 0) return refuse_memory("rows", memory.rows, 0, "must not be negative");
  if (memory.cols < 0) return refuse_memory("cols", memory.cols, 0, "must not be negative");
  if (memory.type > dtype::decoded) {
    return error{errc::invalid_option, "type", static_cast<index_t>(memory.type),
                 static_cast<index_t>(dtype::decoded), "is no dtype"};
  }
  if (memory.type == dtype::decoded && memory.cols > decoded_cols_limit) {
    return error{errc::invalid_option, "cols", memory.cols, decoded_cols_limit,
                 "of rows with their own decoder"};
  }
  if (const auto ok = check_unused(memory, page_stride); !ok) return ok;
  if (memory.rows == 0 || memory.cols == 0) return {};
  if (!memory.is_backed()) return error{errc::null_data, "memory"};
  if (memory.type == dtype::decoded) return {};
  extent reach;
  reach.add_reach(slots, memory.row_stride);
  reach.add_reach(memory.cols, memory.col_stride);
  reach.add_reach(pages, page_stride);
  reach.multiply(is_block(memory.type) ? 2 : static_cast<index_t>(size_of(memory.type)));
  if (!reach.fits()) return refuse_memory("memory", error::none, error::none, "exceeds 64 bits");
  if (memory.is_scaled()) return check_scales(memory, slots, pages);
  if (is_block(memory.type)) return check_blocks(memory, pages, page_stride);
  return {};
}

template <class Entry>
result<row_view> make_paged_view(row_memory memory, std::span<const Entry> table,
                                 const paging& page, index_t rows) {
  if (page.page_size < 1) return error{errc::invalid_option, "page_size", page.page_size, 1};
  if (page.pages < 0) return error{errc::invalid_option, "pages", page.pages, 0};
  if (!memory.map.is_strided()) {
    return refuse_option("map", error::none, error::none, "the block table is an argument");
  }
  if (memory.rows != 0 && memory.rows != rows) {
    return refuse_memory("memory.rows", memory.rows, rows, "0, or the rows asked for");
  }
  memory.rows = rows;
  memory.map = row_map::paged(table.data(), page.page_size, page.page_stride);
  const index_t used = rows > 0 ? (rows - 1) / page.page_size + 1 : 0;
  if (static_cast<index_t>(table.size()) < used) {
    return refuse_memory("table", static_cast<index_t>(table.size()), used,
                         "one entry per page of the sequence");
  }
  if (const auto ok = check_memory(memory, page.page_size, page.pages, page.page_stride); !ok) {
    return ok.error();
  }
  extent slots;
  slots.add_reach(page.pages, page.page_size);
  slots.add_reach(2, page.page_size);
  if (!slots.fits()) return refuse_memory("pages", page.pages, error::none, "exceed 64 bits");
  for (index_t p = 0; p < used; ++p) {
    const auto entry = static_cast<index_t>(table[static_cast<std::size_t>(p)]);
    if (entry < 0 || entry >= page.pages) {
      return error{errc::invalid_position, "table", entry, page.pages,
                   "entry " + std::to_string(p) + " of the block table, pages in the pool"};
    }
  }
  return row_view(memory);
}

}  // namespace detail

/// Rows that lie a stride apart: all of `memory`, whose map must be the default. Errors:
/// `shape_mismatch` (sizes below 0, beyond 64 bits, or no multiples of a block), `invalid_option`,
/// `null_data`. What is set and not used for the type or for such rows (scales of a type without
/// any, strides of decoded rows, a decoder of any other type) is `invalid_option`, its name in
/// `argument`.
///
///     make_view({.data = v, .type = dtype::q8_0, .rows = 128, .cols = cells,
///                .row_stride = cells})           // V transposed; `.transposed()` of it: tokens
inline result<row_view> make_view(const row_memory& memory) {
  if (!memory.map.is_strided()) {
    return detail::refuse_option("map", error::none, error::none,
                                 "make_listed_view and make_paged_view take lists and tables");
  }
  if (const auto ok = detail::check_memory(memory, memory.rows, 1, 0); !ok) return ok.error();
  return row_view(memory);
}

/// Rows by number, in any order: row i is row rows[i] of `memory`. `invalid_position` (entry, rows
/// of the memory) where that is not there; else as `make_view`. Cost: one read of the list.
inline result<row_view> make_listed_view(row_memory memory, std::span<const index_t> rows) {
  if (const auto ok = make_view(memory); !ok) return ok.error();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] < 0 || rows[i] >= memory.rows) {
      return error{errc::invalid_position, "rows", rows[i], memory.rows,
                   "entry " + std::to_string(i) + " of the row list, rows of the memory"};
    }
  }
  memory.rows = static_cast<index_t>(rows.size());
  memory.map = row_map::listed(rows.data());
  return row_view(memory);
}

/// `rows` rows in pages: row i lies in slot i mod page_size of page table[i / page_size].
/// `memory.rows` is 0 or `rows`. `invalid_position` (entry, pages of the pool) for an entry that is
/// not there, `shape_mismatch` for a table that is too short; else as `make_view`. Cost: one read
/// of the table.
inline result<row_view> make_paged_view(const row_memory& memory,
                                        std::span<const std::int32_t> table, const paging& page,
                                        index_t rows) {
  return detail::make_paged_view(memory, table, page, rows);
}
inline result<row_view> make_paged_view(const row_memory& memory, std::span<const index_t> table,
                                        const paging& page, index_t rows) {
  return detail::make_paged_view(memory, table, page, rows);
}

}  // namespace kvfit
