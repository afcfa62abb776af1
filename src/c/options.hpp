// SPDX-License-Identifier: MIT
// Options of C: those of one head, a cache and a rolling cache in one object.
#pragma once

#include <kvfit/c/kvfit.h>

#include <kvfit/cache/rolling_options.hpp>

struct kvfit_options {
  kvfit::compact_options head;     // of kvfit_compact
  kvfit::cache_options cache;      // its `head` is not used
  kvfit::rolling_options rolling;  // its `cache` is not used
};

struct kvfit_cancel {
  kvfit::cancellation wish;
};

namespace kvfit_c {

inline kvfit::cache_options cache_options_of(const kvfit_options& from) {
  kvfit::cache_options options = from.cache;
  options.head = from.head;
  return options;
}

inline kvfit::rolling_options rolling_options_of(const kvfit_options& from) {
  kvfit::rolling_options options = from.rolling;
  options.cache = cache_options_of(from);
  return options;
}

}  // namespace kvfit_c
