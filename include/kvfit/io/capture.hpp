// SPDX-License-Identifier: MIT
/// Reads captures: keys, values and reference queries recorded from a model (docs/formats.md).
///
///     auto capture = kvfit::read_capture("tinybooks.safetensors");
///     for (const auto& layer : capture->layers) use(layer.keys(0), layer.queries(0));
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/attention/rope.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/guarded.hpp"
#include "kvfit/io/layer_tensors.hpp"
#include "kvfit/io/rope_text.hpp"
#include "kvfit/io/safetensors_read.hpp"
#include "kvfit/view/row_view.hpp"

namespace kvfit {

/// One layer: H_kv heads of keys and values, and H_q = G · H_kv heads of queries.
class capture_layer {
 public:
  /// `keys` and `values` hold the heads one below the other; the queries are one block a head.
  capture_layer(index_t number, index_t heads, row_view keys, row_view values,
                std::vector<row_view> queries, std::vector<row_view> test_queries)
      : number_(number),
        heads_(heads),
        keys_(keys),
        values_(values),
        queries_(std::move(queries)),
        test_queries_(std::move(test_queries)) {}

  /// l in `layers.{l}.k`.
  [[nodiscard]] index_t number() const noexcept { return number_; }
  /// H_kv.
  [[nodiscard]] index_t heads() const noexcept { return heads_; }
  /// H_q.
  [[nodiscard]] index_t query_heads() const noexcept {
    return static_cast<index_t>(queries_.size());
  }
  /// T, the same for all heads of a layer.
  [[nodiscard]] index_t rows() const noexcept { return keys_.rows() / heads_; }

  /// T × d, after RoPE.
  [[nodiscard]] row_view keys(index_t head) const noexcept {
    return keys_.middle_rows(head * rows(), rows());
  }
  /// T × d_v.
  [[nodiscard]] row_view values(index_t head) const noexcept {
    return values_.middle_rows(head * rows(), rows());
  }
  /// G blocks n × d: those of query heads h·G … h·G + G − 1, which read KV head h.
  [[nodiscard]] std::span<const row_view> queries(index_t head) const noexcept {
    return group(queries_, head);
  }
  /// The same for the m × d held-out queries, never to be fitted on; empty where there are none.
  [[nodiscard]] std::span<const row_view> test_queries(index_t head) const noexcept {
    return group(test_queries_, head);
  }

 private:
  [[nodiscard]] std::span<const row_view> group(const std::vector<row_view>& blocks,
                                                index_t head) const noexcept {
    assert(head >= 0 && head < heads_);
    const std::size_t size = blocks.size() / static_cast<std::size_t>(heads_);
    return std::span(blocks).subspan(static_cast<std::size_t>(head) * size, size);
  }

  index_t number_;
  index_t heads_;
  row_view keys_;
  row_view values_;
  std::vector<row_view> queries_;
  std::vector<row_view> test_queries_;
};

/// A capture. It owns the memory its views show; moving it keeps them valid.
struct capture {
  float scale = 0;                    ///< logit = scale · q·k
  std::optional<rope> rotation = {};  ///< how keys and queries were turned, where the file says so
  index_t logical_length = 0;         ///< the position at which the next token would stand
  std::vector<capture_layer> layers;  ///< ascending by number, not always without gaps
  safetensors_file file;              ///< all that was read, other metadata included
};

}  // namespace kvfit

namespace kvfit::inline KVFIT_ISA {

namespace io_detail {

/// Where the metadata states a head count, it holds for every layer.
inline result<void> check_head_count(const safetensors_file& file, std::string_view key,
                                     const tensor_view& tensor) {
  if (file.metadata.find(key) == file.metadata.end()) return {};
  const auto stated = need_index(file, key);
  if (!stated) return stated.error();
  return check_size(tensor, 0, *stated, "heads, against the metadata's count");
}

/// Query tensor `part` of a layer against the keys of that layer.
inline result<const tensor_view*> check_queries(const safetensors_file& file, index_t layer,
                                                const layer_parts& parts, std::string_view part,
                                                const tensor_view& keys) {
  const auto queries = need_part(layer, parts, part, 3);
  if (!queries) return queries.error();
  const tensor_view& q = **queries;
  if (auto checked = check_numbers(q); !checked) return checked.error();
  if (auto checked = check_not_empty(q); !checked) return checked.error();
  if (q.shape[0] % keys.shape[0] != 0) {
    return error{errc::shape_mismatch, q.name, q.shape[0], keys.shape[0],
                 "query heads must be a multiple of the KV heads"};
  }
  if (auto checked = check_size(q, 2, keys.shape[2], "columns must equal the keys'"); !checked) {
    return checked.error();
  }
  if (auto checked = check_head_count(file, "n_heads_q", q); !checked) return checked.error();
  return &q;
}

/// One block a query head.
inline std::vector<row_view> blocks_of(const tensor_view& queries) {
  std::vector<row_view> blocks;
  blocks.reserve(static_cast<std::size_t>(queries.shape[0]));
  for (index_t head = 0; head < queries.shape[0]; ++head) {
    blocks.push_back(rows_of(queries, head * queries.shape[1], queries.shape[1]));
  }
  return blocks;
}

inline result<capture_layer> read_capture_layer(const safetensors_file& file, index_t number,
                                                const layer_parts& parts) {
  const auto keys = need_part(number, parts, "k", 3);
  if (!keys) return keys.error();
  const auto values = need_part(number, parts, "v", 3);
  if (!values) return values.error();
  const tensor_view& k = **keys;
  const tensor_view& v = **values;
  for (const tensor_view* tensor : {&k, &v}) {
    if (auto checked = check_numbers(*tensor); !checked) return checked.error();
    if (auto checked = check_not_empty(*tensor); !checked) return checked.error();
  }
  if (auto checked = check_size(v, 0, k.shape[0], "heads must equal the keys'"); !checked) {
    return checked.error();
  }
  if (auto checked = check_size(v, 1, k.shape[1], "rows must equal the keys'"); !checked) {
    return checked.error();
  }
  if (auto checked = check_head_count(file, "n_heads_kv", k); !checked) return checked.error();

  const auto queries = check_queries(file, number, parts, "q", k);
  if (!queries) return queries.error();
  const tensor_view* test = nullptr;
  if (parts.contains("q_test")) {
    const auto checked = check_queries(file, number, parts, "q_test", k);
    if (!checked) return checked.error();
    test = *checked;
    if (auto same = check_size(*test, 0, (*queries)->shape[0], "heads must equal those of q");
        !same) {
      return same.error();
    }
  }

  return capture_layer(number, k.shape[0], rows_of(k, 0, k.shape[0] * k.shape[1]),
                       rows_of(v, 0, v.shape[0] * v.shape[1]), blocks_of(**queries),
                       test == nullptr ? std::vector<row_view>() : blocks_of(*test));
}

inline result<capture> read_capture(result<safetensors_file> read) {
  if (!read) return read.error();
  capture capture;
  capture.file = std::move(*read);
  const safetensors_file& file = capture.file;
  if (auto checked = need_format(file, "kvfit-capture"); !checked) return checked.error();
  const auto scale = need_scale(file);
  if (!scale) return scale.error();
  capture.scale = *scale;

  if (const auto text = file.metadata.find("rope"); text != file.metadata.end()) {
    capture.rotation = parse_rope(text->second);
  }

  const auto layers = group_by_layer(file, {"k", "v", "q", "q_test"});
  if (!layers) return layers.error();
  if (layers->empty()) {
    return error{errc::missing_entry, "layers.{l}.k", error::none, error::none, "no layer at all"};
  }
  index_t longest = 0;
  for (const auto& [number, parts] : *layers) {
    auto layer = read_capture_layer(file, number, parts);
    if (!layer) return layer.error();
    longest = std::max(longest, layer->rows());
    capture.layers.push_back(std::move(*layer));
  }
  capture.logical_length = longest;
  if (file.metadata.find("logical_length") != file.metadata.end()) {
    const auto length = need_index(file, "logical_length");
    if (!length) return length.error();
    if (*length < longest) {
      return error{errc::shape_mismatch, "logical_length", *length, longest,
                   "is less than a layer has rows"};
    }
    capture.logical_length = *length;
  }
  return capture;
}

}  // namespace io_detail

/// Reads a capture. Shapes and metadata are checked; the numbers are not (`compact` does that).
///
/// Errors: those of `read_safetensors`; `missing_entry` naming the tensor or metadata entry;
/// `shape_mismatch` naming the tensor, with both sizes; `empty_input`; `malformed_file` and
/// `unsupported_file` for metadata, ranks, element types and parts of a layer this version does
/// not know. Cost: that of `read_safetensors` and one `row_view` a query head; the
/// views point into the file's memory.
[[nodiscard]] inline result<capture> read_capture(const std::filesystem::path& path) {
  return io_detail::guarded(errc::file_unreadable,
                            [&] { return io_detail::read_capture(read_safetensors(path)); });
}

/// The same from bytes in memory, which are copied.
[[nodiscard]] inline result<capture> read_capture(std::span<const std::byte> bytes) {
  return io_detail::guarded(errc::file_unreadable,
                            [&] { return io_detail::read_capture(read_safetensors(bytes)); });
}

}  // namespace kvfit::inline KVFIT_ISA
