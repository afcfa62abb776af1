// SPDX-License-Identifier: MIT
/// The state of a compact cache, to be saved and restored: `write_state`, `read_state`
/// (docs/formats.md has the format).
///
///     auto saved = kvfit::write_state("session.kvfit", cache, {.logical_length = 8192});
///     auto again = kvfit::read_state("session.kvfit");  // ->cache, ->info
#pragma once

#include "kvfit/io/state_read.hpp"
#include "kvfit/io/state_write.hpp"
