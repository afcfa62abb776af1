// SPDX-License-Identifier: MIT
#include <cstdio>

#include "kvfit/compact.hpp"
#include "kvfit/core/active_isa.hpp"

int main() {
  const Eigen::MatrixXf keys = Eigen::MatrixXf::Identity(4, 4);
  const Eigen::MatrixXf values = Eigen::MatrixXf::Constant(4, 2, 3.0F);
  const auto fitted = kvfit::compact(keys, values, keys, {.budget = 2});
  if (!fitted) {
    std::fprintf(stderr, "%s\n", fitted.error().message().c_str());
    return 1;
  }
  const auto isa = kvfit::active_isa();
  std::printf("kept %td rows on %.*s\n", static_cast<std::ptrdiff_t>(fitted->keys.rows()),
              static_cast<int>(isa.size()), isa.data());
  return fitted->keys.rows() == 2 && fitted->values.cols() == 2 && !isa.empty() ? 0 : 1;
}
