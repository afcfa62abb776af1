// SPDX-License-Identifier: MIT
#include "measure/query_split.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "kvfit/view/load.hpp"

namespace kvfit_tool {

namespace {

constexpr kvfit::index_t every = 8;

bool is_in(kvfit::index_t i, kvfit::index_t stride, bool is_held_out) {
  return (i % stride == stride - 1) == is_held_out;
}

/// The rows of one part: the last of each `stride`, or all others.
kvfit::matrix part_of(const kvfit::row_view& rows, kvfit::index_t stride, bool is_held_out) {
  const kvfit::index_t held_out = rows.rows() / stride;
  kvfit::matrix part(is_held_out ? held_out : rows.rows() - held_out, rows.cols());
  kvfit::index_t to = 0;
  for (kvfit::index_t i = 0; i < rows.rows(); ++i) {
    if (is_in(i, stride, is_held_out)) kvfit::load_row(rows, i, part.row(to++).data());
  }
  return part;
}

/// Where the rows of one part stand, if the capture says.
std::vector<kvfit::index_t> positions_of(const kvfit::query_block& block, kvfit::index_t stride,
                                         bool is_held_out) {
  std::vector<kvfit::index_t> positions;
  if (block.positions.empty()) return positions;
  for (kvfit::index_t i = 0; i < block.rows.rows(); ++i) {
    if (is_in(i, stride, is_held_out)) positions.push_back(block.position(i));
  }
  return positions;
}

}  // namespace

kvfit::result<split_heads> split_heads::of(const kvfit::capture& capture) {
  split_heads made;
  made.heads_ = heads_of(capture);
  for (const placed_head& head : made.heads_) {
    for (const bool is_held_out : {false, true}) {
      std::vector<kvfit::query_block> blocks;
      for (const kvfit::query_block& block : head.view.queries) {
        const kvfit::index_t stride = std::min(every, block.rows.rows());
        if (stride < 2) {
          return kvfit::error{
              kvfit::errc::empty_input,
              "layer " + std::to_string(head.layer) + " head " + std::to_string(head.head),
              block.rows.rows(), 2, "reference queries: none can be held out"};
        }
        // Matrix and table keep their memory where the vectors that hold them grow.
        made.memory_.push_back(part_of(block.rows, stride, is_held_out));
        made.positions_.push_back(positions_of(block, stride, is_held_out));
        kvfit::query_block part = block;
        part.rows = made.memory_.back();
        part.positions = made.positions_.back();
        blocks.push_back(part);
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
