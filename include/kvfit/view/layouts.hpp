// SPDX-License-Identifier: MIT
/// Engines' caches by name, with every size checked: llama.cpp, vLLM, FlashInfer, TensorRT-LLM,
/// Hugging Face, MLX. docs/layouts.md has a table with a call for each.
///
/// Shapes are row-major, the last axis contiguous, one layer at a time.
#pragma once

#include "kvfit/view/batch_layout.hpp"
#include "kvfit/view/llama_cpp_layout.hpp"
#include "kvfit/view/paged_layout.hpp"
