// SPDX-License-Identifier: MIT
/// The version of kvfit; the one place it is written. CMake reads these three lines.
#pragma once

#define KVFIT_VERSION_MAJOR 0
#define KVFIT_VERSION_MINOR 2
#define KVFIT_VERSION_PATCH 0

#define KVFIT_VERSION_JOIN_(major, minor, patch) #major "." #minor "." #patch
#define KVFIT_VERSION_JOIN(major, minor, patch) KVFIT_VERSION_JOIN_(major, minor, patch)

namespace kvfit {

/// "major.minor.patch", as stored in result files.
inline constexpr const char* version =
    KVFIT_VERSION_JOIN(KVFIT_VERSION_MAJOR, KVFIT_VERSION_MINOR, KVFIT_VERSION_PATCH);

}  // namespace kvfit
