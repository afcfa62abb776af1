// SPDX-License-Identifier: MIT
/// Reads captures: keys, values and reference queries recorded from a model (docs/formats.md).
///
///     auto capture = kvfit::read_capture("tinybooks.safetensors");
///     for (const auto& layer : capture->layers) use(layer.block(0), layer.query_blocks(0));
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/attention_entries.hpp"
#include "kvfit/io/capture_layer.hpp"
#include "kvfit/io/capture_tensors.hpp"
#include "kvfit/io/catch_exceptions.hpp"
#include "kvfit/io/expected_setup.hpp"
#include "kvfit/io/layer_tensors.hpp"
#include "kvfit/io/rope_text.hpp"
#include "kvfit/io/safetensors_read.hpp"
#include "kvfit/view/row_view.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// Entries of a capture's metadata that hold for all of it.
inline constexpr std::array<std::string_view, 12> capture_entries = {
    "format", "version",       "scale",          "soft_cap",  "causal",     "window",
    "rope",   "next_position", "logical_length", "n_heads_q", "n_heads_kv", "fingerprint"};

/// Where the metadata states a head count, it holds for every layer.
inline result<void> check_head_count(const safetensors_file& file, std::string_view key,
                                     const head_rows_tensor& tensor) {
  if (file.metadata.find(key) == file.metadata.end()) return {};
  const auto stated = need_index(file, key);
  if (!stated) return stated.error();
  return check_equal(*tensor.tensor, tensor.heads, *stated, "heads, against the metadata's count");
}

/// Query tensor `part` of a layer against the keys of that layer.
inline result<head_rows_tensor> read_queries(const safetensors_file& file, index_t layer,
                                             const layer_parts& parts, const std::string& part,
                                             const head_rows_tensor& keys) {
  auto queries = read_head_rows(layer, parts, part);
  if (!queries) return queries.error();
  const head_rows_tensor& q = *queries;
  if (q.heads % keys.heads != 0) {
    return error{errc::shape_mismatch, q.tensor->name, q.heads, keys.heads,
                 "query heads must be a multiple of the KV heads"};
  }
  if (auto checked =
          check_equal(*q.tensor, q.all.cols(), keys.all.cols(), "columns must equal the keys'");
      !checked) {
    return checked.error();
  }
  if (auto checked = check_head_count(file, "n_heads_q", q); !checked) return checked.error();
  return queries;
}

/// One block a query head.
inline std::vector<row_view> blocks_of(const head_rows_tensor& queries) {
  std::vector<row_view> blocks;
  blocks.reserve(static_cast<std::size_t>(queries.heads));
  for (index_t head = 0; head < queries.heads; ++head) {
    blocks.push_back(queries.all.middle_rows(head * queries.rows, queries.rows));
  }
  return blocks;
}

/// A number of the rule a query head, or none at all.
inline result<void> check_rule_heads(index_t layer, const char* part,
                                     const std::vector<float>& numbers, index_t query_heads) {
  const auto count = static_cast<index_t>(numbers.size());
  if (count == 0 || count == query_heads) return {};
  return error{errc::shape_mismatch, part_name(layer, part), count, query_heads,
               "one number a query head"};
}

/// Scales and positions of queries that are not there.
inline result<void> refuse_without_test(index_t layer, const layer_parts& parts) {
  for (const char* const part : {"q_test_scale", "q_test_positions"}) {
    if (!parts.contains(part)) continue;
    return error{errc::missing_entry, part_name(layer, "q_test"), error::none, error::none,
                 "there is " + part_name(layer, part)};
  }
  return {};
}

/// Positions of the rows of a layer; those of queries must be there where the rule uses them.
inline result<capture_positions> read_capture_positions(index_t layer, const layer_parts& parts,
                                                        index_t keys, index_t queries,
                                                        index_t test_queries,
                                                        const attention_rule& rule) {
  capture_positions made;
  const bool is_needed = looks_at_positions(rule);
  const auto read = [&](const char* part, index_t rows, const char* meaning,
                        std::vector<index_t>& to) -> result<void> {
    auto positions = read_positions(layer, parts, part, rows, meaning);
    if (!positions) return positions.error();
    to = std::move(*positions);
    return {};
  };
  const auto need = [&](const char* part, index_t rows, const char* meaning,
                        std::vector<index_t>& to) -> result<void> {
    if (auto ok = read(part, rows, meaning, to); !ok) return ok;
    if (!to.empty() || !is_needed) return {};
    return error{
        errc::missing_entry, part_name(layer, part), error::none, error::none,
        "the layer is causal, has a window or slopes: where its queries stand must be said"};
  };
  if (auto ok = read("k_positions", keys, "one a row of the keys", made.keys); !ok) {
    return ok.error();
  }
  if (auto ok = need("q_positions", queries, "one a query", made.queries); !ok) return ok.error();
  if (test_queries == 0) return made;
  if (auto ok = need("q_test_positions", test_queries, "one a query", made.test_queries); !ok) {
    return ok.error();
  }
  return made;
}

inline result<capture_layer> read_capture_layer(const safetensors_file& file, index_t version,
                                                index_t number, const layer_parts& parts) {
  const auto k = read_head_rows(number, parts, "k");
  if (!k) return k.error();
  const auto v = read_head_rows(number, parts, "v");
  if (!v) return v.error();
  if (auto checked = check_equal(*v->tensor, v->heads, k->heads, "heads must equal the keys'");
      !checked) {
    return checked.error();
  }
  if (auto checked = check_equal(*v->tensor, v->rows, k->rows, "rows must equal the keys'");
      !checked) {
    return checked.error();
  }
  if (auto checked = check_head_count(file, "n_heads_kv", *k); !checked) return checked.error();

  const auto queries = read_queries(file, number, parts, "q", *k);
  if (!queries) return queries.error();
  capture_rows rows{k->all, v->all, blocks_of(*queries), {}};
  index_t test_rows = 0;
  if (parts.contains("q_test")) {
    const auto test = read_queries(file, number, parts, "q_test", *k);
    if (!test) return test.error();
    if (auto same =
            check_equal(*test->tensor, test->heads, queries->heads, "heads must equal those of q");
        !same) {
      return same.error();
    }
    rows.test_queries = blocks_of(*test);
    test_rows = test->rows;
  } else if (auto ok = refuse_without_test(number, parts); !ok) {
    return ok.error();
  }

  auto rule = read_attention(file, version, number, parts, k->heads, k->all.cols());
  if (!rule) return rule.error();
  if (auto ok = check_rule_heads(number, "sinks", rule->sink_logits, queries->heads); !ok) {
    return ok.error();
  }
  if (auto ok = check_rule_heads(number, "alibi_slopes", rule->alibi_slopes, queries->heads); !ok) {
    return ok.error();
  }
  auto positions = read_capture_positions(number, parts, k->rows, queries->rows, test_rows, *rule);
  if (!positions) return positions.error();
  return capture_layer(number, k->heads, std::move(rows), std::move(*rule), std::move(*positions));
}

/// Where the next token stands if the file does not say: behind the last key of any layer.
inline index_t position_behind(const std::vector<capture_layer>& layers) {
  index_t next = 0;
  for (const capture_layer& layer : layers) {
    const auto positions = layer.key_positions();
    next = (std::max)(next, positions.empty()
                                ? layer.rows()
                                : *std::max_element(positions.begin(), positions.end()) + 1);
  }
  return (std::min)(next, index_t{1} << 53U);
}

inline result<capture> read_capture(result<safetensors_file> read) {
  if (!read) return read.error();
  capture capture;
  capture.file = std::move(*read);
  const safetensors_file& file = capture.file;
  const auto version = need_format(file, "kvfit-capture", 2);
  if (!version) return version.error();
  const auto scale = need_scale(file);
  if (!scale) return scale.error();
  capture.scale = *scale;
  if (const auto text = file.metadata.find("rope"); text != file.metadata.end()) {
    capture.rotation = parse_rope(text->second);
  }
  auto fingerprint = read_fingerprint(file);
  if (!fingerprint) return fingerprint.error();
  capture.fingerprint = std::move(*fingerprint);

  const auto layers = group_by_layer(
      file, {"k", "v", "q", "q_test", "k_scale", "v_scale", "q_scale", "q_test_scale",
             "k_positions", "q_positions", "q_test_positions", "sinks", "alibi_slopes"});
  if (!layers) return layers.error();
  if (auto ok = refuse_unknown(file, *version, capture_entries, *layers); !ok) return ok.error();
  if (auto ok = check_common_rule(file, *version); !ok) return ok.error();
  if (layers->empty()) {
    return error{errc::missing_entry, "layers.{l}.k", error::none, error::none, "no layer at all"};
  }
  for (const auto& [number, parts] : *layers) {
    auto layer = read_capture_layer(file, *version, number, parts);
    if (!layer) return layer.error();
    capture.layers.push_back(std::move(*layer));
  }
  const auto next = read_next_position(file);
  if (!next) return next.error();
  capture.next_position = next->value_or(position_behind(capture.layers));
  return capture;
}

}  // namespace io_detail

/// Reads a capture. Shapes and metadata are checked; the numbers are not (`compact` does that).
///
/// Errors: those of `read_safetensors`; `missing_entry` naming the tensor or metadata entry;
/// `shape_mismatch` naming the tensor, with both sizes; `empty_input`; `malformed_file` and
/// `unsupported_file` for metadata, ranks, element types, parts of a layer this version does not
/// know, and entries whose names tell of attention and that no rule here has; `invalid_option` for
/// a rotation outside its ranges. Cost: that of `read_safetensors`, one `row_view` a query head,
/// 4 bytes a sink and slope, 8 a position; the views point into the file's memory.
[[nodiscard]] inline result<capture> read_capture(const std::filesystem::path& path) {
  return io_detail::catch_exceptions(
      errc::file_unreadable, [&] { return io_detail::read_capture(read_safetensors(path)); });
}

/// The same from bytes in memory, which are copied.
[[nodiscard]] inline result<capture> read_capture(std::span<const std::byte> bytes) {
  return io_detail::catch_exceptions(
      errc::file_unreadable, [&] { return io_detail::read_capture(read_safetensors(bytes)); });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
