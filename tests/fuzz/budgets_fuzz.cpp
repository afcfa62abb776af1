// SPDX-License-Identifier: MIT
// Any bytes as a budgets file: an error, or shares that are written and read back as the same.
#include <cstddef>
#include <cstdint>
#include <span>

#include "fuzz/check.hpp"
#include "kvfit/io/budgets_file.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using kvfit_fuzz::promise;
  const auto shares = kvfit::read_budgets_file(std::as_bytes(std::span(data, size)));
  if (!shares) return 0;
  promise(!shares->empty());
  const std::string text = kvfit::io_detail::budgets_text(*shares);
  const auto again = kvfit::read_budgets_file(std::as_bytes(std::span(text)));
  promise(again.has_value() && again->size() == shares->size());
  for (std::size_t i = 0; i < shares->size(); ++i) {
    const kvfit::head_share& share = (*shares)[i];
    promise(share.id == (*again)[i].id && share.share == (*again)[i].share);
    promise(share.id.layer >= 0 && share.id.head >= 0 && share.share >= 0 && share.share <= 1);
    promise(i == 0 || (*shares)[i - 1].id < share.id);
  }
  return 0;
}
