// SPDX-License-Identifier: MIT
// C++17. A layer's cache as llama.cpp keeps it, compacted through the C library: K is [cells, heads
// * dim], V the other way around ([heads * dim, cells], no flash attention), a sequence has some of
// the cells, all layers and heads share them, and a bias a key is added to the logits (`kq_b`).
#include <algorithm>

#include "made_head.hpp"

using namespace example;

namespace {

constexpr std::int64_t heads = 2, dim = 64, cells = 2048, tokens = 1000, kept = 100;

/// The keys of one head in the cells of a sequence, fp16.
kvfit_rows keys_of(std::uint16_t* k, const std::vector<std::int64_t>& of, std::int64_t head) {
  kvfit_rows view{};
  view.struct_size = sizeof view;
  view.data = k + head * dim;
  view.rows = static_cast<std::int64_t>(of.size());
  view.cols = dim;
  view.row_stride = heads * dim;
  view.type = KVFIT_FP16;
  view.list = of.data();
  view.list_memory = cells;
  return view;
}

/// The values: a number of one cell is `cells` elements from the next.
kvfit_rows values_of(std::uint16_t* v, const std::vector<std::int64_t>& of, std::int64_t head) {
  kvfit_rows view = keys_of(v, of, 0);
  view.data = v + head * dim * cells;
  view.row_stride = 1;
  view.col_stride = cells;
  return view;
}

}  // namespace

int main() {
  // The engine's tensors, and the cells of a sequence: every second one.
  std::vector<std::uint16_t> k(static_cast<std::size_t>(cells * heads * dim));
  std::vector<std::uint16_t> v(k.size());
  std::vector<std::int64_t> own;
  for (std::int64_t j = 0; j < tokens; ++j) own.push_back(2 * j + 1);
  kvfit_error error = no_error();
  std::vector<made_head> made;
  for (std::int64_t h = 0; h < heads; ++h) {
    made.emplace_back(static_cast<unsigned>(h + 7), tokens, 512, dim);
    const kvfit_rows keys = keys_of(k.data(), own, h);
    const kvfit_rows values = values_of(v.data(), own, h);
    need(kvfit_store_rows(made[h].keys.data(), tokens, dim, &keys, &error), error);
    need(kvfit_store_rows(made[h].values.data(), tokens, dim, &values, &error), error);
  }

  kvfit_options* given = nullptr;
  need(kvfit_options_make("default", &given, &error), error);
  const options_ptr options(given);
  need(kvfit_options_set(given, "budget", static_cast<double>(kept), &error), error);
  need(kvfit_options_set_word(given, "storage.rows", "fp16", &error), error);

  double worst = 0;
  std::vector<float> kq_b;  // [heads, kept]: what the graph adds to the logits of the kept cells
  for (std::int64_t h = 0; h < heads; ++h) {
    const kvfit_rows keys = keys_of(k.data(), own, h);
    const kvfit_rows values = values_of(v.data(), own, h);
    const std::vector<float> full = attention(made[h], keys, values, nullptr);
    const kvfit_rows rows = plain_rows(made[h].queries.data(), made[h].asked, dim);
    kvfit_queries asked{};
    asked.struct_size = sizeof asked;
    asked.rows = &rows;
    kvfit_block block{};
    block.struct_size = sizeof block;
    block.keys = &keys;
    block.values = &values;
    kvfit_compacted* fitted = nullptr;
    need(kvfit_compact(&block, &asked, 1, given, nullptr, &fitted, &error), error);
    const kvfit_result& result = *kvfit_compacted_result(fitted);

    // Into the first of the sequence's cells; the others are free once all heads are done.
    const std::vector<std::int64_t> first(own.begin(), own.begin() + result.rows);
    const kvfit_rows to_keys = keys_of(k.data(), first, h);
    const kvfit_rows to_values = values_of(v.data(), first, h);
    need(kvfit_store_rows(result.keys, result.rows, dim, &to_keys, &error), error);
    need(kvfit_store_rows(result.values, result.rows, dim, &to_values, &error), error);
    kq_b.insert(kq_b.end(), result.bias, result.bias + result.rows);
    const float* const bias = kq_b.data() + h * kept;
    worst = std::max(worst, difference(full, attention(made[h], to_keys, to_values, bias)));
    kvfit_compacted_free(fitted);
  }
  std::printf("%d cells for %d, attention off by %.3f\n", static_cast<int>(kept),
              static_cast<int>(tokens), worst);
  return worst < 0.25 ? 0 : 1;
}
