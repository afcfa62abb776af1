// SPDX-License-Identifier: MIT
/// Safetensors files: `read_safetensors`, `find_tensor`, `write_safetensors`.
///
///     auto file = kvfit::read_safetensors("model.safetensors");
///     if (!file) return file.error();
///     const kvfit::tensor_view* wq = kvfit::find_tensor(*file, "layers.0.wq");
#pragma once

#include "kvfit/io/safetensors_read.hpp"
#include "kvfit/io/safetensors_write.hpp"
