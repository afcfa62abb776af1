// SPDX-License-Identifier: MIT
#include <cstdio>
#include <string_view>

#include "kvfit/core/result.hpp"
#include "kvfit/core/version.hpp"
#include "kvfit/view/row_view.hpp"

int main() {
  const Eigen::MatrixXf keys = Eigen::MatrixXf::Identity(3, 2);
  const kvfit::row_view view = keys;
  std::printf("kvfit %s sees %td rows\n", kvfit::version, static_cast<std::ptrdiff_t>(view.rows()));
  const bool is_expected = std::string_view(kvfit::version) == EXPECT_VERSION;
  return is_expected && view.rows() == 3 && view(1, 1) == 1.0F ? 0 : 1;
}
