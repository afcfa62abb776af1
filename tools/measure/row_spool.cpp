// SPDX-License-Identifier: MIT
#include "measure/row_spool.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <system_error>
#include <vector>

#include "kvfit/view/store.hpp"
#include "kvfit/view/writable_view.hpp"

namespace kvfit_tool {

namespace {

kvfit::error system_error_of(kvfit::errc code, const std::string& what) {
  return {code, what, kvfit::error::none, kvfit::error::none,
          std::generic_category().message(errno)};
}

kvfit::row_memory memory_of(const void* data, kvfit::dtype type, kvfit::index_t rows,
                            kvfit::index_t cols) {
  return {.data = data, .type = type, .rows = rows, .cols = cols, .row_stride = cols};
}

}  // namespace

row_spool::~row_spool() {
  if (memory_ != nullptr) ::munmap(memory_, size_);
  if (file_ >= 0) ::close(file_);
}

kvfit::result<void> row_spool::open(const std::filesystem::path& folder) {
  std::string name = ((folder.empty() ? "." : folder) / ".kvfit-spool-XXXXXX").string();
  file_ = ::mkstemp(name.data());
  if (file_ < 0) return system_error_of(kvfit::errc::file_unwritable, name);
  ::unlink(name.c_str());
  return {};
}

kvfit::result<spooled_rows> row_spool::append(const kvfit::matrix& rows) {
  spooled_rows at{size_, rows.rows(), rows.cols()};
  const auto bytes = static_cast<std::size_t>(rows.size()) * size_of(storage_);
  if (bytes == 0) return at;
  std::vector<std::byte> stored(bytes);
  const kvfit::row_view target(memory_of(stored.data(), storage_, rows.rows(), rows.cols()));
  if (const auto ok = kvfit::store_rows(rows, kvfit::writable_view(target)); !ok) return ok.error();
  for (std::size_t done = 0; done < bytes;) {
    const ssize_t count = ::write(file_, stored.data() + done, bytes - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return system_error_of(kvfit::errc::file_unwritable, "temporary file");
    done += static_cast<std::size_t>(count);
  }
  // The next rows start aligned for any storage type: sizes are even, and so are offsets.
  size_ += bytes;
  return at;
}

kvfit::result<void> row_spool::finish() {
  if (size_ == 0) return {};
  void* const memory = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file_, 0);
  if (memory == MAP_FAILED) return system_error_of(kvfit::errc::file_unreadable, "temporary file");
  memory_ = static_cast<std::byte*>(memory);
  return {};
}

kvfit::row_view row_spool::view(const spooled_rows& at) const {
  const std::byte* const data = at.rows * at.cols == 0 ? nullptr : memory_ + at.offset;
  return kvfit::row_view(memory_of(data, storage_, at.rows, at.cols));
}

}  // namespace kvfit_tool
