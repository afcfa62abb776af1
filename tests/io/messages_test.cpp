// SPDX-License-Identifier: MIT
// What readers and writers say of a file: the rule that was broken, once, and what breaks it.
#include <string>
#include <utility>
#include <vector>

#include "io/files.hpp"
#include "kvfit/io/budgets_file.hpp"
#include "kvfit/io/capture.hpp"
#include "kvfit/io/compact_file.hpp"
#include "support/catch.hpp"

namespace {

template <class T>
std::string text_of_refusal(const kvfit::result<T>& refused) {
  return refused ? "accepted" : refused.error().message();
}

/// A capture of one layer whose metadata are these.
std::string capture_message(const std::string& metadata) {
  const std::string tensor = R"({"dtype":"F32","shape":[1,1,1],"data_offsets":)";
  const std::string header = R"({"__metadata__":{)" + metadata + R"(},"layers.0.k":)" + tensor +
                             R"([0,4]},"layers.0.q":)" + tensor + R"([4,8]},"layers.0.v":)" +
                             tensor + "[8,12]}}";
  return text_of_refusal(kvfit::read_capture(kvfit_test::raw_file(header, std::string(12, '\0'))));
}

std::string budgets_message(const std::string& text) {
  return text_of_refusal(kvfit::read_budgets_file(std::as_bytes(std::span(text))));
}

std::string written_message(const kvfit::compact_file_info& info) {
  const kvfit_test::scratch_folder folder;
  return text_of_refusal(kvfit::write_compact_file(folder / "x", info, {}));
}

const std::string format = R"("format":"kvfit-capture",)";

}  // namespace

TEST_CASE("a scale that fp32 has as no normal number is refused for that", "[io][messages]") {
  CHECK(capture_message(format + R"("version":"1","scale":"0.5")") == "accepted");
  CHECK(
      capture_message(format + R"("version":"1","scale":"1e-40")") ==
      "malformed_file: scale (metadata must be a JSON number that is positive and normal in fp32, "
      "is '1e-40')");
  CHECK(capture_message(format + R"("version":"1","scale":"1","soft_cap":"1e-40")") ==
        "malformed_file: soft_cap (metadata must be a JSON number that is positive and normal in "
        "fp32, or 0 for none, is '1e-40')");
  CHECK(written_message({.method = "omp", .next_position = 4, .scale = 1e-40F}) ==
        "invalid_option: scale (must be positive and normal in fp32, is 9.99994610111476e-41)");
}

TEST_CASE("messages about files say each thing once", "[io][messages]") {
  const std::vector<std::pair<std::string, std::string>> table = {
      {capture_message(format + R"("version":"1","scale":"1","version":"1")"),
       "malformed_file: bytes (metadata 'version': appears twice)"},
      {capture_message(R"(},"__metadata__":{)"),
       "malformed_file: bytes ('__metadata__': appears twice)"},
      {capture_message(R"("version":1e999)"),
       "malformed_file: bytes (metadata 'version': a number beyond a double at byte 32 of the "
       "header)"},
      {budgets_message(R"({"L0H0": -0.0})"),
       "malformed_file: bytes (L0H0: a share with a minus sign)"},
      {budgets_message(R"({"L0H0": 1.5})"),
       "malformed_file: bytes (L0H0: a share of 1.5, above 1)"},
      {budgets_message(R"({"L0H0": 0.5, "head": 0.5})"),
       "malformed_file: bytes ('head' is no head's name, such as 'L3H1')"},
      {budgets_message(R"({"L0H0": 1e999})"),
       "malformed_file: bytes (L0H0: a number beyond a double at byte 14)"},
      {written_message({.method = "omp", .next_position = -1, .scale = 1}),
       "invalid_option: next_position: -1, limit 9007199254740992 (must not be negative, and "
       "within "
       "2^53)"},
      {written_message(
           {.method = "omp", .next_position = 4, .scale = 1, .storage = kvfit::dtype::int8}),
       "invalid_option: storage: " + std::to_string(static_cast<int>(kvfit::dtype::int8)) +
           " (must be fp32, fp16 or bf16)"},
  };
  for (const auto& [message, expected] : table) CHECK(message == expected);
}
