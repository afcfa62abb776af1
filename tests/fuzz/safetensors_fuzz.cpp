// SPDX-License-Identifier: MIT
// Any bytes as a safetensors file, a capture and a result: an error, or what is all there.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "fuzz/check.hpp"
#include "kvfit/io/capture.hpp"
#include "kvfit/io/compact_file.hpp"
#include "kvfit/view/load.hpp"

namespace {

using kvfit_fuzz::promise;

/// Every number of `view` is read, so that a sanitizer sees where it lies.
float sum_of(const kvfit::row_view& view) {
  std::vector<float> row(static_cast<std::size_t>(view.cols()));
  float sum = 0;
  for (kvfit::index_t i = 0; i < view.rows(); ++i) {
    kvfit::load_row(view, i, row.data());
    for (const float x : row) sum += x;
  }
  return sum;
}

volatile float sink = 0;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto file = kvfit::read_safetensors(bytes);
  if (!file) {
    promise(!kvfit::read_capture(bytes) && !kvfit::read_compact_file(bytes));
    return 0;
  }
  std::size_t held = 0;
  for (const kvfit::tensor_view& tensor : file->tensors) {
    promise(kvfit::io_detail::byte_size(tensor.type, tensor.shape) == tensor.bytes.size());
    promise(reinterpret_cast<std::uintptr_t>(tensor.bytes.data()) % size_of(tensor.type) == 0);
    promise(kvfit::find_tensor(*file, tensor.name) == &tensor);
    held += tensor.bytes.size();
  }
  promise(held <= size);
  if (const auto capture = kvfit::read_capture(bytes)) {
    for (const kvfit::capture_layer& layer : capture->layers) {
      for (kvfit::index_t h = 0; h < layer.heads(); ++h) {
        sink = sum_of(layer.keys(h)) + sum_of(layer.values(h));
        for (const auto& queries : layer.queries(h)) sink = sum_of(queries);
        for (const auto& queries : layer.test_queries(h)) sink = sum_of(queries);
        for (const auto& blocks : {layer.query_blocks(h), layer.test_query_blocks(h)}) {
          for (const kvfit::query_block& block : blocks) {
            sink = static_cast<float>(block.position(block.rows.rows() - 1)) + block.alibi_slope;
          }
        }
        sink = static_cast<float>(layer.block(h).position(layer.rows() - 1));
      }
    }
  }
  if (const auto result = kvfit::read_compact_file(bytes)) {
    for (const kvfit::compact_layer& layer : result->layers) {
      for (const kvfit::compact_head& head : layer.heads) {
        sink = sum_of(head.keys) + sum_of(head.values);
        promise(static_cast<kvfit::index_t>(head.bias.size()) == head.keys.rows());
        promise(head.positions.size() == head.bias.size());
        promise(head.key_positions.empty() || head.key_positions.size() == head.bias.size());
      }
    }
  }
  return 0;
}
