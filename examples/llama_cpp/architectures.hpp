// SPDX-License-Identifier: MIT
/// Which architectures the adaptor was tried with, and why others are refused.
#pragma once

#include <llama.h>

#include <string>
#include <string_view>

#include "kvfit/core/result.hpp"

namespace llama_cpp {

/// `general.architecture` of a model; empty where it says none.
std::string architecture_of(const llama_model* model);

/// Whether tests show that models of it are read and compacted as they should be.
bool is_tried(std::string_view architecture);

/// Errors: `unsupported_file` with the architecture's name and the reason, for what can't be
/// compacted (recurrent models, encoders), for MLA, and for every architecture that was not tried.
kvfit::result<void> check_architecture(const llama_model* model);

}  // namespace llama_cpp
