// SPDX-License-Identifier: MIT
#include "kvfit/cache/rope.hpp"

#include <cmath>
#include <complex>
#include <limits>
#include <span>
#include <vector>

#include "kvfit/attention/attend.hpp"
#include "support/catch.hpp"
#include "support/dense.hpp"
#include "support/random_matrix.hpp"

namespace kvfit_test {

using kvfit::attend;
using kvfit::errc;
using kvfit::index_t;
using kvfit::moved_keys;
using kvfit::rope;
using kvfit::rope_pairing;
namespace rope_scaling = kvfit::rope_scaling;

namespace {

/// Keys as an engine writes them: row i of `plain` turned, in double, by the angle of position
/// first + i, and multiplied by the engine's factor of attention.
kvfit::matrix prefilled(const kvfit::matrix& plain, const rope& how,
                        const std::vector<double>& frequencies, index_t first, double factor) {
  kvfit::matrix keys = plain;
  const auto pairs = static_cast<index_t>(frequencies.size());
  const index_t dims = 2 * pairs;
  for (index_t i = 0; i < plain.rows(); ++i) {
    for (index_t p = 0; p < pairs; ++p) {
      const bool is_split = how.pairing == rope_pairing::half_split;
      const index_t a = is_split ? p : 2 * p;
      const index_t b = is_split ? p + pairs : 2 * p + 1;
      const auto angle = static_cast<double>(first + i) * frequencies[static_cast<std::size_t>(p)];
      const auto turned =
          std::complex<double>(plain(i, a), plain(i, b)) * std::polar(factor, angle);
      keys(i, a) = static_cast<float>(turned.real());
      keys(i, b) = static_cast<float>(turned.imag());
    }
    for (index_t j = dims; j < plain.cols(); ++j) {
      keys(i, j) = static_cast<float>(factor * static_cast<double>(plain(i, j)));
    }
  }
  return keys;
}

double largest_difference(const kvfit::matrix& a, const kvfit::matrix& b) {
  REQUIRE(a.rows() == b.rows());
  REQUIRE(a.cols() == b.cols());
  return oracle::largest_difference(oracle::to_double(a), oracle::to_double(b));
}

/// A compact block whose contents do not matter.
kvfit::compacted some_block(index_t rows, index_t depth) {
  kvfit::compacted block;
  for (index_t j = 0; j < rows; ++j) {
    block.positions.push_back(3 * j);
    block.key_positions.push_back(3 * j + 100);
  }
  block.keys = random_matrix(rows, depth, 5);
  block.bias = kvfit::vector::Constant(rows, -0.5F);
  block.values = random_matrix(rows, 6, 6);
  return block;
}

}  // namespace

TEST_CASE("§17 moved keys are those of a prefill at the shifted position, whatever the frequencies",
          "[cache][rope]") {
  const auto pairing = GENERATE(rope_pairing::half_split, rope_pairing::interleaved);
  const kvfit::any_rope_scaling scaling =
      GENERATE(kvfit::any_rope_scaling{}, kvfit::any_rope_scaling{rope_scaling::linear{4}},
               kvfit::any_rope_scaling{rope_scaling::yarn{.factor = 8, .original_positions = 512}},
               kvfit::any_rope_scaling{rope_scaling::llama3{.original_positions = 256}});
  const kvfit::matrix plain = random_matrix(7, 24, 1);
  const double size = plain.cwiseAbs().maxCoeff();
  for (const index_t dims : {index_t{0}, index_t{16}}) {
    const rope how{.base = 10000, .dims = dims, .pairing = pairing, .scaling = scaling};
    const auto frequencies = rope_frequencies(how, 24);
    // A factor of attention is in the keys already, and stays what it is.
    for (const double factor : {1.0, 1.25}) {
      for (const index_t distance : {index_t{1}, index_t{-300}, index_t{4096}, index_t{1000000}}) {
        CAPTURE(dims, factor, distance);
        const kvfit::matrix at_home = prefilled(plain, how, frequencies, 350, factor);
        const auto moved = moved_keys(at_home, how, distance);
        REQUIRE(moved);
        const auto there = prefilled(plain, how, frequencies, 350 + distance, factor);
        // Rounding of the keys at home, of cosine and sine, and of the result.
        CHECK(largest_difference(*moved, there) <= 6e-7 * factor * size);
        CHECK(largest_difference(at_home, there) > 1e-3);
        for (index_t i = 0; i < 7; ++i) {
          CHECK(moved->row(i).norm() == Approx(at_home.row(i).norm()).epsilon(1e-6));
        }
      }
    }
  }
}

TEST_CASE("keys of every type and layout are moved, and a distance of 0 moves nothing",
          "[cache][rope]") {
  const kvfit::matrix keys = random_matrix(5, 8, 2);
  std::vector<kvfit::fp16> halves(40);
  for (index_t i = 0; i < 5; ++i) {
    for (index_t j = 0; j < 8; ++j) {
      halves[static_cast<std::size_t>(j * 5 + i)] = kvfit::to_fp16(keys(i, j));
    }
  }
  const auto transposed = kvfit::row_view(halves.data(), 8, 5).transposed();
  const auto still = moved_keys(transposed, {}, 0);
  REQUIRE(still);
  kvfit::matrix rounded(5, 8);
  for (index_t i = 0; i < 5; ++i) {
    for (index_t j = 0; j < 8; ++j) rounded(i, j) = transposed(i, j);
  }
  CHECK(*still == rounded);
  const auto there = moved_keys(transposed, {}, 9);
  const auto plain = moved_keys(rounded, {}, 9);
  REQUIRE(there);
  REQUIRE(plain);
  CHECK(*there == *plain);
}

TEST_CASE("a moved block answers moved queries as it answered them at home", "[cache][rope]") {
  const rope how{.base = 500, .dims = 12, .scaling = rope_scaling::linear{2}};
  kvfit::compacted block = some_block(9, 16);
  const kvfit::matrix queries = random_matrix(5, 16, 7);
  const auto before = attend(queries, {block.block()});
  const auto numbers = block.positions;
  const auto moved_queries = moved_keys(queries, how, 5000);
  REQUIRE(moved_queries);
  REQUIRE(move_keys(block, how, 5000));
  CHECK(block.positions == numbers);
  for (std::size_t j = 0; j < 9; ++j) {
    CHECK(block.key_positions[j] == 3 * static_cast<index_t>(j) + 5100);
  }
  const auto after = attend(*moved_queries, {block.block()});
  REQUIRE(before);
  REQUIRE(after);
  CHECK(largest_difference(before->output, after->output) <= 1e-5);
  CHECK((before->log_mass - after->log_mass).cwiseAbs().maxCoeff() <= 1e-5F);
}

TEST_CASE("a layer's heads are moved together, rounded to their storage", "[cache][rope]") {
  kvfit::compacted_layer layer;
  layer.offsets = {0, 2, 2, 5};
  layer.keys = random_matrix(5, 8, 8);
  layer.values = random_matrix(5, 4, 9);
  layer.bias = kvfit::vector::Zero(5);
  layer.positions = {0, 4, 1, 2, 3};
  layer.key_positions = layer.positions;
  const auto exact = moved_keys(layer.keys, {}, -3);
  REQUIRE(exact);
  REQUIRE(move_keys(layer, {}, -3, kvfit::dtype::bf16));
  CHECK(layer.key_positions == std::vector<index_t>{-3, 1, -2, -1, 0});
  for (index_t i = 0; i < 5; ++i) {
    for (index_t j = 0; j < 8; ++j) {
      CHECK(layer.keys(i, j) == kvfit::to_float(kvfit::to_bf16((*exact)(i, j))));
    }
  }
}

TEST_CASE("keys moved each by a distance of its own are those moved one by one", "[cache][rope]") {
  const rope how{.base = 500, .dims = 12, .pairing = rope_pairing::interleaved};
  const kvfit::matrix keys = random_matrix(9, 16, 12);
  // Rows of a text whose image shares one position, put where all rows follow each other.
  const std::vector<index_t> distances = {0, 0, 1, 2, 3, 4, -900, 7, 7};
  const auto found = moved_keys(keys, how, distances);
  REQUIRE(found);
  for (index_t i = 0; i < 9; ++i) {
    const auto one = moved_keys(kvfit::row_view(keys).middle_rows(i, 1), how,
                                distances[static_cast<std::size_t>(i)]);
    REQUIRE(one);
    CHECK(found->row(i) == one->row(0));
  }
  const std::vector<index_t> same(9, 31);
  CHECK(*moved_keys(keys, how, same) == *moved_keys(keys, how, 31));
  CHECK(moved_keys(keys, how, std::span(distances).first(8)).error().code == errc::shape_mismatch);

  kvfit::compacted block = some_block(9, 16);
  block.keys = keys;
  const auto sound = block;
  REQUIRE(move_keys(block, how, distances));
  CHECK(block.keys == *found);
  CHECK(block.positions == sound.positions);
  for (std::size_t j = 0; j < 9; ++j) {
    CHECK(block.key_positions[j] == sound.key_positions[j] + distances[j]);
  }
  const auto fewer = move_keys(block, how, std::span(distances).first(8));
  REQUIRE_FALSE(fewer);
  CHECK(fewer.error().argument == "distances");
  CHECK(fewer.error().actual == 8);
  CHECK(fewer.error().expected == 9);
  auto far = distances;
  far[4] = -(index_t{1} << 53U) - 1;
  CHECK(move_keys(block, how, far).error().argument == "distance");
  CHECK(block.keys == *found);

  kvfit::compacted_layer layer;
  layer.offsets = {0, 4, 9};
  layer.keys = keys;
  layer.key_positions.assign(9, 100);
  REQUIRE(move_keys(layer, how, distances));
  CHECK(layer.keys == *found);
  CHECK(layer.key_positions[6] == -800);
  layer.key_positions.pop_back();
  CHECK(move_keys(layer, how, distances).error().argument == "key_positions");
}

TEST_CASE("what can't be moved is refused, and stays byte for byte", "[cache][rope]") {
  const kvfit::compacted sound = some_block(3, 8);
  const auto cause = [&](const rope& how, index_t distance, kvfit::dtype storage,
                         kvfit::compacted block) {
    const kvfit::matrix keys = block.keys;
    const auto ok = move_keys(block, how, distance, storage);
    REQUIRE_FALSE(ok);
    CHECK(block.keys == keys);
    CHECK(block.key_positions == sound.key_positions);
    return ok.error();
  };
  constexpr auto fp32 = kvfit::dtype::fp32;
  CHECK(cause({.base = 0}, 1, fp32, sound).argument == "rope.base");
  CHECK(cause({.dims = 10}, 1, fp32, sound).argument == "rope.dims");
  CHECK(cause({}, (index_t{1} << 53U) + 1, fp32, sound).argument == "distance");
  CHECK(cause({}, std::numeric_limits<index_t>::min(), fp32, sound).argument == "distance");
  CHECK(cause({}, 1, kvfit::dtype::q8_0, sound).argument == "storage");
  kvfit::compacted large = sound;
  large.keys *= 1e6F;
  CHECK(cause({}, 1, kvfit::dtype::fp16, large).code == errc::storage_overflow);
  kvfit::compacted huge = sound;
  huge.keys.setConstant(3e38F);
  CHECK(cause({}, -1, fp32, huge).code == errc::storage_overflow);

  kvfit::matrix spoilt = sound.keys;
  spoilt(2, 1) = std::numeric_limits<float>::quiet_NaN();
  const auto refused = moved_keys(spoilt, {}, 1);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::non_finite);
  CHECK(refused.error().actual == 2);
  const auto nothing = moved_keys(kvfit::row_view(), {.dims = 2}, 1);
  REQUIRE_FALSE(nothing);
}

}  // namespace kvfit_test
