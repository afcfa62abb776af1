// SPDX-License-Identifier: MIT
#include "kvfit/io/budgets_file.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "io/files.hpp"
#include "kvfit/cache/allocate.hpp"
#include "kvfit/core/random.hpp"
#include "support/catch.hpp"

using kvfit::errc;
using kvfit::head_share;
using kvfit::read_budgets_file;
using kvfit::write_budgets_file;
using kvfit_test::scratch_folder;

namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

/// The refusal of a text, as bytes and as a file alike.
kvfit::error refusal(const std::string& text) {
  INFO(text.substr(0, 200));
  const auto read = read_budgets_file(bytes_of(text));
  REQUIRE_FALSE(read.has_value());
  const scratch_folder folder;
  kvfit_test::put_bytes(folder / "budgets.json", bytes_of(text));
  const auto from_file = read_budgets_file(folder / "budgets.json");
  REQUIRE_FALSE(from_file.has_value());
  CHECK(from_file.error().code == read.error().code);
  CHECK(from_file.error().detail == read.error().detail);
  INFO(read.error().message());
  return read.error();
}

void check_malformed(const std::string& text, const std::string& part_of_detail) {
  const auto cause = refusal(text);
  INFO(text.substr(0, 200) << ": " << cause.detail);
  CHECK(cause.code == errc::malformed_file);
  CHECK(cause.detail.find(part_of_detail) != std::string::npos);
}

}  // namespace

TEST_CASE("a published budgets file is read, ascending by layer and head", "[io][budgets]") {
  const auto shares = read_budgets_file(
      bytes_of(" {\"L10H0\": 0.25, \"L2H1\":1e-3,\n\t\"L2H0\": 0, \"L0H7\": 1}\r\n"));
  REQUIRE(shares);
  REQUIRE(shares->size() == 4);
  const std::vector<head_share> wanted = {
      {{0, 7}, 1}, {{2, 0}, 0}, {{2, 1}, 1e-3}, {{10, 0}, 0.25}};
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK((*shares)[i].id == wanted[i].id);
    CHECK((*shares)[i].share == wanted[i].share);
  }
}

TEST_CASE("what is written is read again to the bit, whatever the order", "[io][budgets]") {
  kvfit::random_source random(3);
  std::vector<head_share> shares;
  for (kvfit::index_t l = 35; l >= 0; --l) {
    for (kvfit::index_t h = 0; h < 8; ++h) shares.push_back({{l, h}, random.uniform() / 288});
  }
  shares.push_back({{36, 0}, 5e-324});
  shares.push_back({{36, 1}, 0});
  const scratch_folder folder;
  REQUIRE(write_budgets_file(folder / "a.json", shares));
  const auto read = read_budgets_file(folder / "a.json");
  REQUIRE(read);
  REQUIRE(read->size() == shares.size());
  for (const head_share& s : shares) {
    const auto at = static_cast<std::size_t>(8 * s.id.layer + s.id.head);
    CHECK((*read)[at].id == s.id);
    CHECK((*read)[at].share == s.share);
  }
  REQUIRE(write_budgets_file(folder / "b.json", *read));
  CHECK(kvfit_test::file_bytes(folder / "a.json") == kvfit_test::file_bytes(folder / "b.json"));
}

TEST_CASE("a file's shares become rows by allocate", "[io][budgets]") {
  const std::vector<kvfit::head_rows> heads = {{{0, 0}, 100}, {{0, 1}, 100}};
  const auto shares = read_budgets_file(bytes_of(R"({"L0H1": 0.75, "L0H0": 0.25})"));
  REQUIRE(shares);
  CHECK(*kvfit::allocate(heads, 40, kvfit::budgets::given{*shares}) ==
        std::vector<kvfit::index_t>{10, 30});
}

TEST_CASE("§9.30 keys are heads' names and nothing else", "[io][budgets]") {
  for (const char* key : {"",
                          "L",
                          "H",
                          "L0",
                          "H0",
                          "LH",
                          "L0H",
                          "LH0",
                          "l0h0",
                          "L0h0",
                          "L00H0",
                          "L0H00",
                          "L-1H0",
                          "L+1H0",
                          "L0H-0",
                          "L0H0 ",
                          " L0H0",
                          "L0H0H0",
                          "L0x1H0",
                          "L1.0H0",
                          "L1e1H0",
                          "L9223372036854775808H0",
                          "L0H99999999999999999999",
                          "__metadata__",
                          "layers"}) {
    check_malformed("{\"" + std::string(key) + "\": 0.5}", "is no head's name");
  }
  CHECK(read_budgets_file(bytes_of(R"({"L9223372036854775807H0": 0.5})")).has_value());
}

TEST_CASE("§9.30 shares are numbers from 0 to 1", "[io][budgets]") {
  for (const char* share : {"1.0000001", "2", "1e30", "18446744073709551616"}) {
    check_malformed(R"({"L0H0": )" + std::string(share) + "}", "L0H0: a share of ");
  }
  for (const char* share : {"-0.0", "-1e-300", "-1", "-0"}) {
    check_malformed(R"({"L0H0": )" + std::string(share) + "}", "L0H0: a share with a minus sign");
  }
  for (const char* share : {"1e999", "1e309", "NaN", "Infinity", "nan", "0x1", ".5", "+1", "01"}) {
    check_malformed(R"({"L0H0": )" + std::string(share) + "}", "at byte");
  }
  check_malformed(R"({"L0H0": null})", "null");
  check_malformed(R"({"L0H0": true})", "true or false");
  check_malformed(R"({"L0H0": "0.5"})", "a text");
  check_malformed(R"({"L0H0": 0, "L0H1": 0.0})", "all shares are 0");
}

TEST_CASE("§9.30 the object is flat, and each head stands once", "[io][budgets]") {
  check_malformed(R"({"L0H0": {"L0H1": 0.5}})", "an object");
  check_malformed(R"({"L0H0": [0.5]})", "an array");
  check_malformed("[0.5]", "'{'");
  check_malformed("0.5", "'{'");
  check_malformed("", "'{'");
  check_malformed("{}", "no head at all");
  check_malformed(R"({"L0H0": 0.5, "L1H0": 0.1, "L0H0": 0.5})", "L0H0 appears twice");
  check_malformed(R"({"L0H0": 0.5} {"L0H1": 0.5})", "at byte");
  check_malformed(R"({"L0H0": 0.5,})", "at byte");
  check_malformed("\xEF\xBB\xBF{\"L0H0\": 0.5}", "'{'");
  check_malformed(std::string("{\"L0H0\": 0.5}") + '\0', "NUL");
  check_malformed("{\"L0H\xFF\": 0.5}", "at byte");
  // Depth that would exhaust the stack of a parser that calls itself.
  check_malformed("{\"L0H0\": " + std::string(100000, '['), "an array");
  std::string nested;
  for (int i = 0; i < 100000; ++i) nested += "{\"L0H0\":";
  check_malformed(nested, "an object");
}

TEST_CASE("§9.20 every truncation and every changed byte is refused or still keeps the rules",
          "[io][budgets]") {
  const std::string good = R"({"L0H0": 0.25, "L0H1": 5e-1, "L12H3": 1})";
  for (std::size_t size = 0; size < good.size(); ++size) {
    CHECK_FALSE(read_budgets_file(bytes_of(good.substr(0, size))).has_value());
  }
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string text = good;
      text[at] = static_cast<char>(byte);
      const auto shares = read_budgets_file(bytes_of(text));
      if (!shares) continue;
      REQUIRE_FALSE(shares->empty());
      for (std::size_t i = 0; i < shares->size(); ++i) {
        REQUIRE((*shares)[i].share >= 0);
        REQUIRE((*shares)[i].share <= 1);
        if (i > 0) REQUIRE((*shares)[i - 1].id < (*shares)[i].id);
      }
    }
  }
}

TEST_CASE("§9.20 files beyond the limit and what is no file are refused unread", "[io][budgets]") {
  check_malformed(std::string(kvfit::max_budgets_file + 1, ' '), "more than the limit");
  const scratch_folder folder;
  // A length alone: nothing of it is there to be read.
  kvfit_test::put_bytes(folder / "sparse.json", {});
  std::filesystem::resize_file(folder / "sparse.json", std::uintmax_t{1} << 40);
  CHECK(read_budgets_file(folder / "sparse.json").error().code == errc::malformed_file);
  CHECK(read_budgets_file(folder / "none.json").error().code == errc::file_unreadable);
  CHECK(read_budgets_file(folder / "").error().code == errc::file_unreadable);
}

TEST_CASE("what would not be read is not written", "[io][budgets]") {
  const scratch_folder folder;
  const auto cause = [&](const std::vector<head_share>& shares) {
    const auto written = write_budgets_file(folder / "budgets.json", shares);
    REQUIRE_FALSE(written.has_value());
    CHECK(folder.count() == 0);
    return written.error().code;
  };
  CHECK(cause({}) == errc::invalid_option);
  CHECK(cause({{{0, 0}, 0.5}, {{0, 0}, 0.5}}) == errc::invalid_option);
  CHECK(cause({{{0, -1}, 0.5}}) == errc::invalid_option);
  CHECK(cause({{{0, 0}, 0}}) == errc::invalid_option);
  for (const double bad : {-0.1, 1.1, std::nan(""), std::numeric_limits<double>::infinity()}) {
    CHECK(cause({{{0, 0}, 0.5}, {{0, 1}, bad}}) == errc::invalid_option);
  }
  const std::vector<head_share> good = {{{0, 0}, 0.5}};
  CHECK(write_budgets_file(folder / "nowhere" / "budgets.json", good).error().code ==
        errc::file_unwritable);
}
