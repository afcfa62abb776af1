// SPDX-License-Identifier: MIT
/// The file of a sweep that can be interrupted: rows it has are not measured again.
#pragma once

#include <string>

#include "measure/evaluation.hpp"

namespace kvfit_tool {

class eval_store {
 public:
  /// What the file at `path` holds, if there is one. `unsupported_file` and `malformed_file` as
  /// `read_evaluation`; `unsupported_file` too where other seeds were at work.
  static kvfit::result<eval_store> open(std::string path, std::uint64_t seed);

  /// `unsupported_file` where the file has rows of another content under the capture's name.
  [[nodiscard]] kvfit::result<void> check(const capture_facts& capture) const;

  /// The row measured on a capture of that content, under whatever name, or none.
  [[nodiscard]] const score_row* find(const std::string& fingerprint, const row_plan& wanted) const;

  /// Replaces the file by `measured` and, behind that, whatever else it held.
  [[nodiscard]] kvfit::result<void> write(evaluation measured) const;

 private:
  std::string path_;
  evaluation known_;
};

}  // namespace kvfit_tool
