// SPDX-License-Identifier: MIT
#include <cstdio>
#include <cstring>

#include "kvfit/core/active_isa.hpp"
#include "kvfit/core/version.hpp"
#include "kvfit/view/row_view.hpp"

#ifdef HAS_KVFIT_C
#include "kvfit/c/kvfit.h"
#endif

int main() {
#ifdef HAS_KVFIT_C
  if (std::strcmp(kvfit_version(), kvfit::version) != 0) return 1;
#endif
  const Eigen::MatrixXf keys = Eigen::MatrixXf::Identity(3, 2);
  const kvfit::row_view view = keys;
  const auto isa = kvfit::active_isa();  // with kvfit::compiled it asks the library
  std::printf("kvfit %s on %.*s sees %td rows\n", kvfit::version, static_cast<int>(isa.size()),
              isa.data(), static_cast<std::ptrdiff_t>(view.rows()));
  return view.rows() == 3 && view(1, 1) == 1.0F && !isa.empty() ? 0 : 1;
}
