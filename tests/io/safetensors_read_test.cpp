// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "io/files.hpp"
#include "kvfit/io/safetensors.hpp"
#include "support/catch.hpp"

using kvfit::errc;
using kvfit::read_safetensors;
using kvfit_test::bytes;
using kvfit_test::raw_file;

namespace {

std::string repeated(const std::string& piece, int times) {
  std::string text;
  for (int i = 0; i < times; ++i) text += piece;
  return text;
}

/// A header with one tensor `a`.
std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

struct bad_file {
  const char* what;
  bytes content;
  const char* detail;  ///< must be part of the error's detail
  errc code = errc::malformed_file;
};

std::vector<bad_file> bad_files() {
  const std::string four = "abcd";
  const std::string u8 = one("U8", "[4]", "[0,4]");
  const std::string deep = repeated("[", 100'000);
  const auto two = [&](const std::string& a, const std::string& b) {
    return R"({"a":{"dtype":"U8","shape":[2],"data_offsets":)" + a +
           R"(},"b":{"dtype":"U8","shape":[2],"data_offsets":)" + b + "}}";
  };
  return {
      {"an empty file", {}, "has 0 bytes"},
      {"half a length", bytes(5), "has 5 bytes"},
      {"a length alone", bytes(8), "does not start with '{'"},
      {"a header longer than the file", raw_file(u8.size() + 5, u8, four), "in a file of"},
      {"a length of 2^63", raw_file(std::uint64_t{1} << 63U, u8, four), "more than the limit"},
      {"a length of 2^64 - 1", raw_file(~std::uint64_t{0}, u8, four), "more than the limit"},
      {"a length of 2^64 - 8", raw_file(~std::uint64_t{7}, u8, four), "more than the limit"},
      {"a length just above the limit", raw_file(100'000'001, u8, four), "more than the limit"},
      {"a length at the limit", raw_file(100'000'000, u8, four), "in a file of"},
      {"a header cut short", raw_file(u8.size() - 3, u8, four), "not JSON"},
      {"no JSON", raw_file("{hello}", ""), "not JSON at byte 2"},
      {"an array at the root", raw_file("[]", ""), "does not start with '{'"},
      {"a text at the root", raw_file("\"a\"", ""), "does not start with '{'"},
      {"space before the header", raw_file(" {}", ""), "does not start with '{'"},
      {"a byte-order mark", raw_file("\xEF\xBB\xBF{}", ""), "does not start with '{'"},
      {"text after the header", raw_file("{}{}", ""), "not JSON"},
      {"a NUL and more after the header", raw_file(std::string("{}\0{}", 5), ""), "NUL"},
      {"a comment", raw_file("{/* */}", ""), "not JSON"},
      {"a comma too many", raw_file(R"({"__metadata__":{},})", ""), "not JSON"},
      {"a name that is no UTF-8",
       raw_file("{\"\xFF\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", four),
       "not JSON"},
      {"a lone surrogate", raw_file(R"({"\ud800":{}})", ""), "not JSON"},
      {"deep nesting", raw_file("{\"a\":" + deep, ""), "an array where there must be an object"},
      {"deep nesting in a shape", raw_file("{\"a\":{\"shape\":" + deep, ""), "an array where"},
      {"deep nesting of objects", raw_file(repeated("{\"a\":", 100'000), ""), "unknown field"},
      {"deep nesting of objects in a field", raw_file("{\"a\":" + repeated("{\"shape\":", 99), ""),
       "an object where there must be an array"},
      {"deep nesting in the metadata", raw_file("{\"__metadata__\":{\"a\":" + deep, ""),
       "an array where there must be a text"},

      {"a tensor that is a number", raw_file(R"({"a":1})", ""), "a number where"},
      {"a tensor that is null", raw_file(R"({"a":null})", ""), "null where"},
      {"a tensor that is true", raw_file(R"({"a":true})", ""), "true or false where"},
      {"a tensor that is a text", raw_file(R"({"a":"U8"})", ""), "a text where"},
      {"an empty tensor entry", raw_file(R"({"a":{}})", ""), "needs dtype, shape"},
      {"no dtype", raw_file(R"({"a":{"shape":[4],"data_offsets":[0,4]}})", four), "needs dtype"},
      {"no shape", raw_file(R"({"a":{"dtype":"U8","data_offsets":[0,4]}})", four), "needs dtype"},
      {"no offsets", raw_file(R"({"a":{"dtype":"U8","shape":[4]}})", four), "needs dtype"},
      {"an unknown field",
       raw_file(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"strides":[1]}})", four),
       "unknown field 'strides'"},
      {"a field twice",
       raw_file(R"({"a":{"dtype":"U8","shape":[4],"shape":[4],"data_offsets":[0,4]}})", four),
       "field 'shape' appears twice"},
      {"a name twice",
       raw_file(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                R"("a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
                four),
       "'a': the name appears twice"},
      {"a name twice, once escaped",
       raw_file(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                R"("\u0061":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
                four),
       "'a': the name appears twice"},

      {"an unknown dtype", raw_file(one("U7", "[4]", "[0,4]"), four), "dtype 'U7' is not handled",
       errc::unsupported_file},
      {"a dtype in lower case", raw_file(one("u8", "[4]", "[0,4]"), four), "not handled",
       errc::unsupported_file},
      {"a packed dtype", raw_file(one("F4", "[8]", "[0,4]"), four), "not handled",
       errc::unsupported_file},
      {"a dtype that is a number",
       raw_file(R"({"a":{"dtype":1,"shape":[4],"data_offsets":[0,4]}})", four), "a number where"},
      {"a shape that is a number", raw_file(one("U8", "4", "[0,4]"), four), "a number where"},
      {"a shape that is a text", raw_file(one("U8", "\"4\"", "[0,4]"), four), "a text where"},
      {"a shape that is an object", raw_file(one("U8", "{}", "[0,4]"), four), "an object where"},
      {"a text in a shape", raw_file(one("U8", "[\"4\"]", "[0,4]"), four), "a text where"},
      {"null in a shape", raw_file(one("U8", "[null]", "[0,4]"), four), "null where"},
      {"a negative dimension", raw_file(one("U8", "[-4]", "[0,4]"), four), "negative"},
      {"minus zero", raw_file(one("U8", "[-0]", "[0,0]"), ""), "negative"},
      {"two negative dimensions", raw_file(one("U8", "[-2,-2]", "[0,4]"), four), "negative"},
      {"a fraction", raw_file(one("U8", "[4.0]", "[0,4]"), four), "no integer"},
      {"an exponent", raw_file(one("U8", "[4e0]", "[0,4]"), four), "no integer"},
      {"a number beyond 64 bits", raw_file(one("U8", "[18446744073709551616]", "[0,4]"), four),
       "no integer"},
      {"a number beyond double", raw_file(one("U8", "[1e999]", "[0,4]"), four),
       "a number beyond a double at byte"},
      {"a dimension of 2^63", raw_file(one("U8", "[9223372036854775808]", "[0,4]"), four),
       "too large"},
      {"a shape of 2^40 x 2^40",
       raw_file(one("U8", "[1099511627776,1099511627776]", "[0,4]"), four), "overflows"},
      {"a product that wraps to 4 bytes",
       raw_file(one("U8", "[4294967296,4294967296,4]", "[0,4]"), four), "overflows"},
      {"a product that wraps to 0", raw_file(one("U8", "[4294967296,4294967296]", "[0,0]"), ""),
       "overflows"},
      {"an element size that overflows",
       raw_file(one("F64", "[4611686018427387904]", "[0,4]"), four), "overflows"},
      {"empty, with strides that overflow",
       raw_file(one("U8", "[0,4611686018427387904,4]", "[0,0]"), ""), "overflows"},

      {"one offset", raw_file(one("U8", "[4]", "[0]"), four), "needs two numbers"},
      {"no offset", raw_file(one("U8", "[4]", "[]"), four), "needs two numbers"},
      {"three offsets", raw_file(one("U8", "[4]", "[0,4,4]"), four), "more than two"},
      {"offsets that are a text", raw_file(one("U8", "[4]", "\"0,4\""), four), "a text where"},
      {"a negative offset", raw_file(one("U8", "[4]", "[-4,0]"), four), "negative"},
      {"reversed offsets", raw_file(one("U8", "[4]", "[4,0]"), four), "run backwards"},
      {"offsets beyond the data", raw_file(one("U8", "[5]", "[0,5]"), four), "outside the 4"},
      {"offsets of 2^64 - 1",
       raw_file(one("U8", "[1]", "[18446744073709551614,18446744073709551615]"), four), "outside"},
      {"fewer bytes than the shape needs", raw_file(one("F32", "[2]", "[0,4]"), four),
       "need 8 bytes"},
      {"more bytes than the shape needs", raw_file(one("U8", "[2]", "[0,4]"), four),
       "need 2 bytes"},
      {"a scalar of no bytes", raw_file(one("U8", "[]", "[0,0]"), ""), "need 1 bytes"},
      {"overlapping tensors", raw_file(two("[0,2]", "[1,3]"), "abc"), "'b': overlaps"},
      {"two tensors in one place", raw_file(two("[0,2]", "[0,2]"), "ab"), "'b': overlaps"},
      {"a hole between tensors", raw_file(two("[0,2]", "[3,5]"), "abcde"), "'b': a hole"},
      {"a hole before the first", raw_file(two("[2,4]", "[4,6]"), "abcdef"), "'a': a hole"},
      {"bytes after the last", raw_file(two("[0,2]", "[2,4]"), "abcde"), "cover 4 of 5"},
      {"data without tensors", raw_file("{}", four), "cover 0 of 4"},
      {"an empty tensor within another",
       raw_file(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                R"("e":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
                four),
       "'e': overlaps"},

      {"metadata that is a text", raw_file(R"({"__metadata__":"x"})", ""), "a text where"},
      {"metadata that is null", raw_file(R"({"__metadata__":null})", ""), "null where"},
      {"metadata that is an array", raw_file(R"({"__metadata__":[]})", ""), "an array where"},
      {"a number in the metadata", raw_file(R"({"__metadata__":{"n":1}})", ""),
       "metadata 'n': a number where there must be a text"},
      {"null in the metadata", raw_file(R"({"__metadata__":{"n":null}})", ""), "null where"},
      {"an object in the metadata", raw_file(R"({"__metadata__":{"n":{}}})", ""),
       "an object where"},
      {"a metadata key twice", raw_file(R"({"__metadata__":{"n":"1","n":"1"}})", ""),
       "metadata 'n': appears twice"},
      {"metadata twice", raw_file(R"({"__metadata__":{},"__metadata__":{}})", ""),
       "'__metadata__': appears twice"},
  };
}

}  // namespace

TEST_CASE("every malformed safetensors file is refused with a detail that says why", "[io]") {
  for (const bad_file& bad : bad_files()) {
    INFO(bad.what);
    const auto read = read_safetensors(bad.content);
    REQUIRE_FALSE(read.has_value());
    INFO(read.error().message());
    CHECK(read.error().code == bad.code);
    CHECK(read.error().detail.find(bad.detail) != std::string::npos);
  }
}

TEST_CASE("a file on disk is judged like the same bytes in memory", "[io]") {
  const kvfit_test::scratch_folder folder;
  const auto path = folder / "bad.safetensors";
  for (const bad_file& bad : bad_files()) {
    INFO(bad.what);
    kvfit_test::put_bytes(path, bad.content);
    const auto read = read_safetensors(path);
    REQUIRE_FALSE(read.has_value());
    CHECK(read.error().code == bad.code);
    CHECK(read.error().argument == path.string());
    CHECK(read.error().detail == read_safetensors(bad.content).error().detail);
  }
}

TEST_CASE("what the format allows is read", "[io]") {
  SECTION("no tensors at all, padded with spaces") {
    const auto read = read_safetensors(raw_file("{}      ", ""));
    REQUIRE(read.has_value());
    CHECK(read->tensors.empty());
    CHECK(read->metadata.empty());
  }
  SECTION("padding by other white space") {
    CHECK(read_safetensors(raw_file("{} \t\r\n", "")).has_value());
  }
  SECTION("tensors of no elements, and scalars") {
    const auto read =
        read_safetensors(raw_file(R"({"e":{"dtype":"F32","shape":[3,0],"data_offsets":[0,0]},)"
                                  R"("s":{"dtype":"U8","shape":[],"data_offsets":[0,1]},)"
                                  R"("z":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}})",
                                  "x"));
    REQUIRE(read.has_value());
    CHECK(find_tensor(*read, "e")->shape == std::vector<kvfit::index_t>{3, 0});
    CHECK(find_tensor(*read, "e")->bytes.empty());
    CHECK(find_tensor(*read, "s")->shape.empty());
    REQUIRE(find_tensor(*read, "s")->bytes.size() == 1);
    CHECK(find_tensor(*read, "s")->bytes[0] == std::byte{'x'});
    CHECK(find_tensor(*read, "z") != nullptr);
  }
  SECTION("fields and tensors in any order, names with escapes, metadata last") {
    const auto read =
        read_safetensors(raw_file(R"({"b\"\u00e9":{"data_offsets":[2,4],"shape":[2],"dtype":"I8"},)"
                                  R"("a":{"shape":[1],"dtype":"F16","data_offsets":[0,2]},)"
                                  R"("__metadata__":{"k":"v\n"}})",
                                  "abcd"));
    REQUIRE(read.has_value());
    REQUIRE(find_tensor(*read, "b\"\xC3\xA9") != nullptr);
    CHECK(find_tensor(*read, "b\"\xC3\xA9")->bytes[0] == std::byte{'c'});
    CHECK(read->metadata.at("k") == "v\n");
    CHECK(find_tensor(*read, "c") == nullptr);
    CHECK(find_tensor(*read, "") == nullptr);
  }
}

TEST_CASE("every element type is known by name and size", "[io]") {
  struct known {
    const char* name;
    std::size_t size;
  };
  const auto type =
      GENERATE(known{"BOOL", 1}, known{"U8", 1}, known{"I8", 1}, known{"F8_E5M2", 1},
               known{"F8_E4M3", 1}, known{"F8_E8M0", 1}, known{"I16", 2}, known{"U16", 2},
               known{"F16", 2}, known{"BF16", 2}, known{"I32", 4}, known{"U32", 4}, known{"F32", 4},
               known{"I64", 8}, known{"U64", 8}, known{"F64", 8}, known{"C64", 8});
  INFO(type.name);
  const std::string data(3 * type.size, 'x');
  const auto read = read_safetensors(
      raw_file(one(type.name, "[3]", "[0," + std::to_string(data.size()) + "]"), data));
  REQUIRE(read.has_value());
  CHECK(name(read->tensors[0].type) == type.name);
  CHECK(size_of(read->tensors[0].type) == type.size);
}

TEST_CASE("a tensor that lies misaligned in the file is aligned in memory", "[io]") {
  // One byte, then floats at byte 1, then doubles at byte 9; a header of no round length.
  std::string data = "x";
  const std::vector<float> floats = {1.5F, -2.0F};
  const std::vector<double> doubles = {3.25};
  data.append(reinterpret_cast<const char*>(floats.data()), 8);
  data.append(reinterpret_cast<const char*>(doubles.data()), 8);
  const auto file = raw_file(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                             R"("d":{"dtype":"F64","shape":[1],"data_offsets":[9,17]},)"
                             R"("f":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}} )",
                             data);
  auto read = read_safetensors(file);
  REQUIRE(read.has_value());
  const kvfit::safetensors_file moved = std::move(*read);  // views survive the move
  const auto* const f = find_tensor(moved, "f");
  const auto* const d = find_tensor(moved, "d");
  CHECK(reinterpret_cast<std::uintptr_t>(f->bytes.data()) % 4 == 0);
  CHECK(reinterpret_cast<std::uintptr_t>(d->bytes.data()) % 8 == 0);
  CHECK(reinterpret_cast<const float*>(f->bytes.data())[1] == -2.0F);
  CHECK(reinterpret_cast<const double*>(d->bytes.data())[0] == 3.25);
  CHECK(find_tensor(moved, "b")->bytes[0] == std::byte{'x'});
}

TEST_CASE("what can't be opened is unreadable, not malformed", "[io]") {
  const kvfit_test::scratch_folder folder;
  SECTION("a file that is not there") {
    const auto read = read_safetensors(folder / "none");
    REQUIRE_FALSE(read.has_value());
    CHECK(read.error().code == errc::file_unreadable);
    CHECK(read.error().argument == (folder / "none").string());
  }
  SECTION("a folder") {
    const auto read = read_safetensors(folder / "");
    REQUIRE_FALSE(read.has_value());
    CHECK(read.error().code == errc::file_unreadable);
  }
  SECTION("a device") {
    if (std::filesystem::exists("/dev/zero")) {
      const auto read = read_safetensors(std::filesystem::path("/dev/zero"));
      REQUIRE_FALSE(read.has_value());
      CHECK(read.error().code == errc::file_unreadable);
    }
  }
}
