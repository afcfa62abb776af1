// SPDX-License-Identifier: MIT
#include "kvfit/metal/sources.hpp"

#include <fstream>
#include <string>
#include <string_view>

#include "support/catch.hpp"

namespace {

TEST_CASE("Embedded shaders include nothing but Metal's own headers", "[metal]") {
  for (const auto& [name, text] : kvfit::metal::sources) {
    INFO(name);
    CHECK(text.find("#include <metal_stdlib>") != std::string_view::npos);
    CHECK(text.find("#include \"") == std::string_view::npos);
    CHECK(text.find("#pragma once") == std::string_view::npos);
    CHECK(text.find("kernel") != std::string_view::npos);
  }
}

TEST_CASE("Embedded shaders hold every line of their file, in order", "[metal]") {
  for (const auto& [name, text] : kvfit::metal::sources) {
    INFO(name);
    std::ifstream file(std::string(KVFIT_TEST_KERNELS_DIR "/") + std::string(name) + ".metal");
    REQUIRE(file);
    std::size_t at = 0;
    for (std::string line; std::getline(file, line);) {
      if (line.rfind("#include \"", 0) == 0) continue;
      const std::size_t found = text.find(line + "\n", at);
      if (found == std::string_view::npos) FAIL("without the line: " << line);
      at = found + line.size() + 1;
    }
    CHECK(at <= text.size());
  }
}

}  // namespace
