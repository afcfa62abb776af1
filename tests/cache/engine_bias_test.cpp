// SPDX-License-Identifier: MIT
#include "kvfit/cache/engine_bias.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "cache/layer_case.hpp"
#include "kvfit/attention/attend.hpp"
#include "support/attention_oracle.hpp"
#include "support/catch.hpp"
#include "support/dense.hpp"

using kvfit::dtype;
using kvfit::errc;
using kvfit_test::layer_case;

namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// softmax of the logits of every query, times the values: what a kernel computes, in double.
template <class Logit>
kvfit_test::MatrixXd run_kernel(const kvfit::row_view& queries, const kvfit::kv_block& block,
                                Logit&& logit) {
  const auto q = kvfit_test::to_double(queries);
  const auto k = kvfit_test::to_double(block.keys);
  kvfit_test::MatrixXd s = oracle::product(q, k.transpose());
  for (kvfit::index_t i = 0; i < s.rows(); ++i) {
    for (kvfit::index_t j = 0; j < s.cols(); ++j) s(i, j) = logit(s(i, j), j);
    s.row(i) = (s.row(i).array() - s.row(i).maxCoeff()).exp();
    s.row(i) /= s.row(i).sum();
  }
  return oracle::product(s, kvfit_test::to_double(block.values));
}

double far(const kvfit_test::MatrixXd& a, const kvfit::matrix& b) {
  return oracle::largest_difference(a, oracle::to_double(b));
}

/// A layer of two heads with biases made up, the second one row shorter.
kvfit::compacted_layer small_layer(const std::vector<float>& bias) {
  const layer_case made(2);
  auto layer = kvfit_test::ragged(made, {3, 2});
  for (std::size_t j = 0; j < bias.size(); ++j)
    layer.bias[static_cast<kvfit::index_t>(j)] = bias[j];
  return layer;
}

}  // namespace

TEST_CASE("§9.5 what a kernel adds before its scale is divided by it", "[cache][engine_bias]") {
  const layer_case made(2);
  const auto layer = kvfit_test::ragged(made, {10, 7});
  constexpr float scale = 0.25F;  // 1/√16
  const auto kq_b =
      kvfit::make_engine_bias(layer, kvfit::bias_layouts::llama_cpp_kq_b(4, 0, scale));
  REQUIRE(kq_b);
  REQUIRE(kq_b->heads == 4);
  REQUIRE(kq_b->rows == 1);
  REQUIRE(kq_b->columns == 10);
  for (std::size_t q = 0; q < 4; ++q) {
    const std::size_t h = q / 2;
    const kvfit::kv_block block = layer.block(h);
    const auto wanted = kvfit::attend(made.queries[q].rows, {block});
    REQUIRE(wanted);
    const auto bias = kq_b->head(q);
    const auto as_exported = run_kernel(made.queries[q].rows, block, [&](double s, auto j) {
      return double{scale} * (s + static_cast<double>(bias(0, j)));
    });
    CHECK(far(as_exported, wanted->output) < 2e-5);
    // The same kernel with b itself makes another, weaker bias of it.
    const auto unscaled = run_kernel(made.queries[q].rows, block, [&](double s, auto j) {
      return double{scale} * (s + static_cast<double>(block.bias[static_cast<std::size_t>(j)]));
    });
    CHECK(far(unscaled, wanted->output) > 1e-2);
  }
}

TEST_CASE("under a soft-cap the bias is added behind it", "[cache][engine_bias]") {
  const layer_case made(1);
  const auto layer = kvfit_test::ragged(made, {10});
  constexpr float scale = 0.25F;
  constexpr float cap = 5;
  const kvfit::kv_block block = layer.block(0);
  const kvfit::row_view queries = made.heads[0].queries;
  const kvfit::logit_rule rule{.scale = scale, .soft_cap = cap};
  const auto wanted = kvfit::attend(queries, {block}, rule);
  REQUIRE(wanted);
  SECTION("llama.cpp: queries come scaled, the cap is its own, kq_scale is 1") {
    const auto kq_b = kvfit::make_engine_bias(layer, kvfit::bias_layouts::llama_cpp_kq_b(2, 0, 1));
    REQUIRE(kq_b);
    const auto found = run_kernel(queries, block, [&](double s, auto j) {
      return double{cap} * std::tanh(s * double{scale} / double{cap}) +
             static_cast<double>(kq_b->head(1)(0, j));
    });
    CHECK(far(found, wanted->output) < 2e-5);
  }
  SECTION("FlashInfer: the transform's tanh is multiplied by the cap") {
    const auto tensor = kvfit::make_engine_bias(layer, kvfit::bias_layouts::flashinfer(cap));
    REQUIRE(tensor);
    const auto found = run_kernel(queries, block, [&](double s, auto j) {
      const double transformed =
          std::tanh(s * double{scale} / double{cap}) + static_cast<double>(tensor->head(0)(0, j));
      return transformed * double{cap};
    });
    CHECK(far(found, wanted->output) < 2e-5);
  }
}

TEST_CASE("additive masks give the attention of the ragged heads", "[cache][engine_bias]") {
  const layer_case made(3);
  const auto layer = kvfit_test::ragged(made, {6, 0, 11});
  const auto padded = kvfit::pad(layer, 4);
  REQUIRE(padded);
  // 48 queries a query head; ggml pads both sides.
  auto layout = kvfit::bias_layouts::ggml_mask(6, 48, 12, 32);
  const auto type = GENERATE(dtype::fp32, dtype::fp16, dtype::bf16);
  layout.type = type;
  const auto mask = kvfit::make_engine_bias(layer, layout);
  REQUIRE(mask);
  REQUIRE(mask->rows == 64);
  REQUIRE(mask->columns == 12);
  REQUIRE(mask->bytes.size() == 6 * 64 * 12 * size_of(type));
  const double rounding = type == dtype::fp32 ? 0 : type == dtype::fp16 ? 0x1p-11 : 0x1p-8;
  for (const std::size_t q : {std::size_t{0}, std::size_t{1}, std::size_t{4}, std::size_t{5}}) {
    const std::size_t h = q / 2;
    const kvfit::row_view rows = mask->head(q).middle_rows(0, 48);
    const kvfit::kv_block masked{
        .keys = padded->block(h).keys, .values = padded->block(h).values, .masks = {&rows, 1}};
    const auto found = kvfit::attend(made.queries[q].rows, {masked});
    const auto wanted = kvfit::attend(made.queries[q].rows, {layer.block(h)});
    REQUIRE(found);
    REQUIRE(wanted);
    const double largest = static_cast<double>(
        layer.bias.segment(layer.offsets[h], layer.rows(h)).cwiseAbs().maxCoeff());
    const double bound = std::expm1(2 * largest * rounding) + 1e-5;
    CHECK((found->log_mass - wanted->log_mass).cwiseAbs().maxCoeff() < bound);
    CHECK(mask->head(q)(48, 0) == minus_infinity);  // a padding row
  }
  CHECK(mask->head(2)(0, 0) == minus_infinity);  // the head without rows
}

TEST_CASE("heads of a tensor are the KV heads, or the query heads that read them",
          "[cache][engine_bias]") {
  const auto layer = small_layer({1, -2, 0.5F, 3, -4});
  const auto by_kv = kvfit::make_engine_bias(layer, kvfit::bias_layouts::sdpa(dtype::fp32));
  REQUIRE(by_kv);
  CHECK(by_kv->heads == 2);
  const auto by_query = kvfit::make_engine_bias(layer, kvfit::bias_layouts::sdpa(dtype::fp16, 6));
  REQUIRE(by_query);
  CHECK(by_query->heads == 6);
  for (std::size_t q = 0; q < 6; ++q) {
    for (kvfit::index_t j = 0; j < 3; ++j) {
      CHECK(by_query->head(q)(0, j) == by_kv->head(q / 3)(0, j));
    }
  }
  CHECK(by_kv->head(0)(0, 1) == -2);
  CHECK(by_kv->head(1)(0, 1) == -4);
  CHECK(by_kv->head(1)(0, 2) == minus_infinity);
}

TEST_CASE("a bias too large for its type is an error, one too small hides its key",
          "[cache][engine_bias]") {
  const auto half = kvfit::bias_layouts::ggml_mask(2, 1, 0);
  const auto at_the_edge = kvfit::make_engine_bias(small_layer({65519, -65519, 0, 0, 0}), half);
  REQUIRE(at_the_edge);
  CHECK(at_the_edge->head(0)(0, 0) == 65504);
  CHECK(at_the_edge->head(0)(0, 1) == -65504);

  const auto above = kvfit::make_engine_bias(small_layer({0, 0, 0, 1, 65520}), half);
  REQUIRE_FALSE(above.has_value());
  CHECK(above.error().code == errc::storage_overflow);
  CHECK(above.error().actual == 1);
  CHECK(above.error().expected == 1);

  const auto below = kvfit::make_engine_bias(small_layer({0, -65520, 0, 0, 0}), half);
  REQUIRE(below);
  CHECK(below->head(0)(0, 1) == minus_infinity);

  const auto gone = kvfit::make_engine_bias(small_layer({0, 0, 0, -7e4F, -8e4F}), half);
  REQUIRE_FALSE(gone.has_value());
  CHECK(gone.error().code == errc::storage_overflow);
  CHECK(gone.error().actual == 1);

  const auto divided = kvfit::make_engine_bias(small_layer({3e38F, 0, 0, 0, 0}),
                                               kvfit::bias_layouts::llama_cpp_kq_b(2, 0, 0.01F));
  REQUIRE_FALSE(divided.has_value());
  CHECK(divided.error().code == errc::storage_overflow);
}

TEST_CASE("layouts that make no tensor are refused", "[cache][engine_bias]") {
  const auto layer = small_layer({});
  const auto cause = [&](const kvfit::bias_layout& layout) {
    const auto made = kvfit::make_engine_bias(layer, layout);
    REQUIRE_FALSE(made.has_value());
    return made.error().code;
  };
  CHECK(cause({.type = dtype::q8_0}) == errc::invalid_option);
  CHECK(cause({.query_heads = 3}) == errc::shape_mismatch);
  CHECK(cause({.query_heads = -2}) == errc::shape_mismatch);
  CHECK(cause({.queries = 0}) == errc::invalid_option);
  CHECK(cause({.query_multiple = 0}) == errc::invalid_option);
  CHECK(cause({.columns = -1}) == errc::invalid_option);
  CHECK(cause({.column_multiple = -8}) == errc::invalid_option);
  CHECK(cause({.scale = 0}) == errc::invalid_option);
  CHECK(cause({.scale = -1}) == errc::invalid_option);
  CHECK(cause({.scale = std::numeric_limits<float>::infinity()}) == errc::invalid_option);
  CHECK(cause({.scale = std::nanf("")}) == errc::invalid_option);
  CHECK(cause({.queries = kvfit::index_t{1} << 62}) == errc::out_of_memory);
}
