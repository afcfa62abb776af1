// SPDX-License-Identifier: MIT
// Any sizes, strides, tables and types as a view: an error, or a view whose rows lie where an
// oracle of wide integers says, are read without leaving their memory, are the same whichever way
// they are read, and are written as a whole or not at all.
#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "fuzz/check.hpp"
#include "kvfit/view/layouts.hpp"
#include "kvfit/view/load.hpp"
#include "kvfit/view/make_view.hpp"
#include "kvfit/view/store.hpp"

namespace {

using kvfit::dtype;
using kvfit::index_t;
using kvfit::row_memory;
using kvfit::row_view;
using kvfit_fuzz::input;
using kvfit_fuzz::promise;
__extension__ using wide = __int128;

constexpr std::size_t room = 4096;      // bytes of the memory and of its scales
constexpr index_t most_numbers = 2048;  // that a view may have to be read here
constexpr dtype types[] = {
    dtype::fp32, dtype::fp16, dtype::bf16, dtype::fp8_e4m3, dtype::fp8_e5m2,
    dtype::q8_0, dtype::q4_0, dtype::int8, dtype::decoded,  static_cast<dtype>(200)};

void decode_ramp(const void* context, index_t row, float* out) noexcept {
  const auto cols = *static_cast<const index_t*>(context);
  for (index_t c = 0; c < cols; ++c)
    out[c] = static_cast<float>(row % 1024) + static_cast<float>(c);
}

/// Memory and scales of exactly `room` bytes each on the heap, so that a sanitizer sees every step
/// beyond.
struct memories {
  std::vector<std::byte> numbers = std::vector<std::byte>(room);
  std::vector<std::byte> scales = std::vector<std::byte>(room);

  explicit memories(input& in) {
    auto word = in.take<std::uint32_t>();
    for (auto* memory : {&numbers, &scales}) {
      for (std::byte& byte : *memory)
        byte = static_cast<std::byte>((word = word * 1664525U + 1013904223U) >> 24U);
    }
  }
};

/// The lowest and highest of some places.
struct span_of_places {
  wide low = 0;
  wide high = 0;
  void add(wide count, wide stride) {
    if (count < 1) return;
    low += std::min<wide>(0, (count - 1) * stride);
    high += std::max<wide>(0, (count - 1) * stride);
  }
};

/// Whether places low … high of numbers of `type` from byte `start` on lie within `room`.
bool fits(const span_of_places& places, dtype type, wide start) {
  const auto bytes = static_cast<wide>(size_of(type));
  const wide unit = kvfit::is_block(type) ? kvfit::block_length : 1;
  const wide low = places.low >= 0 ? 0 : -((unit - 1 - places.low) / unit);  // rounds down
  const wide high = places.high / unit;
  return start + low * bytes >= 0 && start + (high + 1) * bytes <= static_cast<wide>(room);
}

/// Whether all that `slots` consecutive slots in each of `pages` pages can reach is there.
bool is_inside(const row_memory& memory, index_t slots, index_t pages, index_t page_stride,
               std::size_t start) {
  if (memory.type == dtype::decoded) return true;
  span_of_places numbers;
  numbers.add(slots, memory.row_stride);
  numbers.add(memory.cols, memory.col_stride);
  numbers.add(pages, page_stride);
  if (!fits(numbers, memory.type, static_cast<wide>(start))) return false;
  if (!memory.is_scaled()) return true;
  const kvfit::group_scales& scales = memory.scales;
  span_of_places reached;
  reached.add((slots - 1) / scales.row_group + 1, scales.row_stride);
  reached.add((memory.cols - 1) / scales.group + 1, scales.group_stride);
  reached.add(pages, scales.page_stride);
  return fits(reached, scales.type, 0);
}

bool same_bits(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

/// Reads the view element by element, row by row and in tiles, and of cuts and transposes of it.
void read(const row_view& view, input& in) {
  if (view.rows() > most_numbers || view.cols() > most_numbers ||
      view.rows() * view.cols() > most_numbers) {
    return;
  }
  if (view.empty()) return;
  row_view part = view;
  for (int cut = in.below(4); cut > 0 && !part.empty(); --cut) {
    const auto at = static_cast<index_t>(in.take<std::uint8_t>());
    switch (in.below(3)) {
      case 0:
        part = part.transposed();
        break;
      case 1:
        part = part.every_row(at % part.rows(), 1 + at % 3);
        break;
      default: {
        const index_t first = at % part.rows();
        part = part.middle_rows(first, part.rows() - first);
      }
    }
  }
  if (part.empty()) return;
  const auto cols = static_cast<std::size_t>(part.cols());
  std::vector<float> tile(static_cast<std::size_t>(part.rows()) * cols);
  std::vector<float> row(cols);
  const kvfit::float_tile loaded = kvfit::load_rows(part, 0, part.rows(), tile.data());
  for (index_t i = 0; i < part.rows(); ++i) {
    kvfit::load_row(part, i, row.data());
    for (index_t j = 0; j < part.cols(); ++j) {
      const float here = part(i, j);
      promise(same_bits(here, row[static_cast<std::size_t>(j)]) || here != here);
      promise(same_bits(here, loaded.data[i * loaded.stride + j]) || here != here);
    }
  }
}

/// Writes small numbers where the view looks: all of them, read back as they were where the type
/// holds them, or none.
void write(const row_view& view, memories& held) {
  if (view.empty() || view.rows() > most_numbers || view.cols() > most_numbers ||
      view.rows() * view.cols() > most_numbers) {
    return;
  }
  kvfit::matrix source(view.rows(), view.cols());
  for (index_t i = 0; i < source.rows(); ++i) {
    for (index_t j = 0; j < source.cols(); ++j) {
      source(i, j) = static_cast<float>((i * 31 + j * 7) % 15 - 7);
    }
  }
  const memories before = held;
  if (kvfit::store_rows(source, kvfit::writable_view(view))) {
    // Exact in all number types; of scales only they are known not to be.
    if (!kvfit::is_number(view.type()) || view.memory().is_scaled()) return;
    for (index_t i = 0; i < source.rows(); ++i) {
      for (index_t j = 0; j < source.cols(); ++j) promise(view(i, j) == source(i, j));
    }
  } else {
    promise(before.numbers == held.numbers && before.scales == held.scales);
  }
}

/// A memory of any sizes and strides; numbers start somewhere in it.
row_memory any_memory(input& in, const memories& held, std::size_t& start, index_t& decoded_cols) {
  row_memory memory;
  memory.type = types[in.below(std::size(types))];
  memory.rows = in.size();
  memory.cols = in.size();
  memory.row_stride = in.size();
  memory.col_stride = in.below(4) == 0 ? in.size() : 1;
  const std::size_t unit = std::max<std::size_t>(size_of(memory.type), 1);
  start = in.take<std::uint16_t>() % (room / unit) * unit;
  memory.data = held.numbers.data() + start;
  if (in.below(64) == 0) memory.data = nullptr;
  if (kvfit::takes_scales(memory.type) && (memory.type == dtype::int8 || in.below(2) == 0)) {
    memory.scales = {.data = held.scales.data(),
                     .type = types[in.below(4) < 3 ? in.below(2) : in.below(std::size(types))],
                     .group = in.size(),
                     .row_stride = in.size(),
                     .group_stride = in.size(),
                     .page_stride = in.size(),
                     .row_group = in.size()};
  }
  if (memory.type == dtype::decoded) {
    decoded_cols = memory.cols;
    memory.row_stride = 0;
    memory.col_stride = 1;
    memory.data = &decoded_cols;
    memory.decode = decode_ramp;
  }
  return memory;
}

void strided_or_listed(input& in, memories& held) {
  std::size_t start = 0;
  index_t decoded_cols = 0;
  row_memory memory = any_memory(in, held, start, decoded_cols);
  if (in.below(8) != 0) memory.scales.page_stride = 0;
  const bool is_listed = in.below(2) == 0;
  std::vector<index_t> rows(is_listed ? in.below(40) : 0);
  for (index_t& row : rows) row = in.size();
  const auto view = is_listed ? kvfit::make_listed_view(memory, rows) : kvfit::make_view(memory);
  if (!view) return;
  promise(view->cols() == memory.cols);
  promise(view->rows() == (is_listed ? static_cast<index_t>(rows.size()) : memory.rows));
  for (const index_t row : rows) promise(row >= 0 && row < memory.rows);
  if (view->empty() || !is_inside(memory, memory.rows, 1, 0, start)) return;
  read(*view, in);
  if (memory.type != dtype::decoded) write(*view, held);
}

template <class Entry>
void paged(input& in, memories& held) {
  std::size_t start = 0;
  index_t decoded_cols = 0;
  row_memory memory = any_memory(in, held, start, decoded_cols);
  kvfit::paging page{in.size(), in.size(), in.size()};
  if (memory.type == dtype::decoded) page.page_stride = 0;
  const index_t rows = in.size();
  if (memory.rows != rows) memory.rows = 0;
  std::vector<Entry> table(in.below(40));
  for (Entry& entry : table) entry = static_cast<Entry>(in.size());
  const auto view = kvfit::make_paged_view(memory, std::span<const Entry>(table), page, rows);
  if (!view || view->empty()) return;
  promise(view->rows() == rows && view->cols() == memory.cols);
  if (!is_inside(memory, page.page_size, page.pages, page.page_stride, start)) return;
  read(*view, in);
  if (memory.type != dtype::decoded) write(*view, held);
}

/// Layouts of engines know how long their memory is: what they let through is read as it is.
void layouts(input& in, memories& held) {
  const dtype type = types[in.below(std::size(types))];
  kvfit::cache_scales scales{
      .data = held.scales.data(), .type = types[in.below(2)], .group = in.size()};
  if (!kvfit::takes_scales(type)) {
    scales = {};
  } else if (in.below(2) == 0) {
    scales.per = static_cast<kvfit::scale_scope>(in.below(6));
    if (scales.per != kvfit::scale_scope::group) scales.group = 32;
    if (in.below(2) == 0) scales.value_data = held.scales.data();
    if (scales.per == kvfit::scale_scope::row_tail) {
      scales.tail = in.size();
      scales.data = nullptr;
      scales.value_data = nullptr;
    }
  }
  const index_t head = in.size();
  const index_t tokens = in.size();
  std::vector<index_t> cells(in.below(40));
  for (index_t& cell : cells) cell = in.size();
  const auto inside = [&](const row_view& view) {
    // Scales have no length of their own: those of a tensor that fits are fewer than its numbers.
    const bool is_group = scales.per == kvfit::scale_scope::group;
    if (view.memory().is_scaled() && (is_group ? scales.group : view.cols()) < 4) return;
    read(view, in);
    write(view, held);
  };
  switch (in.below(3)) {
    case 0: {
      const kvfit::llama_cpp_cache cache{held.numbers.data(), type,      in.size(),
                                         in.size(),           in.size(), in.below(2) == 0,
                                         in.size(),           in.size(), room};
      const auto view = in.below(2) == 0 ? kvfit::llama_cpp_head(cache, head, tokens)
                                         : kvfit::llama_cpp_head(cache, head, cells);
      if (view) inside(*view);
      return;
    }
    case 1: {
      const kvfit::batch_cache cache{held.numbers.data(), type,      in.size(), in.size(),
                                     in.size(),           in.size(), scales,    room};
      if (const auto view = kvfit::batch_head(cache, in.size(), head, tokens)) inside(*view);
      return;
    }
    default: {
      const kvfit::paged_cache cache{held.numbers.data(),
                                     type,
                                     static_cast<kvfit::page_order>(in.below(8)),
                                     in.size(),
                                     in.size(),
                                     in.size(),
                                     in.size(),
                                     in.size(),
                                     in.size(),
                                     scales,
                                     room};
      const auto part = in.below(2) == 0 ? kvfit::kv_part::keys : kvfit::kv_part::values;
      const auto view =
          kvfit::paged_head(cache, part, head, std::span<const index_t>(cells), tokens);
      if (view) inside(*view);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  input in(data, size);
  const std::uint8_t kind = in.below(4);
  memories held(in);
  if (kind == 0) strided_or_listed(in, held);
  if (kind == 1) paged<std::int32_t>(in, held);
  if (kind == 2) paged<kvfit::index_t>(in, held);
  if (kind == 3) layouts(in, held);
  return 0;
}
