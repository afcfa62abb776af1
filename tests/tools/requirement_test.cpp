// SPDX-License-Identifier: MIT
#include "measure/requirement.hpp"

#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"

using kvfit_tool::judged_row;
using kvfit_tool::relation;
using kvfit_tool::requirement;
using kvfit_tool::row_name;

namespace {

requirement parsed(const std::string& text) {
  requirement made;
  const std::string wrong = parse_requirement(text, made);
  CAPTURE(text, wrong);
  REQUIRE(wrong.empty());
  return made;
}

std::string mistake_in(const std::string& text) {
  requirement untouched{.method = "before", .ratio = 3, .name = "before@3", .conditions = {}};
  std::string wrong = parse_requirement(text, untouched);
  CHECK(untouched.name == "before@3");
  return wrong;
}

std::vector<std::string> failures(const std::vector<std::string>& texts,
                                  const std::vector<judged_row>& rows) {
  std::vector<requirement> asked;
  for (const std::string& text : texts) asked.push_back(parsed(text));
  return failures_of(asked, rows);
}

using lines = std::vector<std::string>;

}  // namespace

TEST_CASE("a requirement is a method, a ratio and conditions", "[tools][requirement]") {
  const requirement made =
      parsed("default@20: output_error <= 0.4, cosine>=0.95 ,kl< 1e-2, a > -1");
  CHECK(made.method == "default");
  CHECK(made.ratio == 20);
  CHECK(made.name == "default@20");
  REQUIRE(made.conditions.size() == 4);
  CHECK(made.conditions[0].figure == "output_error");
  CHECK(made.conditions[0].is == relation::at_most);
  CHECK(made.conditions[0].limit == 0.4);
  CHECK(made.conditions[1].is == relation::at_least);
  CHECK(made.conditions[1].text == "cosine >= 0.95");
  CHECK(made.conditions[2].is == relation::less);
  CHECK(made.conditions[2].limit == 0.01);
  CHECK(made.conditions[3].is == relation::more);
  CHECK(made.conditions[3].limit == -1);

  const requirement swept = parsed(" omp{held_out=0,norm_power=0.5} @ 7.5 :mass_error<1");
  CHECK(swept.method == "omp{held_out=0,norm_power=0.5}");
  CHECK(swept.ratio == 7.5);
  const requirement of_file = parsed("h2o mixture a@b:c.json@8: kl <= 1");
  CHECK(of_file.method == "h2o mixture a@b:c.json");
}

TEST_CASE("malformed requirements say what is wrong with them", "[tools][requirement]") {
  const struct {
    const char* text;
    const char* wrong;
  } table[] = {
      {"", "needs METHOD@RATIO: FIGURE <= NUMBER, ..., not \"\""},
      {"default: kl <= 1", "needs METHOD@RATIO: FIGURE <= NUMBER, ..., not \"default: kl <= 1\""},
      {"default@20", "needs METHOD@RATIO: FIGURE <= NUMBER, ..., not \"default@20\""},
      {"@20: kl <= 1", "no method before the @ in \"@20: kl <= 1\""},
      {"a@: kl <= 1", "a ratio is a number of at least 1, not \"\", in \"a@: kl <= 1\""},
      {"a@0.5: kl <= 1", "a ratio is a number of at least 1, not \"0.5\", in \"a@0.5: kl <= 1\""},
      {"a@inf: kl <= 1", "a ratio is a number of at least 1, not \"inf\", in \"a@inf: kl <= 1\""},
      {"a@nan: kl <= 1", "a ratio is a number of at least 1, not \"nan\", in \"a@nan: kl <= 1\""},
      {"a@20x: kl <= 1", "a ratio is a number of at least 1, not \"20x\", in \"a@20x: kl <= 1\""},
      {"a@20:", "\"\": needs FIGURE <=, <, >= or > NUMBER, in \"a@20:\""},
      {"a@20: kl <= 1,", "\"\": needs FIGURE <=, <, >= or > NUMBER, in \"a@20: kl <= 1,\""},
      {"a@20: kl = 1", "\"kl = 1\": needs FIGURE <=, <, >= or > NUMBER, in \"a@20: kl = 1\""},
      {"a@20: <= 1", "\"<= 1\": names no figure, in \"a@20: <= 1\""},
      {"a@20: kl <=", "\"kl <=\": \"\" is no number, in \"a@20: kl <=\""},
      {"a@20: kl <= x", "\"kl <= x\": \"x\" is no number, in \"a@20: kl <= x\""},
      {"a@20: kl <= nan", "\"kl <= nan\": \"nan\" is no number, in \"a@20: kl <= nan\""},
      {"a@20: kl <= 1e999", "\"kl <= 1e999\": \"1e999\" is no number, in \"a@20: kl <= 1e999\""},
      {"a@20: kl <= 0x1", "\"kl <= 0x1\": \"0x1\" is no number, in \"a@20: kl <= 0x1\""},
      {"a@20: kl <= 1 2", "\"kl <= 1 2\": \"1 2\" is no number, in \"a@20: kl <= 1 2\""},
      {"a@20: 1 <= kl", "\"1 <= kl\": \"kl\" is no number, in \"a@20: 1 <= kl\""},
      {"a@20: 0 < kl < 1", "\"0 < kl < 1\": \"kl < 1\" is no number, in \"a@20: 0 < kl < 1\""},
  };
  for (const auto& each : table) {
    INFO(each.text);
    CHECK(mistake_in(each.text) == each.wrong);
  }
}

TEST_CASE("a requirement of rows or figures that are not measured is refused",
          "[tools][requirement]") {
  const std::vector<row_name> rows = {
      {"omp", "omp{held_out=0}", 20}, {"omp", "omp{held_out=0}", 50}, {"topk", "topk", 20}};
  const std::vector<std::string> figures = {"output_error", "cosine"};
  const auto wrong = [&](const std::string& text) {
    return check_requirement(parsed(text), rows, figures);
  };
  CHECK(wrong("omp@20: output_error <= 1").empty());
  CHECK(wrong("omp{held_out=0}@50: cosine >= 0, output_error > 1").empty());
  CHECK(wrong("default@20: cosine > 0") ==
        "\"default\" of default@20 is not measured here; there are omp{held_out=0}, topk");
  CHECK(wrong("omp{held_out=0.25}@20: cosine > 0") ==
        "\"omp{held_out=0.25}\" of omp{held_out=0.25}@20 is not measured here; there are "
        "omp{held_out=0}, topk");
  CHECK(wrong("omp@10: cosine > 0") ==
        "omp@10 is of no ratio that is measured here; there are 20, 50");
  // A ratio of another method's is none of this one's.
  const std::vector<row_name> uneven = {{"omp", "omp", 20}, {"topk", "topk", 50}};
  CHECK(!check_requirement(parsed("omp@50: cosine > 0"), uneven, figures).empty());
  CHECK(wrong("omp@20: cosine > 0, kl < 1") ==
        "\"kl\" of omp@20 is no figure; there are output_error, cosine");
}

TEST_CASE("what falls short is a line each, with the figure that was measured",
          "[tools][requirement]") {
  const std::vector<judged_row> rows = {
      {{"default", "default", 20}, "", {{"output_error", 0.4371}, {"cosine", 0.91}}},
      {{"default", "default", 50}, "", {{"output_error", 0.2}, {"cosine", 0.99}}}};
  CHECK(failures({"default@20: output_error <= 0.5, cosine >= 0.9"}, rows).empty());
  CHECK(failures({"default@20: output_error <= 0.4, cosine >= 0.95"}, rows) ==
        lines{"required default@20: output_error <= 0.4, measured 0.437",
              "required default@20: cosine >= 0.95, measured 0.91"});
  CHECK(failures({"default@50: output_error<.25", "default@20:cosine>0.92"}, rows) ==
        lines{"required default@20: cosine > 0.92, measured 0.91"});
}

TEST_CASE("limits count as met by <= and >= and not by < and >", "[tools][requirement]") {
  const std::vector<judged_row> rows = {{{"omp", "omp", 2}, "", {{"kl", 0.5}}}};
  CHECK(failures({"omp@2: kl <= 0.5, kl >= 0.5"}, rows).empty());
  CHECK(failures({"omp@2: kl < 0.5, kl > 0.5"}, rows) ==
        lines{"required omp@2: kl < 0.5, measured 0.5", "required omp@2: kl > 0.5, measured 0.5"});
}

TEST_CASE("a figure that is printed fails the condition that it is printed for",
          "[tools][requirement]") {
  const std::vector<judged_row> rows = {{{"omp", "omp", 2}, "", {{"kl", 0.40003}}}};
  CHECK(failures({"omp@2: kl <= 0.4"}, rows) ==
        lines{"required omp@2: kl <= 0.4, measured 0.40003"});
}

TEST_CASE("NaN and figures that are not there meet no condition", "[tools][requirement]") {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<judged_row> rows = {{{"omp", "omp", 2}, "", {{"kl", nan}}}};
  CHECK(failures({"omp@2: kl <= 1, kl < 1, kl >= 1, kl > 1, recall > 0"}, rows) ==
        lines{"required omp@2: kl <= 1, measured nan", "required omp@2: kl < 1, measured nan",
              "required omp@2: kl >= 1, measured nan", "required omp@2: kl > 1, measured nan",
              "required omp@2: recall > 0, measured nan"});
  CHECK(failures({"omp@4: kl <= 1"}, rows) == lines{"required omp@4: kl <= 1, measured nothing"});
  CHECK(failures({"omp@2: kl <= 1"}, {}).size() == 1);
}

TEST_CASE("all rows that a requirement is about are judged, and named where they are several",
          "[tools][requirement]") {
  const std::vector<judged_row> rows = {
      {{"omp", "omp{held_out=0}", 20}, "a.safetensors", {{"cosine", 0.9}}},
      {{"omp", "omp{held_out=0}", 20}, "b.safetensors", {{"cosine", 0.8}}},
      {{"omp", "omp{held_out=0.25}", 20}, "a.safetensors", {{"cosine", 0.7}}}};
  CHECK(failures({"omp@20: cosine >= 0.85"}, rows) ==
        lines{"required omp@20: cosine >= 0.85, measured 0.8 (omp{held_out=0}, b.safetensors)",
              "required omp@20: cosine >= 0.85, measured 0.7 (omp{held_out=0.25}, a.safetensors)"});
  CHECK(failures({"omp{held_out=0.25}@20: cosine >= 0.85"}, rows) ==
        lines{"required omp{held_out=0.25}@20: cosine >= 0.85, measured 0.7"});
}
