// SPDX-License-Identifier: MIT
#include "engine/tokenizer.hpp"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "examples/tinybooks.hpp"
#include "support/catch.hpp"

using namespace kvfit_test;
using kvfit::errc;
using llama::token;

namespace {

/// Pieces of a text's tokens, each as its bytes.
std::vector<std::string> pieces_of(std::string_view text) {
  std::vector<std::string> pieces;
  for (const token each : tinybooks_tokenizer()->encode(text)) {
    pieces.push_back(*tinybooks_tokenizer()->decode(std::vector<token>{each}));
  }
  return pieces;
}

using strings = std::vector<std::string>;

}  // namespace

TEST_CASE("the tokens of every recall document are those that the model was trained on",
          "[examples][tokenizer]") {
  REQUIRE(tinybooks_tokenizer());
  std::ifstream lines(tinybooks() / "recall.jsonl");
  std::string line;
  int documents = 0;
  while (std::getline(lines, line)) {
    INFO("document " << documents);
    const auto document = nlohmann::json::parse(line);
    const auto expected = document["ids"].get<std::vector<token>>();
    std::vector<token> tokens = {expected.at(0)};
    const auto text = document["prefix"].get<std::string>();
    for (const token each : tinybooks_tokenizer()->encode(text)) tokens.push_back(each);
    CHECK(tokens == expected);
    CHECK(*tinybooks_tokenizer()->decode(std::span(tokens).subspan(1)) == text);
    ++documents;
  }
  CHECK(documents == 32);
}

TEST_CASE("text is cut as GPT-2 cuts it, with digits one by one", "[examples][tokenizer]") {
  REQUIRE(tinybooks_tokenizer());
  CHECK(pieces_of(" 9383") == strings{" ", "9", "3", "8", "3"});
  CHECK(pieces_of("it's") == strings{"it", "'s"});
  CHECK(pieces_of("the  the") == strings{"the", " ", " the"});  // the last space goes with the word
  CHECK(pieces_of("the \n") == strings{"the", " ", "\n"});
  CHECK(pieces_of("the\n\nthe").front() == "the");
  CHECK(pieces_of(" the").size() == 1);
  CHECK(pieces_of("").empty());
}

TEST_CASE("any bytes come back", "[examples][tokenizer]") {
  REQUIRE(tinybooks_tokenizer());
  std::string all;
  for (int byte = 255; byte >= 0; --byte) all += static_cast<char>(byte);
  for (const std::string& text :
       {all, std::string("caf\xC3\xA9 \xE2\x80\x94 \xF0\x9F\x98\x80"), std::string(3, '\0'),
        std::string(5000, ' '), std::string(5000, 'e')}) {
    CHECK(*tinybooks_tokenizer()->decode(tinybooks_tokenizer()->encode(text)) == text);
  }
}

TEST_CASE("special tokens can't be written as text", "[examples][tokenizer]") {
  REQUIRE(tinybooks_tokenizer());
  for (const token each : tinybooks_tokenizer()->encode("<s></s>")) CHECK(each < 2046);
}

TEST_CASE("tokens outside the vocabulary are refused", "[examples][tokenizer]") {
  REQUIRE(tinybooks_tokenizer());
  for (const token wrong : {-1, 2048}) {
    const auto text = tinybooks_tokenizer()->decode(std::vector<token>{1, wrong});
    REQUIRE(!text);
    CHECK(text.error().code == errc::invalid_option);
    CHECK(text.error().actual == wrong);
    CHECK(text.error().expected == 2048);
  }
}

TEST_CASE("bad vocabularies and merges are refused", "[examples][tokenizer]") {
  const scratch_folder folder;
  const auto vocab = text_of(tinybooks() / "vocab.json");
  const auto merges = text_of(tinybooks() / "merges.txt");
  const auto code_of = [&](const std::string& vocab_text, const std::string& merges_text) {
    put_text(folder / "vocab.json", vocab_text);
    put_text(folder / "merges.txt", merges_text);
    const auto loaded = llama::tokenizer::load(folder / "vocab.json", folder / "merges.txt");
    REQUIRE(!loaded);
    return loaded.error().code;
  };
  CHECK(!llama::tokenizer::load(folder / "none", folder / "none"));
  CHECK(code_of("[]", merges) == errc::malformed_file);
  CHECK(code_of("{}", merges) == errc::malformed_file);
  CHECK(code_of(vocab.substr(0, vocab.size() / 2), merges) == errc::malformed_file);
  CHECK(code_of(replaced(vocab, "\"!\": 33", "\"!\": 34"), merges) == errc::malformed_file);
  CHECK(code_of(replaced(vocab, "\"!\": 33", "\"!\": -33"), merges) == errc::malformed_file);
  CHECK(code_of(replaced(vocab, "\"!\": 33", "\"!!!!!!!!!\": 33"), merges) == errc::missing_entry);
  CHECK(code_of(replaced(vocab, "\"!\": 33", "\"\xE4\xB8\x80\": 33"), merges) ==
        errc::malformed_file);
  CHECK(code_of(vocab, "#version: 0.2\nh\n") == errc::malformed_file);
  CHECK(code_of(vocab, "#version: 0.2\nq x\n") == errc::malformed_file);
}

TEST_CASE("what vocabulary and merges say twice or of another version is refused by name",
          "[examples][tokenizer]") {
  const scratch_folder folder;
  const auto vocab = text_of(tinybooks() / "vocab.json");
  const auto merges = text_of(tinybooks() / "merges.txt");
  const auto error_of = [&](const std::string& vocab_text, const std::string& merges_text) {
    put_text(folder / "vocab.json", vocab_text);
    put_text(folder / "merges.txt", merges_text);
    const auto loaded = llama::tokenizer::load(folder / "vocab.json", folder / "merges.txt");
    REQUIRE(!loaded);
    return loaded.error();
  };
  const auto twice = error_of(replaced(vocab, "{", "{\"!\": 35,"), merges);
  CHECK(twice.code == errc::malformed_file);
  CHECK(twice.detail == "'!' appears twice");
  const auto merged_twice = error_of(vocab, "#version: 0.2\nh e\nh e\n");
  CHECK(merged_twice.code == errc::malformed_file);
  CHECK(merged_twice.detail == "merge 1 is there twice");
  const auto newer = error_of(vocab, "#version: 0.3\nh e\n");
  CHECK(newer.code == errc::unsupported_file);
  CHECK(newer.detail == "'#version: 0.3'; only version 0.2 is handled");
  CHECK(error_of(vocab, "h e\n#version: 0.2\n").code == errc::malformed_file);
  // 'h' in two bytes is not the byte 'h'.
  CHECK(error_of(vocab, "\xC1\xA8 e\n").detail == "merge 0 is not written in bytes");
  CHECK(error_of(vocab, "\xC4\x20 e\n").code == errc::malformed_file);
}
