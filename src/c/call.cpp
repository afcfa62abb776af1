// SPDX-License-Identifier: MIT
#include "call.hpp"

#include <algorithm>

#include "convert.hpp"
#include "options.hpp"

namespace kvfit_c {

namespace {

kvfit::error refuse(const char* field, int64_t found, const char* why) {
  return kvfit::error{kvfit::errc::invalid_option, field, found, kvfit::error::none, why};
}

}  // namespace

kvfit::result<call_setup> read_call(const kvfit_call* given, bool may_cancel, bool may_report) {
  call_setup setup;
  if (given == nullptr) return setup;
  const auto read = read_struct(given, "call");
  if (!read) return read.error();
  if (read->reserved_too != 0) return refuse("call.reserved_too", read->reserved_too, "must be 0");
  if (read->threads < 0) return refuse("call.threads", read->threads, "must not be negative");
  if (read->pool_threads < 0) {
    return refuse("call.pool_threads", read->pool_threads, "must not be negative");
  }
  if (read->parallel_for != nullptr) {
    if (read->threads != 0) {
      return refuse("call.threads", read->threads, "must be 0 beside parallel_for");
    }
    setup.threads = call_threads(*read);
  } else {
    if (read->pool != nullptr || read->pool_threads != 0) {
      return refuse("call.pool", kvfit::error::none, "there is no parallel_for");
    }
    if (read->threads > 1) setup.threads = call_threads(read->threads);
  }
  if (read->cancel != nullptr) {
    if (!may_cancel) {
      return refuse("call.cancel", kvfit::error::none, "must be NULL: kvfit_round_cancel does it");
    }
    setup.by.cancel = &read->cancel->wish;
  }
  if (!(read->deadline >= 0)) {
    return refuse("call.deadline", kvfit::error::none, "must be seconds from now, or 0");
  }
  if (read->deadline > 0) {
    constexpr double longest = 1e9;  // what the clock's numbers hold
    const auto seconds = std::chrono::duration<double>((std::min)(read->deadline, longest));
    setup.by.deadline = std::chrono::steady_clock::now() +
                        std::chrono::duration_cast<std::chrono::steady_clock::duration>(seconds);
  }
  if (read->progress != nullptr) {
    if (!may_report) {
      return refuse("call.progress", kvfit::error::none, "is of calls over several heads");
    }
    setup.by.progress = [tell = read->progress, context = read->progress_context](
                            int64_t done, int64_t count) { tell(context, done, count); };
  } else if (read->progress_context != nullptr) {
    return refuse("call.progress_context", kvfit::error::none, "there is no progress");
  }
  return setup;
}

}  // namespace kvfit_c
