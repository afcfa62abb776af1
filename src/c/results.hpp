// SPDX-License-Identifier: MIT
// Results of C: structs that refer to the C++ result beside them.
#pragma once

#include <kvfit/c/kvfit.h>

#include <kvfit/cache/compacted_cache.hpp>
#include <kvfit/compact/compacted.hpp>
#include <memory>
#include <vector>

namespace kvfit_c {

kvfit_report report_of(const kvfit::compact_report& report);

// One block and the rows that it refers to.
struct c_block {
  kvfit_rows keys{};
  kvfit_rows values{};
};

}  // namespace kvfit_c

struct kvfit_compacted {
  explicit kvfit_compacted(kvfit::compacted result);
  kvfit_compacted(const kvfit_compacted&) = delete;  // its structs refer to itself
  kvfit_compacted& operator=(const kvfit_compacted&) = delete;
  ~kvfit_compacted() = default;

  kvfit::compacted own;
  kvfit_report report;
  kvfit_c::c_block rows;
  kvfit_block block{};
  kvfit_result result{};
};

struct kvfit_cache {
  explicit kvfit_cache(std::shared_ptr<const kvfit::compacted_cache> cache);
  kvfit_cache(const kvfit_cache&) = delete;
  kvfit_cache& operator=(const kvfit_cache&) = delete;
  ~kvfit_cache() = default;

  // Of one layer; none of the lists grows once it is made.
  struct layer {
    std::vector<kvfit_c::c_block> rows;
    std::vector<kvfit_block> blocks;
    std::vector<kvfit_report> details;
    std::vector<kvfit_head_report> reports;
  };

  std::shared_ptr<const kvfit::compacted_cache> own;
  std::vector<layer> parts;
  std::vector<kvfit_layer_result> layers;
  kvfit_cache_result result{};
};
