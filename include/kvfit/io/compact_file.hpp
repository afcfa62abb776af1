// SPDX-License-Identifier: MIT
/// Results on disk: `write_compact_file`, `read_compact_file` (docs/formats.md has the schema).
///
///     std::vector<kvfit::compact_layer> layers = ...;  // views of what was fitted
///     auto done = kvfit::write_compact_file("text.safetensors", {.method = "omp", ...}, layers);
///     auto again = kvfit::read_compact_file("text.safetensors");
#pragma once

#include "kvfit/io/compact_file_read.hpp"
#include "kvfit/io/compact_file_write.hpp"
