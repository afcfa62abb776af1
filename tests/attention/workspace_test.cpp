// SPDX-License-Identifier: MIT
// What attention allocates, counted at malloc: Eigen does not ask operator new.
#include <cstddef>
#include <cstdlib>

#include "attention/samples.hpp"
#include "kvfit/attention/compare.hpp"
#include "kvfit/attention/logits.hpp"
#include "kvfit/attention/state.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/view/load.hpp"
#include "support/allocations.hpp"
#include "support/stored_rows.hpp"

namespace kvfit_test {
namespace {

/// "peak 3.4 MB of 17.1 MB, n × T 128.0 MB"
std::string megabytes(std::ptrdiff_t peak_bytes, index_t bound, index_t product) {
  const auto text = [](double bytes) { return std::to_string(bytes / (1 << 20)) + " MB"; };
  return "peak " + text(static_cast<double>(peak_bytes)) + " of " +
         text(static_cast<double>(bound)) + ", n × T " + text(static_cast<double>(product));
}

/// What is documented: a panel of at most max(16 MB, 8 · T · 4 bytes). To that come tiles of 256
/// rows of keys and values, 64 of queries and outputs, and what Eigen packs them into.
index_t workspace_bound(index_t keys, index_t depth, index_t width) {
  const index_t panel = std::max<index_t>(index_t{16} << 20, 8 * keys * 4);
  const index_t tiles = 4 * (256 + 64) * (depth + width) * 4;
  return panel + tiles + (index_t{1} << 20);
}

}  // namespace

TEST_CASE("The allocation counter counts", "[attention][workspace]") {
  if (!can_count) return;
  void* volatile kept = nullptr;
  const allocations plain = count_allocations([&] {
    kept = std::malloc(1000);
    std::free(kept);
  });
  CHECK(plain.calls == 1);
  CHECK(plain.peak_bytes >= 1000);
  CHECK(plain.peak_bytes < 2000);
  const allocations eigen = count_allocations([&] { kept = kvfit::matrix(100, 100).data(); });
  CHECK(eigen.calls == 1);
  CHECK(eigen.peak_bytes >= 40000);
  const allocations standard = count_allocations([&] { kept = std::vector<float>(100).data(); });
  CHECK(standard.calls == 1);
  CHECK(standard.peak_bytes >= 400);
}

TEST_CASE("The score pass and attend never hold n × T numbers", "[attention][workspace]") {
  if (!can_count) return;
  struct size {
    index_t n;
    index_t keys;
  };
  const auto [n, keys] = GENERATE(size{1024, 16384}, size{64, 300000}, size{20000, 600});
  constexpr index_t depth = 8;
  constexpr index_t width = 8;
  const kvfit::matrix q = random_matrix(n, depth, 1);
  const kvfit::matrix k = random_matrix(keys, depth, 2);
  const index_t results = 4 * (n * (2 + width) + 2 * keys);
  const index_t bound = workspace_bound(keys, depth, width) + results;
  const index_t product = 4 * n * keys;
  REQUIRE(product > 2 * bound);
  CAPTURE(n, keys);

  // one type and layout that is read in place, and one that has to be converted
  std::vector<kvfit::bf16> half(static_cast<std::size_t>(keys * depth));
  for (std::size_t i = 0; i < half.size(); ++i) half[i] = kvfit::to_bf16(k.data()[i]);
  const kvfit::row_view in_place(k);
  const kvfit::row_view converted = kvfit::row_view(half.data(), depth, keys).transposed();
  for (const kvfit::row_view& rows : {in_place, converted}) {
    const kvfit::kv_block cache{.keys = rows, .values = rows};
    bool is_done = false;
    const allocations scored =
        count_allocations([&] { is_done = kvfit::score_pass(cache, q).has_value(); });
    CHECK(is_done);
    INFO("score pass: " << megabytes(scored.peak_bytes, bound, product));
    CHECK(scored.peak_bytes <= bound);
    CHECK(scored.peak_bytes > results / 2);  // it was seen at all

    const allocations attended =
        count_allocations([&] { is_done = kvfit::attend(q, {cache}).has_value(); });
    CHECK(is_done);
    INFO("attend: " << megabytes(attended.peak_bytes, bound, product));
    CHECK(attended.peak_bytes <= bound);
  }
}

TEST_CASE("score_pass_bytes and attend_bytes are never below what is taken, nor far above",
          "[attention][workspace]") {
  if (!can_count) return;
  struct size {
    index_t n;
    index_t keys;
  };
  for (const auto [n, keys] :
       {size{1, 1}, size{5, 3000}, size{700, 40}, size{900, 5000}, size{100, 90000}}) {
    const sample head(n, keys, 24, 40);
    const kvfit::matrix mask = random_matrix(n, keys, 9);
    const std::vector<kvfit::row_view> masks = {mask};
    for (const bool is_masked : {false, true}) {
      kvfit::kv_block cache{.keys = kvfit::row_view(head.keys), .values = head.values};
      if (is_masked) cache.masks = masks;
      const kvfit::head_sizes sizes = kvfit::sizes_of_head(cache, head.queries);
      for (const auto& [kept, precision] : {std::pair(index_t{0}, kvfit::precision_kind::fp32),
                                            std::pair(4 * n * keys, kvfit::precision_kind::bf16),
                                            std::pair(index_t{0}, kvfit::precision_kind::bf16x3)}) {
        const kvfit::score_options options{
            .pooling = kvfit::pooling_kind::max, .keep_exponentials = kept, .precision = precision};
        bool is_done = false;
        const auto held = static_cast<double>(
            count_allocations([&] {
              is_done = kvfit::score_pass(cache, head.queries, {}, options).has_value();
            }).peak_bytes);
        const double estimate = kvfit::score_pass_bytes(sizes, options);
        CAPTURE(n, keys, is_masked, kept, static_cast<int>(precision), held, estimate);
        CHECK(is_done);
        CHECK(held <= estimate);
        if (n * keys > 100000) CHECK(estimate <= 1.5 * held);
        kvfit::score_options bare = options;
        bare.outputs = false;
        const auto held_bare =
            static_cast<double>(count_allocations([&] {
                                  is_done =
                                      kvfit::score_pass(cache, head.queries, {}, bare).has_value();
                                }).peak_bytes);
        const double estimate_bare = kvfit::score_pass_bytes(sizes, bare);
        CAPTURE(held_bare, estimate_bare);
        CHECK(held_bare <= estimate_bare);
        CHECK(estimate_bare < estimate);
        if (n * keys > 100000) CHECK(estimate_bare <= 1.5 * held_bare);
      }
      const std::vector<kvfit::kv_block> blocks = {cache, cache};
      bool is_done = false;
      const auto held = static_cast<double>(count_allocations([&] {
                                              is_done =
                                                  kvfit::attend(head.queries, blocks).has_value();
                                            }).peak_bytes);
      const double estimate = kvfit::attend_bytes(head.queries, blocks);
      CAPTURE(n, keys, is_masked, held, estimate);
      CHECK(is_done);
      CHECK(held <= estimate);
      if (n * keys > 100000) CHECK(estimate <= 1.5 * held);
    }
  }
}

TEST_CASE("Panels at once are counted, and the first thing that a cap takes",
          "[attention][workspace][threads]") {
  if (!can_count) return;
  const sample head(120, 40000, 8, 8);
  const kvfit::kv_block cache{.keys = kvfit::row_view(head.keys), .values = head.values};
  const kvfit::head_sizes sizes = kvfit::sizes_of_head(cache, head.queries);
  kvfit::thread_pool pool(3);
  const kvfit::score_options one{.panel = 16};
  kvfit::score_options three = one;
  three.panels_at_once = 3;
  const double estimate = kvfit::score_pass_bytes(sizes, three);
  bool is_done = false;
  const auto peak = count_allocations([&] {
                      is_done =
                          kvfit::score_pass(cache, head.queries, {}, three, {}, pool).has_value();
                    }).peak_bytes;
  CAPTURE(peak, estimate);
  CHECK(is_done);
  CHECK(static_cast<double>(peak) <= estimate);
  CHECK(estimate <= 1.5 * static_cast<double>(peak));

  three.memory = static_cast<index_t>(estimate) - 1;
  const auto capped = count_allocations([&] {
                        is_done =
                            kvfit::score_pass(cache, head.queries, {}, three, {}, pool).has_value();
                      }).peak_bytes;
  CHECK(is_done);
  CHECK(static_cast<double>(capped) <= kvfit::score_pass_bytes(sizes, one));
}

TEST_CASE("A score pass and attention keep to a cap by smaller panels, or are refused",
          "[attention][workspace]") {
  if (!can_count) return;
  const sample head(120, 70000, 12, 8);
  const kvfit::kv_block cache{.keys = kvfit::row_view(head.keys), .values = head.values};
  const auto scores = kvfit::score_pass(cache, head.queries, {});
  const auto output = kvfit::attend(head.queries, {cache});
  REQUIRE(scores);
  REQUIRE(output);
  // Runs one of them under ever smaller caps; `run(cap)` gives its error or what it is off by.
  const auto lower = [&](auto run, double free) {
    kvfit::index_t cap = static_cast<kvfit::index_t>(free);
    int smaller = 0;
    for (;; cap -= cap / 3, ++smaller) {
      kvfit::result<double> off = 0.0;
      const auto peak = count_allocations([&] { off = run(cap); }).peak_bytes;
      CAPTURE(cap, peak);
      if (!off) {
        CHECK(off.error().code == kvfit::errc::memory_cap_exceeded);
        CHECK(off.error().expected == cap);
        CHECK(peak < 400000);  // inputs were read, and nothing more
        const kvfit::index_t least = off.error().actual;
        CHECK(least > cap);
        CHECK(run(least));
        CHECK_FALSE(run(least - 1));
        break;
      }
      CHECK(peak <= cap);
      CHECK(*off < 1e-5);
    }
    CHECK(smaller >= 3);
  };
  lower(
      [&](kvfit::index_t cap) -> kvfit::result<double> {
        const auto less = kvfit::score_pass(cache, head.queries, {},
                                            {.keep_exponentials = 1 << 30, .memory = cap});
        if (!less) return less.error();
        CHECK(less->exponentials.size() == 0);
        return static_cast<double>(
            std::max((less->output - scores->output).cwiseAbs().maxCoeff(),
                     (less->importance - scores->importance).cwiseAbs().maxCoeff()));
      },
      kvfit::score_pass_bytes(kvfit::sizes_of_head(cache, head.queries), {}));
  const std::vector<kvfit::kv_block> one = {cache};
  lower(
      [&](kvfit::index_t cap) -> kvfit::result<double> {
        const auto less = kvfit::attend(head.queries, one, {}, {.memory = cap});
        if (!less) return less.error();
        return static_cast<double>((less->output - output->output).cwiseAbs().maxCoeff());
      },
      kvfit::attend_bytes(head.queries, one));
  CHECK(kvfit::score_pass(cache, head.queries, {}, {.memory = -1}).error().code ==
        kvfit::errc::invalid_option);
  CHECK(kvfit::score_pass(cache, head.queries, {}, {.panel = -1}).error().code ==
        kvfit::errc::invalid_option);
  CHECK(kvfit::attend(head.queries, one, {}, {.panel = -1}).error().code ==
        kvfit::errc::invalid_option);
}

TEST_CASE("Logits are made without allocation after the first call", "[attention][workspace]") {
  if (!can_count) return;
  const auto depth = GENERATE(as<index_t>{}, 16, 64, 128, 256, 576);
  const auto keys = GENERATE(as<index_t>{}, 1, 100, 600);
  CAPTURE(depth, keys);
  const sample head(130, keys, depth, 8);
  const kvfit::query_set queries(head.queries);
  const kvfit::kv_block cache{.keys = kvfit::row_view(head.keys), .values = head.values};
  kvfit::logit_source source(cache, queries, {.soft_cap = 5});
  kvfit::matrix panel(keys, 64);
  const std::vector<kvfit::query_panel> panels = kvfit::cut_panels(queries, 64);
  REQUIRE(panels.size() == 3);
  source.fill(panels[0], panel.data(), 64);
  const allocations counted = count_allocations([&] {
    source.fill(panels[1], panel.data(), 64);
    source.fill(panels[2], panel.data(), 64);
  });
  CHECK(counted.calls == 0);
}

TEST_CASE("merge, compare and load_rows allocate nothing", "[attention][workspace]") {
  if (!can_count) return;
  kvfit::matrix a = random_matrix(300, 70, 1);
  const kvfit::matrix b = random_matrix(300, 70, 2);
  const kvfit::vector mass = a.col(0);
  std::vector<float> buffer(300 * 70);
  const kvfit::row_view strided = kvfit::row_view(a.data(), 70, 300).transposed();
  float sum = 0;
  const allocations counted = count_allocations([&] {
    kvfit::attention_state into{1, 1, {a.data(), 70}};
    kvfit::merge(into, {2, 3, {buffer.data(), 70}});
    sum += into.mass;
    sum += static_cast<float>(kvfit::compare(a, mass, b, mass).output_error);
    sum += kvfit::load_rows(a, 3, 40, buffer.data()).data[0];
    sum += kvfit::load_rows(strided, 3, 40, buffer.data()).data[0];
  });
  CHECK(std::isfinite(sum));
  CHECK(counted.calls == 0);
}

TEST_CASE("Keys and values of any type in any layout are never copied as a whole",
          "[attention][workspace][layout]") {
  if (!can_count) return;
  constexpr index_t keys = 16384;
  constexpr index_t depth = 64;
  constexpr std::ptrdiff_t copy = keys * depth * 4;
  const kvfit::matrix queries = random_matrix(16, depth, 1);
  std::vector<float> buffer(100 * depth);
  for (const arrangement& how : all_arrangements()) {
    if (how.where != arrangement::place::paged_32 || how.is_flipped) continue;
    CAPTURE(how.name());
    const stored_rows stored(how, keys, depth, 3);
    bool is_done = false;
    const auto count_pass = [&](const kvfit::row_view& rows) {
      const kvfit::kv_block cache{.keys = rows, .values = rows};
      return count_allocations([&] { is_done = kvfit::score_pass(cache, queries).has_value(); });
    };
    const allocations plain = count_pass(stored.exact());
    CHECK(is_done);
    const allocations decoded = count_pass(stored.view());
    CHECK(is_done);
    INFO("peak beyond contiguous fp32: " << decoded.peak_bytes - plain.peak_bytes << " bytes");
    CHECK(decoded.peak_bytes - plain.peak_bytes < copy / 16);
    const allocations loaded = count_allocations([&] {
      kvfit::load_rows(stored.view(), 77, 100, buffer.data());
      kvfit::load_rows(stored.view().transposed().middle_cols(9, 99), 3, 40, buffer.data());
      kvfit::load_row(stored.view(), 5, buffer.data());
    });
    CHECK(loaded.calls == 0);
  }
}

}  // namespace kvfit_test
