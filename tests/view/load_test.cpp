// SPDX-License-Identifier: MIT
#include "kvfit/view/load.hpp"

#include <cstring>

#include "kvfit/core/random.hpp"
#include "support/catch.hpp"

namespace kvfit_test {
namespace {

using kvfit::dtype;
using kvfit::index_t;
using kvfit::row_view;

enum class layout { contiguous, padded, transposed, reversed, mirrored, spread, repeated };

/// A view over its own memory of any type and layout, filled with arbitrary finite bit patterns.
class arranged {
 public:
  arranged(dtype type, layout where, index_t rows, index_t cols, std::size_t misaligned) {
    const std::size_t size = size_of(type);
    memory_.resize(static_cast<std::size_t>((rows + 3) * (cols + 3) * 2) * size + 64);
    kvfit::random_source random(rows * 100 + cols);
    for (std::size_t at = 0; at + 4 <= memory_.size(); at += 4) {
      // Exponents below the largest: finite in all three types, subnormals included.
      const auto bits = static_cast<std::uint32_t>(random.next()) & 0xBBFFBBFFU;
      std::memcpy(memory_.data() + at, &bits, 4);
    }
    const std::byte* start = memory_.data() + misaligned * size;
    const auto at = [&](index_t elements) {
      return start + static_cast<std::size_t>(elements) * size;
    };
    switch (where) {
      case layout::contiguous:
        view = row_view(start, type, rows, cols, cols);
        break;
      case layout::padded:
        view = row_view(start, type, rows, cols, cols + 3);
        break;
      case layout::transposed:
        view = row_view(start, type, cols, rows, rows + 2).transposed();
        break;
      case layout::reversed:
        view = row_view(at((rows - 1) * cols), type, rows, cols, -cols);
        break;
      case layout::mirrored:
        view = row_view(at(cols - 1), type, rows, cols, cols, -1);
        break;
      case layout::spread:
        view = row_view(start, type, rows, cols, 2 * cols, 2);
        break;
      case layout::repeated:
        view = row_view(start, type, rows, cols, 0);
        break;
    }
  }
  arranged(const arranged&) = delete;
  arranged& operator=(const arranged&) = delete;

  row_view view;

 private:
  std::vector<std::byte> memory_;
};

std::uint32_t bits_of(float x) {
  return std::bit_cast<std::uint32_t>(x);
}

}  // namespace

TEST_CASE("Loaded rows equal element access for every type and layout, bit for bit",
          "[view][load]") {
  const auto type = GENERATE(dtype::fp32, dtype::fp16, dtype::bf16);
  const auto where = GENERATE(layout::contiguous, layout::padded, layout::transposed,
                              layout::reversed, layout::mirrored, layout::spread, layout::repeated);
  const auto cols = GENERATE(as<index_t>{}, 1, 2, 3, 15, 16, 17, 33);  // around the vector lengths
  const auto misaligned = GENERATE(as<std::size_t>{}, 0, 1);
  CAPTURE(kvfit::name(type), static_cast<int>(where), cols, misaligned);
  constexpr index_t rows = 9;
  const arranged source(type, where, rows, cols, misaligned);
  const row_view& view = source.view;
  constexpr float untouched = 12345;

  for (index_t first = 0; first < rows; first += 2) {
    for (index_t count = 1; first + count <= rows; count += 3) {
      std::vector<float> buffer(static_cast<std::size_t>(count * cols) + 1, untouched);
      const kvfit::float_tile tile = kvfit::load_rows(view, first, count, buffer.data());
      index_t wrong = 0;
      for (index_t i = 0; i < count; ++i) {
        for (index_t j = 0; j < cols; ++j) {
          const float loaded = tile.data[i * tile.stride + j];
          wrong += bits_of(loaded) == bits_of(view(first + i, j)) ? 0 : 1;
        }
      }
      CAPTURE(first, count);
      CHECK(wrong == 0);
      CHECK(buffer.back() == untouched);
      CHECK(tile.stride >= 0);  // Eigen's maps take no other
      if (type == dtype::fp32 && (where == layout::contiguous || where == layout::padded)) {
        CHECK(static_cast<const void*>(tile.data) == view.address(first, 0));  // in place
        CHECK(tile.stride == view.row_stride());
      }
    }
    std::vector<float> row(static_cast<std::size_t>(cols) + 1, untouched);
    kvfit::load_row(view, first, row.data());
    index_t wrong = 0;
    for (index_t j = 0; j < cols; ++j) {
      wrong += bits_of(row[static_cast<std::size_t>(j)]) == bits_of(view(first, j)) ? 0 : 1;
    }
    CHECK(wrong == 0);
    CHECK(row.back() == untouched);
  }
}

TEST_CASE("Gathered rows equal element access, in any order and repeated", "[view][load]") {
  const auto type = GENERATE(dtype::fp32, dtype::fp16, dtype::bf16);
  const auto where = GENERATE(layout::contiguous, layout::transposed, layout::reversed);
  CAPTURE(kvfit::name(type), static_cast<int>(where));
  const arranged source(type, where, 9, 17, 0);
  const std::vector<index_t> rows = {8, 0, 3, 3, 7};
  const kvfit::matrix gathered = kvfit::gather_rows(source.view, rows);
  REQUIRE(gathered.rows() == 5);
  REQUIRE(gathered.cols() == 17);
  index_t wrong = 0;
  for (index_t i = 0; i < 5; ++i) {
    for (index_t j = 0; j < 17; ++j) {
      const float expected = source.view(rows[static_cast<std::size_t>(i)], j);
      wrong += bits_of(gathered(i, j)) == bits_of(expected) ? 0 : 1;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("The memory of rows is told where they lie close together", "[view][load]") {
  const std::vector<kvfit::fp16> memory(10 * 30);
  const row_view rows(memory.data(), 10, 20, 30);
  const auto some = kvfit::memory_of_rows(rows, 4, 3);
  CHECK(some.data == rows.address(4, 0));
  CHECK(some.bytes == (2 * 30 + 20) * 2);
  CHECK(kvfit::memory_of_rows(rows, 8, 3).bytes == (30 + 20) * 2);  // no more than there are
  CHECK(kvfit::memory_of_rows(rows, 10, 3).bytes == 0);
  CHECK(kvfit::memory_of_rows(rows, 0, 0).bytes == 0);
  CHECK(kvfit::memory_of_rows(row_view(), 0, 3).bytes == 0);
  CHECK(kvfit::memory_of_rows(rows.transposed(), 4, 3).bytes == 0);
  CHECK(kvfit::memory_of_rows(row_view(memory.data(), 10, 10, 30), 4, 3).bytes == 0);
}

TEST_CASE("Loading nothing touches nothing", "[view][load]") {
  const arranged source(dtype::fp16, layout::contiguous, 4, 5, 0);
  float untouched = 7;
  kvfit::load_rows(source.view, 0, 0, &untouched);
  kvfit::load_rows(source.view, 4, 0, &untouched);
  const row_view no_columns(&untouched, 4, 0);
  kvfit::load_rows(no_columns, 1, 2, &untouched);
  kvfit::load_row(no_columns, 1, &untouched);
  CHECK(untouched == 7.0F);
  CHECK(kvfit::gather_rows(source.view, {}).rows() == 0);
  CHECK(kvfit::gather_rows(source.view, {}).cols() == 5);
}

}  // namespace kvfit_test
