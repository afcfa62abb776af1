// SPDX-License-Identifier: MIT
#include "convert.hpp"

#include <algorithm>
#include <kvfit/view/make_view.hpp>
#include <utility>

namespace kvfit_c {

namespace {

kvfit::error refuse(const std::string& name, int64_t found, int64_t limit, const char* why) {
  return kvfit::error{kvfit::errc::invalid_option, name, found, limit, why};
}

// The same error with the place of the struct before the field's name.
kvfit::error within(kvfit::error cause, const std::string& name) {
  cause.argument = cause.argument.empty() ? name : name + "." + cause.argument;
  return cause;
}

kvfit::result<kvfit::group_scales> scales_of(const kvfit_scales* given, const std::string& name) {
  const auto read = read_struct(given, name);
  if (!read) return read.error();
  kvfit::group_scales scales;
  scales.data = read->data;
  scales.type = static_cast<kvfit::dtype>(std::clamp<int32_t>(read->type, 0, 255));
  scales.group = read->group == 0 ? 32 : read->group;
  scales.row_stride = read->row_stride;
  scales.group_stride = read->group_stride == 0 ? 1 : read->group_stride;
  scales.page_stride = read->page_stride;
  scales.row_group = read->row_group == 0 ? 1 : read->row_group;
  if (scales.data == nullptr) return kvfit::error{kvfit::errc::null_data, name + ".data"};
  if (read->type < 0) return refuse(name + ".type", read->type, 0, "is no type");
  return scales;
}

// Fields of lists and tables that are not used must be zero.
kvfit::result<void> check_map(const kvfit_rows& read, const std::string& name) {
  if (read.list != nullptr && read.table != nullptr) {
    return refuse(name + ".table", kvfit::error::none, kvfit::error::none,
                  "rows have a list or a block table, not both");
  }
  if (read.list == nullptr && read.list_memory != 0) {
    return refuse(name + ".list_memory", read.list_memory, 0, "there is no list");
  }
  const std::pair<const char*, int64_t> fields[] = {{".table_entries", read.table_entries},
                                                    {".page_size", read.page_size},
                                                    {".page_stride", read.page_stride},
                                                    {".pages", read.pages}};
  for (const auto& [field, value] : fields) {
    if (read.table == nullptr && value != 0) {
      return refuse(name + field, value, 0, "there is no block table");
    }
    if (value < 0) return refuse(name + field, value, 0, "must not be negative");
  }
  return {};
}

}  // namespace

kvfit::result<bool> yes_or_no(int32_t given, const std::string& name) {
  if (given == 0 || given == 1) return given == 1;
  return refuse(name, given, 1, "must be 0 or 1");
}

kvfit::result<kvfit::row_view> view_of(const kvfit_rows* given, const std::string& name) {
  const auto read = read_struct(given, name);
  if (!read) return read.error();
  if (const auto ok = check_map(*read, name); !ok) return ok.error();
  if (read->type < KVFIT_FP32 || read->type > KVFIT_DECODED) {
    return refuse(name + ".type", read->type, KVFIT_DECODED, "is no type");
  }
  kvfit::row_memory memory;
  memory.data = read->data;
  memory.type = static_cast<kvfit::dtype>(read->type);
  memory.rows = read->rows;
  memory.cols = read->cols;
  memory.col_stride = read->col_stride == 0 ? 1 : read->col_stride;
  memory.row_stride = read->row_stride;
  const bool is_decoded = memory.type == kvfit::dtype::decoded;
  if (read->row_stride == 0 && !is_decoded) {
    if (memory.col_stride != 1) {
      return refuse(name + ".row_stride", 0, kvfit::error::none,
                    "must be given where columns are a stride apart");
    }
    memory.row_stride = read->cols;
  }
  if (read->scales != nullptr) {
    const auto scales = scales_of(read->scales, name + ".scales");
    if (!scales) return scales.error();
    memory.scales = *scales;
  }
  if (read->decode != nullptr) {
    // A function of C throws nothing.
    memory.decode = reinterpret_cast<kvfit::decode_row>(read->decode);
  }
  kvfit::result<kvfit::row_view> view = kvfit::row_view{};
  if (read->list != nullptr) {
    memory.rows = read->list_memory;
    if (read->rows < 0) return refuse(name + ".rows", read->rows, 0, "must not be negative");
    view = kvfit::make_listed_view(memory,
                                   std::span(read->list, static_cast<std::size_t>(read->rows)));
  } else if (read->table != nullptr) {
    if (read->rows < 0) return refuse(name + ".rows", read->rows, 0, "must not be negative");
    view = kvfit::make_paged_view(
        memory, std::span(read->table, static_cast<std::size_t>(read->table_entries)),
        {.pages = read->pages, .page_size = read->page_size, .page_stride = read->page_stride},
        read->rows);
  } else {
    view = kvfit::make_view(memory);
  }
  if (!view) return within(view.error(), name);
  return view;
}

kvfit::result<kvfit::logit_rule> rule_of(const kvfit_rule* given, const std::string& name) {
  const auto read = read_struct(given, name);
  if (!read) return read.error();
  const auto causal = yes_or_no(read->causal, name + ".causal");
  if (!causal) return causal.error();
  kvfit::logit_rule rule;
  if (read->scale != 0) rule.scale = read->scale;
  rule.soft_cap = read->soft_cap;
  rule.causal = *causal;
  rule.window = read->window;
  return rule;
}

namespace {

// A setting of a scaling as C has it: 0 is its default.
double number_or(double given, double usual) {
  return given == 0 ? usual : given;
}

// Which settings a scaling uses; the others must be zero.
kvfit::result<void> check_unused(const kvfit_rope& read, const std::string& name) {
  const bool is_yarn = read.scaling == KVFIT_ROPE_YARN;
  const bool is_llama = read.scaling == KVFIT_ROPE_LLAMA3;
  const struct {
    const char* field;
    bool is_used;
    bool is_zero;
  } fields[] = {
      {".unrounded", is_yarn, read.unrounded == 0},
      {".factor", is_yarn || is_llama || read.scaling == KVFIT_ROPE_LINEAR, read.factor == 0},
      {".original_positions", is_yarn || is_llama, read.original_positions == 0},
      {".fast", is_yarn, read.fast == 0},
      {".slow", is_yarn, read.slow == 0},
      {".low", is_llama, read.low == 0},
      {".high", is_llama, read.high == 0},
      {".frequencies", read.scaling == KVFIT_ROPE_GIVEN, read.frequencies == nullptr},
      {".frequency_count", read.scaling == KVFIT_ROPE_GIVEN, read.frequency_count == 0},
  };
  for (const auto& one : fields) {
    if (one.is_used || one.is_zero) continue;
    return refuse(name + one.field, kvfit::error::none, kvfit::error::none,
                  "must be 0: the scaling does not use it");
  }
  return {};
}

kvfit::result<kvfit::any_rope_scaling> scaling_of(const kvfit_rope& read, const std::string& name) {
  if (read.scaling < KVFIT_ROPE_UNSCALED || read.scaling > KVFIT_ROPE_GIVEN) {
    return refuse(name + ".scaling", read.scaling, KVFIT_ROPE_GIVEN, "is no scaling");
  }
  if (const auto ok = check_unused(read, name); !ok) return ok.error();
  using namespace kvfit::rope_scaling;
  if (read.scaling == KVFIT_ROPE_LINEAR) {
    return kvfit::any_rope_scaling(linear{.factor = number_or(read.factor, linear{}.factor)});
  }
  if (read.scaling == KVFIT_ROPE_YARN) {
    const auto unrounded = yes_or_no(read.unrounded, name + ".unrounded");
    if (!unrounded) return unrounded.error();
    return kvfit::any_rope_scaling(yarn{.factor = number_or(read.factor, yarn{}.factor),
                                        .original_positions = read.original_positions,
                                        .fast = number_or(read.fast, yarn{}.fast),
                                        .slow = number_or(read.slow, yarn{}.slow),
                                        .rounds = !*unrounded});
  }
  if (read.scaling == KVFIT_ROPE_LLAMA3) {
    return kvfit::any_rope_scaling(llama3{
        .factor = number_or(read.factor, llama3{}.factor),
        .low = number_or(read.low, llama3{}.low),
        .high = number_or(read.high, llama3{}.high),
        .original_positions = number_or(read.original_positions, llama3{}.original_positions)});
  }
  if (read.scaling == KVFIT_ROPE_GIVEN) {
    constexpr int64_t most = int64_t{1} << 24U;  // pairs of elements of a row
    if (read.frequency_count < 0 || read.frequency_count > most) {
      return refuse(name + ".frequency_count", read.frequency_count, most,
                    "must be the pairs of elements that turn");
    }
    if (read.frequencies == nullptr) {
      return kvfit::error{kvfit::errc::null_data, name + ".frequencies"};
    }
    return kvfit::any_rope_scaling(
        given{{read.frequencies, read.frequencies + read.frequency_count}});
  }
  return kvfit::any_rope_scaling(none{});
}

}  // namespace

kvfit::result<kvfit::rope> rope_of(const kvfit_rope* given, const std::string& name) {
  const auto read = read_struct(given, name);
  if (!read) return read.error();
  const auto interleaved = yes_or_no(read->interleaved, name + ".interleaved");
  if (!interleaved) return interleaved.error();
  auto scaling = scaling_of(*read, name);
  if (!scaling) return scaling.error();
  kvfit::rope rotation;
  if (read->base != 0) rotation.base = read->base;
  rotation.dims = read->dims;
  rotation.pairing =
      *interleaved ? kvfit::rope_pairing::interleaved : kvfit::rope_pairing::half_split;
  rotation.scaling = std::move(*scaling);
  return rotation;
}

kvfit::result<kvfit::kv_block> inputs::block(const kvfit_block& given, const std::string& name) {
  const auto keys = view_of(given.keys, name + ".keys");
  if (!keys) return keys.error();
  const auto values = view_of(given.values, name + ".values");
  if (!values) return values.error();
  kvfit::kv_block block{.keys = *keys, .values = *values};
  const auto rows = static_cast<std::size_t>(keys->rows());
  if (given.bias != nullptr) block.bias = {given.bias, rows};
  if (given.positions != nullptr) {
    if (given.first_position != 0) {
      return refuse(name + ".first_position", given.first_position, 0, "positions are given");
    }
    block.positions = {given.positions, rows};
  }
  block.first_position = given.first_position;
  const auto masks = read_array(given.masks, given.mask_count, name + ".masks");
  if (!masks) return masks.error();
  if (given.masks != nullptr && given.mask_count == 0) {
    return refuse(name + ".mask_count", 0, 1, "there are masks");
  }
  if (masks->empty()) return block;
  std::vector<kvfit::row_view>& views = masks_.emplace_back();
  for (std::size_t i = 0; i < masks->size(); ++i) {
    const auto view = view_of(&(*masks)[i], name + ".masks[" + std::to_string(i) + "]");
    if (!view) return view.error();
    views.push_back(*view);
  }
  block.masks = views;
  return block;
}

kvfit::result<kvfit::query_block> inputs::query(const kvfit_queries& given,
                                                const std::string& name) {
  const auto rows = view_of(given.rows, name + ".rows");
  if (!rows) return rows.error();
  kvfit::query_block block(*rows);
  block.first_position = given.first_position;
  block.position_step = given.position_step == 0 ? 1 : given.position_step;
  block.alibi_slope = given.alibi_slope;
  if (given.position_count < 0 || (given.positions == nullptr && given.position_count != 0)) {
    return refuse(name + ".position_count", given.position_count, 0, "there are no positions");
  }
  if (given.positions != nullptr) {
    block.positions = {given.positions, static_cast<std::size_t>(given.position_count)};
  }
  const auto has_sink = yes_or_no(given.has_sink, name + ".has_sink");
  if (!has_sink) return has_sink.error();
  if (*has_sink) block.sink_logit = given.sink_logit;
  if (!*has_sink && given.sink_logit != 0) {
    return refuse(name + ".sink_logit", kvfit::error::none, kvfit::error::none,
                  "is given, but has_sink is 0");
  }
  return block;
}

kvfit::result<std::span<const kvfit::query_block>> inputs::queries(const kvfit_queries* given,
                                                                   std::size_t count) {
  const auto read = read_array(given, count, "queries");
  if (!read) return read.error();
  queries_.clear();
  for (std::size_t i = 0; i < read->size(); ++i) {
    auto one = query((*read)[i], "queries[" + std::to_string(i) + "]");
    if (!one) return one.error();
    queries_.push_back(*one);
  }
  return std::span<const kvfit::query_block>(queries_);
}

kvfit::result<std::span<const kvfit::kv_block>> inputs::blocks(const kvfit_block* given,
                                                               std::size_t count) {
  const auto read = read_array(given, count, "blocks");
  if (!read) return read.error();
  blocks_.clear();
  for (std::size_t i = 0; i < read->size(); ++i) {
    const auto one = block((*read)[i], "blocks[" + std::to_string(i) + "]");
    if (!one) return one.error();
    blocks_.push_back(*one);
  }
  return std::span<const kvfit::kv_block>(blocks_);
}

kvfit::result<kvfit::cache_view> inputs::cache(const kvfit_layer* given, std::size_t count) {
  const auto read = read_array(given, count, "layers");
  if (!read) return read.error();
  kvfit::cache_view view;
  for (std::size_t l = 0; l < read->size(); ++l) {
    const kvfit_layer& from = (*read)[l];
    const std::string name = "layers[" + std::to_string(l) + "]";
    if (from.kind < KVFIT_GLOBAL || from.kind > KVFIT_RECURRENT) {
      return refuse(name + ".kind", from.kind, KVFIT_RECURRENT, "is no kind of layer");
    }
    kvfit::cache_layer layer;
    layer.number = from.number;
    layer.kind = static_cast<kvfit::layer_kind>(from.kind);
    const auto heads = read_array(from.heads, from.head_count, name + ".heads");
    if (!heads) return heads.error();
    for (std::size_t h = 0; h < heads->size(); ++h) {
      const auto one = block((*heads)[h], name + ".heads[" + std::to_string(h) + "]");
      if (!one) return one.error();
      layer.heads.push_back(*one);
    }
    if (from.rule != nullptr) {
      const auto rule = rule_of(from.rule, name + ".rule");
      if (!rule) return rule.error();
      layer.rule = *rule;
    }
    if (from.rotation != nullptr) {
      const auto rotation = rope_of(from.rotation, name + ".rotation");
      if (!rotation) return rotation.error();
      layer.rotation = *rotation;
    }
    view.layers.push_back(std::move(layer));
  }
  return view;
}

kvfit::result<kvfit::cache_queries> inputs::cache_queries(const kvfit_layer_queries* given,
                                                          std::size_t count) {
  const auto read = read_array(given, count, "queries");
  if (!read) return read.error();
  kvfit::cache_queries all;
  for (std::size_t l = 0; l < read->size(); ++l) {
    const kvfit_layer_queries& from = (*read)[l];
    const std::string name = "queries[" + std::to_string(l) + "].heads";
    const auto heads = read_array(from.heads, from.head_count, name);
    if (!heads) return heads.error();
    kvfit::layer_queries layer{.layer = from.layer, .heads = {}};
    for (std::size_t h = 0; h < heads->size(); ++h) {
      auto one = query((*heads)[h], name + "[" + std::to_string(h) + "]");
      if (!one) return one.error();
      layer.heads.push_back(*one);
    }
    all.push_back(std::move(layer));
  }
  return all;
}

}  // namespace kvfit_c
