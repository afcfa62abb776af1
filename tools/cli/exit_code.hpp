// SPDX-License-Identifier: MIT
/// What the tool's exit codes mean; --help says the same.
#pragma once

namespace kvfit_tool {

inline constexpr int exit_done = 0;
inline constexpr int exit_failed =
    1;  ///< a file or a computation failed, or a requirement is not met
inline constexpr int exit_usage = 2;          ///< wrong arguments
inline constexpr int exit_interrupted = 130;  ///< Ctrl-C: 128 + SIGINT, as shells count it

}  // namespace kvfit_tool
