// SPDX-License-Identifier: MIT
/// Rows of finished heads on disk, so that a large result is not held in memory while others are
/// made.
#pragma once

#include <cstddef>
#include <filesystem>

#include "kvfit/core/element.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/view/row_view.hpp"

namespace kvfit_tool {

/// Where rows lie in a spool.
struct spooled_rows {
  std::size_t offset = 0;
  kvfit::index_t rows = 0;
  kvfit::index_t cols = 0;
};

/// A nameless file that rows are appended to, then read as memory. It is gone with the object.
class row_spool {
 public:
  explicit row_spool(kvfit::dtype storage) : storage_(storage) {}
  row_spool(const row_spool&) = delete;
  row_spool& operator=(const row_spool&) = delete;
  ~row_spool();

  /// Makes the file in `folder`. `file_unwritable` with the system's reason.
  kvfit::result<void> open(const std::filesystem::path& folder);

  /// Appends `rows`, which fit the storage type, and says where. `file_unwritable`.
  kvfit::result<spooled_rows> append(const kvfit::matrix& rows);

  /// After the last `append`: the file can be viewed. `file_unreadable`.
  kvfit::result<void> finish();

  [[nodiscard]] kvfit::row_view view(const spooled_rows& at) const;

 private:
  kvfit::dtype storage_;
  int file_ = -1;
  std::size_t size_ = 0;
  std::byte* memory_ = nullptr;
};

}  // namespace kvfit_tool
