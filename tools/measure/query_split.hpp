// SPDX-License-Identifier: MIT
/// Reference queries split into those a candidate may be fitted on and those that judge it.
#pragma once

#include <vector>

#include "kvfit/core/matrix.hpp"
#include "measure/evaluation.hpp"

namespace kvfit_tool {

/// The heads of a capture with every eighth of their reference queries (every n-th, where a block
/// has n < 8) in the place of test queries. The capture's own test queries are not used.
///
/// Both parts are copied, so that a part is one block a query head, as an engine would hand it
/// over, and takes the time of one.
class split_heads {
 public:
  /// `empty_input` where a block has a single query, and nothing can be held out.
  static kvfit::result<split_heads> of(const kvfit::capture& capture);

  [[nodiscard]] const std::vector<placed_head>& heads() const { return heads_; }

 private:
  std::vector<kvfit::matrix> memory_;
  std::vector<std::vector<kvfit::index_t>> positions_;
  std::vector<std::vector<kvfit::query_block>> blocks_;
  std::vector<placed_head> heads_;
};

}  // namespace kvfit_tool
