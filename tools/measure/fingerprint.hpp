// SPDX-License-Identifier: MIT
/// A number that tells one capture's content from another's, wherever the file lies.
#pragma once

#include <string>

#include "kvfit/io/capture.hpp"

namespace kvfit_tool {

/// 16 hexadecimal digits made of every tensor (name, type, shape, bytes) and all metadata. Against
/// mistakes, not against forgery: it is no cryptographic hash.
std::string fingerprint_of(const kvfit::capture& capture);

}  // namespace kvfit_tool
