// SPDX-License-Identifier: MIT
#include "report/eval_store.hpp"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "cli/output_file.hpp"
#include "report/eval_file.hpp"

namespace kvfit_tool {

namespace {

const capture_facts* find_capture(const evaluation& in, const std::string& name) {
  const auto found = std::find_if(in.captures.begin(), in.captures.end(),
                                  [&](const capture_facts& each) { return each.name == name; });
  return found == in.captures.end() ? nullptr : &*found;
}

}  // namespace

kvfit::result<eval_store> eval_store::open(std::string path, std::uint64_t seed) {
  eval_store made;
  made.path_ = std::move(path);
  std::error_code unknown;
  if (!std::filesystem::exists(made.path_, unknown) && !unknown) return made;
  auto known = read_evaluation(made.path_);
  if (!known) return known.error();
  if (known->seed != seed) {
    return kvfit::error{kvfit::errc::unsupported_file, made.path_, kvfit::error::none,
                        kvfit::error::none,
                        "was measured with seed " + std::to_string(known->seed)};
  }
  made.known_ = std::move(*known);
  return made;
}

kvfit::result<void> eval_store::check(const capture_facts& capture) const {
  const capture_facts* const known = find_capture(known_, capture.name);
  if (known == nullptr || known->fingerprint == capture.fingerprint) return {};
  return kvfit::error{kvfit::errc::unsupported_file, path_, kvfit::error::none, kvfit::error::none,
                      "was measured on another content of " + capture.name};
}

const score_row* eval_store::find(const std::string& fingerprint, const row_plan& wanted) const {
  for (const score_row& row : known_.rows) {
    if (row.ratio == wanted.ratio && row.what == wanted.what &&
        find_capture(known_, row.capture)->fingerprint == fingerprint) {
      return &row;
    }
  }
  return nullptr;
}

kvfit::result<void> eval_store::write(evaluation measured) const {
  for (const capture_facts& known : known_.captures) {
    if (find_capture(measured, known.name) == nullptr) measured.captures.push_back(known);
  }
  const std::size_t own = measured.rows.size();
  for (const score_row& known : known_.rows) {
    const auto end = measured.rows.begin() + static_cast<std::ptrdiff_t>(own);
    const bool is_there = std::any_of(measured.rows.begin(), end, [&](const score_row& row) {
      return row.capture == known.capture && row.ratio == known.ratio && row.what == known.what;
    });
    if (!is_there) measured.rows.push_back(known);
  }
  return write_text(path_, to_json(measured));
}

}  // namespace kvfit_tool
