// SPDX-License-Identifier: MIT
#include "query_split.hpp"

#include <algorithm>
#include <utility>

namespace kvfit_tool {

namespace {

constexpr kvfit::index_t every = 8;

/// The rows of one part: the last of each `stride`, or all others.
kvfit::matrix part_of(const kvfit::row_view& rows, kvfit::index_t stride, bool is_held_out) {
  const kvfit::index_t held_out = rows.rows() / stride;
  kvfit::matrix part(is_held_out ? held_out : rows.rows() - held_out, rows.cols());
  kvfit::index_t to = 0;
  for (kvfit::index_t i = 0; i < rows.rows(); ++i) {
    if ((i % stride == stride - 1) != is_held_out) continue;
    for (kvfit::index_t k = 0; k < rows.cols(); ++k) part(to, k) = rows(i, k);
    ++to;
  }
  return part;
}

}  // namespace

kvfit::result<split_heads> split_heads::of(const kvfit::capture& capture) {
  split_heads made;
  made.heads_ = heads_of(capture);
  for (const placed_head& head : made.heads_) {
    for (const bool is_held_out : {false, true}) {
      std::vector<kvfit::row_view> blocks;
      for (const kvfit::row_view& block : head.view.queries) {
        const kvfit::index_t stride = std::min(every, block.rows());
        if (stride < 2) {
          return kvfit::error{
              kvfit::errc::empty_input,
              "layer " + std::to_string(head.layer) + " head " + std::to_string(head.head),
              block.rows(), 2, "reference queries: none can be held out"};
        }
        // A matrix keeps its memory where the vector of matrices grows.
        made.memory_.push_back(part_of(block, stride, is_held_out));
        blocks.emplace_back(made.memory_.back());
      }
      made.blocks_.push_back(std::move(blocks));
    }
  }
  for (std::size_t h = 0; h < made.heads_.size(); ++h) {
    made.heads_[h].view.queries = made.blocks_[2 * h];
    made.heads_[h].view.test_queries = made.blocks_[2 * h + 1];
  }
  return made;
}

}  // namespace kvfit_tool
