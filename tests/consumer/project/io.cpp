// SPDX-License-Identifier: MIT
#include <cstdio>

#include "kvfit/io/budgets_file.hpp"

int main() {
  const auto shares = kvfit::read_budgets_file("no such folder/budgets.json");
  if (shares) return 1;
  std::printf("%s\n", shares.error().message().c_str());
  return shares.error().code == kvfit::errc::file_unreadable ? 0 : 1;
}
