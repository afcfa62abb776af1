// SPDX-License-Identifier: MIT
/// What the tests of examples/engine share: the model in examples/data, its texts, a scratch copy.
#pragma once

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/model.hpp"
#include "engine/tokenizer.hpp"
#include "io/files.hpp"

namespace kvfit_test {

inline std::filesystem::path tinybooks() {
  return std::filesystem::path(KVFIT_TEST_DATA_DIR) / "tinybooks";
}

/// Loaded once; a failure is seen by the test that looks at `has_value()`.
inline const kvfit::result<llama::model>& tinybooks_model() {
  static const kvfit::result<llama::model> loaded = llama::model::load(tinybooks());
  return loaded;
}

inline const kvfit::result<llama::tokenizer>& tinybooks_tokenizer() {
  static const kvfit::result<llama::tokenizer> loaded =
      llama::tokenizer::load(tinybooks() / "vocab.json", tinybooks() / "merges.txt");
  return loaded;
}

inline std::string text_of(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

inline void put_text(const std::filesystem::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

/// `text` with its first `from` replaced by `to`.
inline std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const auto at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

/// BOS and the first tokens of a held-out text.
inline std::vector<llama::token> held_out_tokens(int book, std::size_t count) {
  const std::string text = text_of(tinybooks() / ("held-" + std::to_string(book) + ".txt"));
  std::vector<llama::token> tokens = {
      static_cast<llama::token>(tinybooks_model()->sizes().bos_token_id)};
  const auto more = tinybooks_tokenizer()->encode(std::string_view(text).substr(0, 6 * count));
  tokens.insert(tokens.end(), more.begin(), more.end());
  tokens.resize(count);
  return tokens;
}

/// −mean ln p of each next token: ln of the perplexity.
template <class Logits>
double mean_loss(const Logits& logits, std::span<const llama::token> tokens) {
  double loss = 0;
  for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
    const Eigen::RowVectorXd row = logits.row(static_cast<Eigen::Index>(i)).template cast<double>();
    const double most = row.maxCoeff();
    loss += most + std::log((row.array() - most).exp().sum()) - row[tokens[i + 1]];
  }
  return loss / static_cast<double>(tokens.size() - 1);
}

}  // namespace kvfit_test
