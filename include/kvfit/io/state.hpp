// SPDX-License-Identifier: MIT
/// The state of a compact cache, to be saved and restored: `write_state`, `read_state`
/// (docs/formats.md has the format).
///
///     auto saved = kvfit::write_state("session.kvfit", cache, {.next_position = 8192});
///     auto again = kvfit::read_state("session.kvfit");  // ->cache, ->info
///
/// An engine may ask more: `read_state(path, {.fingerprint = hash})` refuses what was saved for
/// another model, and `expected_setup::layers` for another rule or rotation.
#pragma once

#include "kvfit/io/state_read.hpp"
#include "kvfit/io/state_write.hpp"
