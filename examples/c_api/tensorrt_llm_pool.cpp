// SPDX-License-Identifier: MIT
// C++17. A paged pool as TensorRT-LLM keeps it, compacted in place through the C library: every
// page holds the keys of all heads for some tokens, then their values ([pages, 2, heads, tokens,
// dim]), and a sequence has a table of its pages. Its fused attention takes no bias, so values are
// fitted without one.
#include "made_head.hpp"

using namespace example;

namespace {

constexpr std::int64_t heads = 2, dim = 64, page = 32, tokens = 1024, kept = 128, pages = 64;
constexpr std::int64_t head_elements = page * dim;
constexpr std::int64_t page_elements = 2 * heads * head_elements;

/// The keys (or values) of one head of a sequence, read and written through its table.
kvfit_rows rows_in_pool(std::uint16_t* pool, const std::vector<std::int32_t>& table,
                        std::int64_t head, bool is_value, std::int64_t rows) {
  kvfit_rows view{};
  view.struct_size = sizeof view;
  view.data = pool + (is_value ? heads + head : head) * head_elements;
  view.rows = rows;
  view.cols = dim;
  view.row_stride = dim;
  view.type = KVFIT_FP16;
  view.table = table.data();
  view.table_entries = static_cast<std::int64_t>(table.size());
  view.page_size = page;
  view.page_stride = page_elements;
  view.pages = pages;
  return view;
}

}  // namespace

int main() {
  // The engine's memory, and a sequence whose pages lie anywhere in it.
  std::vector<std::uint16_t> pool(static_cast<std::size_t>(pages * page_elements));
  std::vector<std::int32_t> table;
  for (std::int64_t p = 0; p < tokens / page; ++p) {
    table.push_back(static_cast<std::int32_t>((p * 37 + 5) % pages));
  }
  kvfit_error error = no_error();
  std::vector<made_head> made;
  for (std::int64_t h = 0; h < heads; ++h) {
    made.emplace_back(static_cast<unsigned>(h + 1), tokens, 512, dim);
    const kvfit_rows keys = rows_in_pool(pool.data(), table, h, false, tokens);
    const kvfit_rows values = rows_in_pool(pool.data(), table, h, true, tokens);
    need(kvfit_store_rows(made[h].keys.data(), tokens, dim, &keys, &error), error);
    need(kvfit_store_rows(made[h].values.data(), tokens, dim, &values, &error), error);
  }

  // One layer of it, described where it lies.
  std::vector<kvfit_rows> keys, values, asked;
  for (std::int64_t h = 0; h < heads; ++h) {
    keys.push_back(rows_in_pool(pool.data(), table, h, false, tokens));
    values.push_back(rows_in_pool(pool.data(), table, h, true, tokens));
    asked.push_back(plain_rows(made[h].queries.data(), made[h].asked, dim));
  }
  std::vector<kvfit_block> blocks;
  std::vector<kvfit_queries> queries;
  for (std::int64_t h = 0; h < heads; ++h) {
    kvfit_block block{};
    block.struct_size = sizeof block;
    block.keys = &keys[h];
    block.values = &values[h];
    blocks.push_back(block);
    kvfit_queries of_head{};
    of_head.struct_size = sizeof of_head;
    of_head.rows = &asked[h];
    queries.push_back(of_head);
  }
  kvfit_layer layer{};
  layer.struct_size = sizeof layer;
  layer.heads = blocks.data();
  layer.head_count = blocks.size();
  kvfit_layer_queries of_layer{};
  of_layer.struct_size = sizeof of_layer;
  of_layer.heads = queries.data();
  of_layer.head_count = queries.size();

  std::vector<std::vector<float>> full;
  for (std::int64_t h = 0; h < heads; ++h) {
    full.push_back(attention(made[h], keys[h], values[h], nullptr));
  }

  kvfit_options* given = nullptr;
  need(kvfit_options_make("joint_zero_bias", &given, &error), error);
  const options_ptr options(given);
  need(kvfit_options_set(given, "cache.budget", static_cast<double>(heads * kept), &error), error);
  need(kvfit_options_set_word(given, "storage.rows", "fp16", &error), error);
  kvfit_cache* fitted = nullptr;
  need(kvfit_compact_cache(&layer, 1, &of_layer, 1, given, nullptr, &fitted, &error), error);
  const cache_ptr small(fitted);

  // Back into the first pages of the sequence; the others are free.
  const kvfit_layer_result& result = kvfit_cache_get(fitted)->layers[0];
  const std::vector<std::int32_t> shorter(table.begin(), table.begin() + kept / page);
  double worst = 0;
  for (std::int64_t h = 0; h < heads; ++h) {
    const std::int64_t first = result.offsets[h];
    const kvfit_rows to_keys = rows_in_pool(pool.data(), shorter, h, false, kept);
    const kvfit_rows to_values = rows_in_pool(pool.data(), shorter, h, true, kept);
    need(kvfit_store_rows(result.keys + first * dim, kept, dim, &to_keys, &error), error);
    need(kvfit_store_rows(result.values + first * dim, kept, dim, &to_values, &error), error);
    const double off = difference(full[h], attention(made[h], to_keys, to_values, nullptr));
    worst = off > worst ? off : worst;
  }
  std::printf("%d pages for %d, attention off by %.3f\n", static_cast<int>(shorter.size()),
              static_cast<int>(table.size()), worst);
  return worst < 0.25 ? 0 : 1;
}
