// SPDX-License-Identifier: MIT
#include "engine/sampler.hpp"

#include <algorithm>

namespace llama {

token greedy(std::span<const float> logits) {
  return static_cast<token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

result<std::vector<token>> generate(const model& engine, std::span<const token> prompt,
                                    index_t most, const kvfit::cache_view& past, live_cache& live) {
  std::vector<token> said;
  std::vector<token> next(prompt.begin(), prompt.end());
  while (true) {
    const auto hidden = forward(engine, next, past, live);
    if (!hidden) return hidden.error();
    if (static_cast<index_t>(said.size()) >= most) return said;
    const auto logits = engine.logits(hidden->bottomRows(1));
    if (!logits) return logits.error();
    const token chosen = greedy({logits->data(), static_cast<std::size_t>(logits->size())});
    if (chosen == engine.sizes().eos_token_id) return said;
    said.push_back(chosen);
    if (live.next_position() >= engine.positions()) return said;
    next.assign(1, chosen);
  }
}

}  // namespace llama
