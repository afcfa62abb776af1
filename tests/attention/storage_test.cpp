// SPDX-License-Identifier: MIT
// Where and how the numbers are stored must not show in the result.
#include "attention/samples.hpp"

namespace kvfit_test {

using kvfit::dtype;
using kvfit::kv_block;
using kvfit::row_view;
using kvfit::score_pass;

namespace {

enum class layout { contiguous, padded, transposed, reversed, spread };

/// A copy of `numbers` rounded to `type` and laid out in its own memory.
class stored {
 public:
  stored(const kvfit::matrix& numbers, dtype type, layout where)
      : exact_(numbers.rows(), numbers.cols()) {
    const index_t rows = numbers.rows();
    const index_t cols = numbers.cols();
    switch (where) {
      case layout::contiguous:
        place(rows * cols, 0, cols, 1);
        break;
      case layout::padded:
        place(rows * (cols + 3) + 1, 1, cols + 3, 1);
        break;
      case layout::transposed:
        place((rows + 5) * cols, 0, 1, rows + 5);
        break;
      case layout::reversed:
        place(rows * cols, (rows - 1) * cols, -cols, 1);
        break;
      case layout::spread:
        place(rows * cols * 2, 0, 2 * cols, 2);
        break;
    }
    const std::size_t size = size_of(type);
    for (index_t i = 0; i < rows; ++i) {
      for (index_t j = 0; j < cols; ++j) {
        const float x = numbers(i, j);
        std::byte* at = memory_.data() +
                        static_cast<std::size_t>(start_ + i * row_stride_ + j * col_stride_) * size;
        if (type == dtype::fp32) {
          std::memcpy(at, &x, 4);
          exact_(i, j) = x;
        } else if (type == dtype::fp16) {
          const auto half = static_cast<Eigen::half>(x);
          std::memcpy(at, &half, 2);
          exact_(i, j) = static_cast<float>(half);
        } else {
          const auto half = static_cast<Eigen::bfloat16>(x);
          std::memcpy(at, &half, 2);
          exact_(i, j) = static_cast<float>(half);
        }
      }
    }
    view_ = row_view(memory_.data() + static_cast<std::size_t>(start_) * size, type, rows, cols,
                     row_stride_, col_stride_);
  }
  stored(const stored&) = delete;
  stored& operator=(const stored&) = delete;

  [[nodiscard]] const row_view& view() const { return view_; }
  /// The numbers as they were stored.
  [[nodiscard]] const kvfit::matrix& exact() const { return exact_; }

 private:
  void place(index_t elements, index_t start, index_t row_stride, index_t col_stride) {
    memory_.resize(static_cast<std::size_t>(elements) * 4, std::byte{0xFF});  // NaN in all types
    start_ = start;
    row_stride_ = row_stride;
    col_stride_ = col_stride;
  }

  std::vector<std::byte> memory_;
  kvfit::matrix exact_;
  row_view view_;
  index_t start_ = 0;
  index_t row_stride_ = 0;
  index_t col_stride_ = 0;
};

}  // namespace

TEST_CASE("§9.22 attention depends on the numbers, not on how they are stored",
          "[attention][storage]") {
  const auto type = GENERATE(dtype::fp32, dtype::fp16, dtype::bf16);
  const auto where = GENERATE(layout::contiguous, layout::padded, layout::transposed,
                              layout::reversed, layout::spread);
  const auto keys_count = GENERATE(as<index_t>{}, 1, 65, 300);
  CAPTURE(kvfit::name(type), static_cast<int>(where), keys_count);
  const sample head(70, keys_count, 40, 24);
  const stored queries(head.queries, type, where);
  const stored keys(head.keys, type, where);
  const stored values(head.values, type, where);
  const stored mask(random_matrix(70, keys_count, 50), type, where);
  const std::vector<row_view> masks = {mask.view()};
  const std::vector<row_view> exact_masks = {mask.exact()};
  const kv_block as_stored{.keys = keys.view(), .values = values.view(), .masks = masks};
  const kv_block copied{.keys = keys.exact(), .values = values.exact(), .masks = exact_masks};

  const auto a = score_pass(as_stored, queries.view());
  const auto b = score_pass(copied, queries.exact());
  REQUIRE(a);
  REQUIRE(b);
  CHECK(same_bytes(a->max, b->max));
  CHECK(same_bytes(a->log_mass, b->log_mass));
  CHECK(same_bytes(a->output, b->output));
  CHECK(same_bytes(a->importance, b->importance));
  check_attention(a->output, a->log_mass, attend_in_double(queries.exact(), copied), 40);
}

TEST_CASE("§9.22 bf16 beyond the range of fp16 attends in full", "[attention][storage]") {
  kvfit::matrix large = random_matrix(20, 8, 1);
  large *= 1e6F;
  const stored values(large, dtype::bf16, layout::contiguous);
  const sample head(5, 20, 8, 8);
  REQUIRE(values.exact().cwiseAbs().maxCoeff() > 65504);
  const kv_block cache{.keys = head.keys, .values = values.view()};
  check_attention(kvfit::attend(head.queries, {cache}), attend_in_double(head.queries, cache), 8);
}

TEST_CASE("One key repeated by a zero stride counts as often as it stands there",
          "[attention][storage]") {
  const auto count = GENERATE(as<index_t>{}, 1, 2, 65, 300);
  CAPTURE(count);
  const sample head(9, 1, 16, 8);
  const row_view keys(head.keys.data(), count, 16, 0);
  const row_view values(head.values.data(), count, 8, 0);
  const auto y = kvfit::attend(head.queries, {{.keys = keys, .values = values}});
  const auto one = kvfit::attend(head.queries, {head.cache()});
  REQUIRE(y);
  REQUIRE(one);
  kvfit::attention_output expected = *one;
  expected.log_mass.array() += std::log(static_cast<float>(count));
  // equal numbers added up one after the other: roundings may all go the same way
  const double sum = static_cast<double>(count) * fp32_rounding;
  check_close(*y, expected, 1e-6 + 32 * fp32_rounding,
              (1e-6 + sum) * static_cast<double>(head.values.cwiseAbs().maxCoeff()));
}

}  // namespace kvfit_test
