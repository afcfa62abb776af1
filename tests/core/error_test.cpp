// SPDX-License-Identifier: MIT
#include "kvfit/core/error.hpp"

#include <set>

#include "kvfit/core/version.hpp"
#include "support/catch.hpp"

namespace kvfit_test {

using kvfit::errc;
using kvfit::error;

TEST_CASE("Every error code has a name of its own", "[core][error]") {
  // Both ends and some between: a code added without its name shifts them.
  CHECK(name(errc::shape_mismatch) == "shape_mismatch");
  CHECK(name(errc::empty_input) == "empty_input");
  CHECK(name(errc::null_data) == "null_data");
  CHECK(name(errc::non_finite) == "non_finite");
  CHECK(name(errc::budget_out_of_range) == "budget_out_of_range");
  CHECK(name(errc::invalid_option) == "invalid_option");
  CHECK(name(errc::invalid_position) == "invalid_position");
  CHECK(name(errc::all_masked) == "all_masked");
  CHECK(name(errc::storage_overflow) == "storage_overflow");
  CHECK(name(errc::memory_cap_exceeded) == "memory_cap_exceeded");
  CHECK(name(errc::out_of_memory) == "out_of_memory");
  CHECK(name(errc::file_unreadable) == "file_unreadable");
  CHECK(name(errc::file_unwritable) == "file_unwritable");
  CHECK(name(errc::malformed_file) == "malformed_file");
  CHECK(name(errc::unsupported_file) == "unsupported_file");
  CHECK(name(errc::missing_entry) == "missing_entry");
  CHECK(name(errc::cancelled) == "cancelled");
  CHECK(name(errc::policy_threw) == "policy_threw");
  CHECK(name(errc::communication_failed) == "communication_failed");
  CHECK(name(errc::untied_values) == "untied_values");
  CHECK(name(errc::device_timeout) == "device_timeout");

  std::set<std::string_view> names;
  for (int code = 0; code <= static_cast<int>(errc::device_timeout); ++code) {
    names.insert(name(static_cast<errc>(code)));
  }
  CHECK(names.size() == static_cast<std::size_t>(errc::device_timeout) + 1);
  CHECK(names.count("unknown") == 0);
  CHECK(name(static_cast<errc>(static_cast<int>(errc::device_timeout) + 1)) == "unknown");
  CHECK(name(static_cast<errc>(255)) == "unknown");
}

TEST_CASE("An error's message holds what is known and nothing else", "[core][error]") {
  CHECK(error{errc::shape_mismatch, "values", 12, 16, "rows must equal the keys'"}.message() ==
        "shape_mismatch: values: 12, expected 16 (rows must equal the keys')");
  CHECK(error{errc::shape_mismatch, "values", 12, 16}.message() ==
        "shape_mismatch: values: 12, expected 16");
  CHECK(error{errc::null_data, "keys"}.message() == "null_data: keys");
  CHECK(error{errc::cancelled}.message() == "cancelled");
  CHECK(error{errc::invalid_option, "rule.window", -3, 0}.message() ==
        "invalid_option: rule.window: -3, limit 0");
  CHECK(error{errc::budget_out_of_range, "budget", 0, 12, "must be at least 1"}.message() ==
        "budget_out_of_range: budget: 0, limit 12 (must be at least 1)");
  CHECK(error{errc::cancelled, "items", 3, 8}.message() == "cancelled: items: 3, of 8");
  CHECK(error{errc::malformed_file, "cache.st", error::none, error::none, "not JSON"}.message() ==
        "malformed_file: cache.st (not JSON)");
}

TEST_CASE("A place is told as a column, not as something expected", "[core][error]") {
  CHECK(error{errc::non_finite, "keys", 7, 3}.message() == "non_finite: keys: 7, column 3");
  CHECK(error{errc::storage_overflow, "values", 0, 0}.message() ==
        "storage_overflow: values: 0, column 0");
  CHECK(error{errc::untied_values, "values", 5, 2}.message() ==
        "untied_values: values: 5, column 2");
}

TEST_CASE("A limit is told as a limit and a cap as what is allowed, not as something expected",
          "[core][error]") {
  CHECK(error{errc::invalid_position, "rows", 12, 10, "must ascend within the cache"}.message() ==
        "invalid_position: rows: 12, limit 10 (must ascend within the cache)");
  CHECK(error{errc::memory_cap_exceeded, "memory", 4096, 100}.message() ==
        "memory_cap_exceeded: memory: 4096, allowed 100");
}

TEST_CASE("The size 0 is a size", "[core][error]") {
  CHECK(error{errc::empty_input, "keys", 0}.message() == "empty_input: keys: 0");
  CHECK(error{errc::empty_input, "keys", -1}.message() == "empty_input: keys: -1");
}

TEST_CASE("The version is written as its three numbers", "[core][version]") {
  CHECK(std::string(kvfit::version) == std::to_string(KVFIT_VERSION_MAJOR) + "." +
                                           std::to_string(KVFIT_VERSION_MINOR) + "." +
                                           std::to_string(KVFIT_VERSION_PATCH));
}

}  // namespace kvfit_test
