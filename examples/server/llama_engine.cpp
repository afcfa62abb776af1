// SPDX-License-Identifier: MIT
#include "server/llama_engine.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

#include "kvfit/attention/rope.hpp"
#include "kvfit/cache/compact_cache.hpp"
#include "kvfit/cache/engine_bias.hpp"
#include "kvfit/io/crc32c.hpp"
#include "kvfit/presets.hpp"
#include "llama_cpp/evaluation.hpp"

namespace server {

namespace {

using llama_cpp::layer_attention;
using llama_cpp::sequence_state;

constexpr std::uint64_t state_version = 1;

failure engine_failure(const kvfit::error& cause) {
  return {fault::engine, cause.message()};
}

/// Size and checksum of a file: what its states are bound to.
outcome<std::string> fingerprint(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return failure{fault::bad_request, path.string() + ": can't be read"};
  kvfit::crc32c sum;
  std::vector<char> part(std::size_t{1} << 20U);
  std::uint64_t size = 0;
  while (file.read(part.data(), static_cast<std::streamsize>(part.size())) || file.gcount() > 0) {
    const auto count = static_cast<std::size_t>(file.gcount());
    sum.add(std::as_bytes(std::span(part.data(), count)));
    size += count;
  }
  if (!file.eof()) return failure{fault::bad_request, path.string() + ": can't be read"};
  return path.filename().string() + " " + std::to_string(size) + " bytes, CRC-32C " +
         std::to_string(sum.value());
}

/// Numbers of 64 bits and what lies between them, little-endian.
class writer {
 public:
  void number(index_t value) { raw(&value, sizeof value); }
  void raw(const void* from, std::size_t size) {
    const auto* const first = static_cast<const std::byte*>(from);
    bytes_.insert(bytes_.end(), first, first + size);
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// The same read back; once it has failed, everything is 0.
class reader {
 public:
  explicit reader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  index_t number(index_t most) {
    index_t value = 0;
    if (!raw(&value, sizeof value)) return 0;
    if (value >= 0 && value <= most) return value;
    is_sound_ = false;
    return 0;
  }
  bool raw(void* to, std::size_t size) {
    if (!is_sound_ || size > bytes_.size()) return is_sound_ = false;
    if (size > 0) std::memcpy(to, bytes_.data(), size);
    bytes_ = bytes_.subspan(size);
    return true;
  }
  [[nodiscard]] std::span<const std::byte> left() const noexcept { return bytes_; }
  [[nodiscard]] bool is_sound() const noexcept { return is_sound_; }

 private:
  std::span<const std::byte> bytes_;
  bool is_sound_ = true;
};

/// A layer without keys and values, for its biases alone.
kvfit::compacted_layer biases_of(const compact_rows::layer& from, index_t rows) {
  kvfit::compacted_layer out;
  out.number = from.number;
  out.offsets.push_back(0);
  out.bias.resize(static_cast<index_t>(from.heads.size()) * rows);
  for (std::size_t h = 0; h < from.heads.size(); ++h) {
    out.offsets.push_back(out.offsets.back() + rows);
    out.heads.push_back({});
    const compact_rows::head& head = from.heads[h];
    std::copy(head.bias.begin(), head.bias.end(), out.bias.data() + out.offsets[h]);
    out.key_positions.insert(out.key_positions.end(), head.positions.begin(), head.positions.end());
  }
  out.positions = out.key_positions;
  out.keys.setZero(out.offsets.back(), 1);
  out.values.setZero(out.offsets.back(), 1);
  return out;
}

/// Keys of `cache` that stand at `from` or beyond, `distance` positions back. False where a layer
/// has no rotation that is known.
kvfit::result<bool> move_back(kvfit::compacted_cache& cache,
                              const std::vector<layer_attention>& layers, index_t from,
                              index_t distance) {
  for (kvfit::compacted_layer& layer : cache.layers) {
    const auto& rotation = layers[static_cast<std::size_t>(layer.number)].rotation;
    if (!rotation) return false;
    std::vector<index_t> by(layer.key_positions.size(), 0);
    for (std::size_t j = 0; j < by.size(); ++j) {
      if (layer.key_positions[j] < from) continue;
      by[j] = -distance;
      layer.key_positions[j] -= distance;
    }
    if (const auto ok = kvfit::turn_rows(layer.keys, *rotation, by); !ok) return ok.error();
  }
  return true;
}

}  // namespace

/// A slot's cache and what it asked.
struct llama_engine::taken final : cache_snapshot {
  std::shared_ptr<const sequence_state> state;
  llama_cpp::layer_captures queries;
  index_t query_count = 0;
  std::vector<layer_attention> layers;
  compact_rows compact;
  index_t next = 0;
};

struct llama_engine::fitted final : small_cache {
  std::shared_ptr<const sequence_state> full;  ///< what is put back if this can't be
  llama_cpp::placed_cache placed;
  compact_rows compact;
  index_t next = 0;
  bool is_moved = false;
};

outcome<std::unique_ptr<llama_engine>> llama_engine::open(const std::filesystem::path& path,
                                                          const llama_engine_options& options) {
  const auto refuse = [](const std::string& why) { return failure{fault::bad_request, why}; };
  if (options.slots < 1 || options.slots > 256) return refuse("slots must be in 1 ... 256");
  if (options.queries < 64 || options.queries > 1 << 20) {
    return refuse("queries must be in 64 ... 1048576");
  }
  if (options.session.sequences != 1) return refuse("a slot's context has one sequence");
  auto name = fingerprint(path);
  if (!name) return name.why();
  auto model = llama_cpp::load_model(path);
  if (!model) return refuse(model.error().message());
  std::unique_ptr<llama_engine> made(new llama_engine);
  made->options_ = options;
  made->name_ = std::move(*name);
  for (index_t s = 0; s < options.slots; ++s) {
    auto opened = llama_cpp::session::open(*model, options.session);
    if (!opened) return refuse(opened.error().message());
    made->slots_.push_back({.of = std::move(*opened), .queries = query_ring(options.queries)});
  }
  if (const done learnt = made->learn(); !learnt) return learnt.why();
  return made;
}

/// Reads a token in every slot: from then on the graphs have shown their layers.
done llama_engine::learn() {
  for (served& slot : slots_) {
    std::array<std::size_t, 2> bytes = {};
    const token any = 0;
    for (std::size_t k = 0; k < bytes.size(); ++k) {
      const auto position = static_cast<index_t>(k);
      if (const auto read = slot.of->read({&any, 1}, position, 1); !read) {
        return failure{fault::bad_request, read.error().message()};
      }
      const auto state = slot.of->save();
      if (!state) return failure{fault::bad_request, state.error().message()};
      bytes[k] = state->bytes.size();
    }
    if (bytes[1] <= bytes[0]) {
      return failure{fault::bad_request, "the model's states do not grow with what is read"};
    }
    row_bytes_ = static_cast<index_t>(bytes[1] - bytes[0]);
    form_ = slot.of->form_of();
    if (const auto ok = slot.of->forget_from(0); !ok) {
      return failure{fault::bad_request, "a slot must be able to forget; " + ok.error().message()};
    }
  }
  if (form_.has_grid) {
    return failure{fault::bad_request, "positions of several numbers (M-RoPE) are not served"};
  }
  closes_up_ = !form_.has_windows && !form_.has_tail;
  std::string scales;
  for (const layer_attention& layer : slots_.front().of->tap().layers()) {
    if (layer.query_heads == 0) continue;
    if (layer.alibi != 0) return failure{fault::bad_request, "ALiBi is not served"};
    closes_up_ = closes_up_ && layer.rotation.has_value();
    scales += " " + std::to_string(layer.scale);
  }
  const auto& session = options_.session;
  rule_ = std::string("llama.cpp, keys ") + ggml_type_name(session.keys) + ", values " +
          ggml_type_name(session.values) + ", flash " + (session.is_flash ? "on" : "off") +
          ", scales" + scales;
  return nothing{};
}

outcome<std::vector<token>> llama_engine::tokens_of(std::string_view text, bool is_start) const {
  auto tokens = slots_.front().of->tokens_of(text, is_start);
  if (!tokens) return failure{fault::bad_request, tokens.error().message()};
  return std::move(*tokens);
}

std::string llama_engine::text_of(token each) const {
  return slots_.front().of->piece_of(each);
}

bool llama_engine::ends(token each) const {
  return slots_.front().of->ends(each);
}

index_t llama_engine::space(index_t slot) const {
  const served& at = of(slot);
  return std::max<index_t>(0,
                           std::min(trained_length() - at.next, options_.session.cells - at.rows));
}

void llama_engine::clear(index_t slot) {
  served& at = of(slot);
  at.of->tap().clear_biases();
  // All of it can always be forgotten, by recurrent layers, too.
  (void)at.of->forget_from(0);
  at.queries.clear();
  at.logical = at.next = at.rows = 0;
  at.compact = {};
}

outcome<std::vector<float>> llama_engine::decode(index_t slot, std::span<const token> tokens,
                                                 index_t position) {
  served& at = of(slot);
  if (position != at.logical) {
    return failure{fault::engine, "reads at " + std::to_string(position) + " behind " +
                                      std::to_string(at.logical) + " tokens"};
  }
  const auto count = static_cast<index_t>(tokens.size());
  at.of->tap().start_capture(1);
  const auto logits = at.of->read(tokens, at.next, count - 1);
  const auto asked = at.of->tap().take_queries();
  if (!logits) return engine_failure(logits.error());
  if (!at.queries.add(asked)) {
    return failure{fault::engine, "the graph's attention is not what it was"};
  }
  at.logical += count;
  at.next += count;
  at.rows += count;
  return std::vector<float>(logits->data(), logits->data() + logits->size());
}

/// `sequence`: llama.cpp's bytes of the slot.
std::vector<std::byte> llama_engine::written(const served& at,
                                             std::span<const std::byte> sequence) {
  writer out;
  for (const index_t number : {static_cast<index_t>(state_version), at.logical, at.next, at.rows,
                               at.compact.rows, static_cast<index_t>(at.compact.layers.size())}) {
    out.number(number);
  }
  for (const compact_rows::layer& layer : at.compact.layers) {
    out.number(layer.number);
    out.number(static_cast<index_t>(layer.heads.size()));
    for (const compact_rows::head& head : layer.heads) {
      out.raw(head.bias.data(), head.bias.size() * sizeof(float));
      out.raw(head.positions.data(), head.positions.size() * sizeof(index_t));
    }
  }
  out.number(static_cast<index_t>(sequence.size()));
  out.raw(sequence.data(), sequence.size());
  return out.take();
}

outcome<std::vector<std::byte>> llama_engine::read_state(index_t slot) {
  served& at = of(slot);
  const auto state = at.of->save();
  if (!state) return engine_failure(state.error());
  return written(at, state->bytes);
}

done llama_engine::put_state(index_t slot, std::span<const std::byte> state) {
  served& at = of(slot);
  std::vector<std::byte> before;
  if (at.rows > 0) {
    auto own = read_state(slot);
    if (!own) return own.why();
    before = std::move(*own);
  }
  const done put = put_whole(at, state);
  if (put) return put;
  clear(slot);
  if (!before.empty()) {
    if (const done back = put_whole(at, before); !back) clear(slot);
  }
  return put;
}

done llama_engine::put_whole(served& to, std::span<const std::byte> bytes) const {
  const auto bad = [](const std::string& why) { return failure{fault::bad_state, why}; };
  constexpr index_t many = index_t{1} << 40U;
  reader in(bytes);
  const index_t version = in.number(many);
  const index_t logical = in.number(many);
  const index_t next = in.number(trained_length());
  const index_t rows = in.number(options_.session.cells);
  compact_rows compact;
  compact.rows = in.number(rows);
  const index_t layers = in.number(1 << 16);
  if (!in.is_sound() || version != static_cast<index_t>(state_version)) {
    return bad("another version, or sizes that this server does not serve");
  }
  if (next < rows || logical < next || rows < 1) return bad("lengths that contradict each other");
  for (index_t l = 0; l < layers && in.is_sound(); ++l) {
    compact_rows::layer& layer = compact.layers.emplace_back();
    layer.number = in.number(1 << 16);
    const index_t heads = in.number(1 << 12);
    for (index_t h = 0; h < heads && in.is_sound(); ++h) {
      const auto t = static_cast<std::size_t>(compact.rows);
      if (t * (sizeof(float) + sizeof(index_t)) > in.left().size()) return bad("it ends early");
      compact_rows::head& head = layer.heads.emplace_back();
      head.bias.resize(t);
      head.positions.resize(t);
      in.raw(head.bias.data(), t * sizeof(float));
      in.raw(head.positions.data(), t * sizeof(index_t));
      const bool is_sound = std::all_of(head.bias.begin(), head.bias.end(),
                                        [](float b) { return std::isfinite(b); }) &&
                            std::all_of(head.positions.begin(), head.positions.end(),
                                        [&](index_t at) { return at >= 0 && at < next; });
      if (!is_sound) return bad("biases or positions that no cache has");
    }
  }
  const index_t size = in.number(many);
  if (!in.is_sound() || static_cast<std::size_t>(size) != in.left().size()) {
    return bad("its sizes do not add up to its bytes");
  }
  auto state = llama_cpp::read_state({in.left().begin(), in.left().end()}, form_);
  if (!state) return bad(state.error().message());
  if (state->cells() != rows || state->end_position() != next) {
    return bad("cells that are not as many as rows, or stand elsewhere");
  }
  if (const auto ok = to.of->load(*state); !ok) return bad(ok.error().message());
  if (const auto ok = to.of->number_layers(*state); !ok) return bad(ok.error().message());
  llama_cpp::sequence_bias biases{.stream = state->global.stream, .layers = {}};
  if (compact.rows > 0 && compact.layers.size() != state->global.layers.size()) {
    return bad("biases of other layers than the cache's");
  }
  for (std::size_t l = 0; l < compact.layers.size(); ++l) {
    const compact_rows::layer& layer = compact.layers[l];
    const llama_cpp::layer_place& place = state->global.layers[l];
    const layer_attention& seen = to.of->tap().layers()[static_cast<std::size_t>(place.number)];
    if (layer.number != place.number || static_cast<index_t>(layer.heads.size()) != seen.kv_heads) {
      return bad("biases of other layers or heads than the cache's");
    }
    auto bias = kvfit::make_engine_bias(
        biases_of(layer, compact.rows),
        kvfit::bias_layouts::llama_cpp_kq_b(seen.query_heads, compact.rows, seen.bias_scale));
    if (!bias) return bad(bias.error().message());
    std::vector<std::byte> keys = llama_cpp::key_bytes(*state, state->global, l);
    keys.resize(keys.size() / static_cast<std::size_t>(rows) *
                static_cast<std::size_t>(compact.rows));
    biases.layers.push_back(
        {.layer = layer.number, .bias = std::move(*bias), .keys = std::move(keys)});
  }
  if (!biases.layers.empty()) to.of->tap().set_biases(0, std::move(biases));
  to.queries.clear();
  to.logical = logical;
  to.next = next;
  to.rows = rows;
  to.compact = std::move(compact);
  return nothing{};
}

outcome<std::unique_ptr<cache_snapshot>> llama_engine::snapshot(index_t slot) {
  served& at = of(slot);
  auto state = at.of->save();
  if (!state) return engine_failure(state.error());
  auto made = std::make_unique<taken>();
  made->state = std::make_shared<const sequence_state>(std::move(*state));
  made->queries = at.queries.queries();
  made->query_count = at.queries.count();
  made->layers = at.of->tap().layers();
  made->compact = at.compact;
  made->next = at.next;
  return std::unique_ptr<cache_snapshot>(std::move(made));
}

outcome<std::unique_ptr<small_cache>> llama_engine::fit(const cache_snapshot& from,
                                                        const compaction_request& how,
                                                        const kvfit::stop_when& stop) const {
  const auto& own = static_cast<const taken&>(from);
  const auto method = kvfit::presets::find(how.method);
  if (!method) return failure{fault::bad_request, "no such method: " + how.method};
  constexpr index_t least_queries = 64;
  if (own.query_count < least_queries) {
    return failure{fault::conflict, "the slot has asked " + std::to_string(own.query_count) +
                                        " queries since its cache was made; a fit takes " +
                                        std::to_string(least_queries) + " at least"};
  }
  auto cache = llama_cpp::rows_of(*own.state, own.state->global, own.layers);
  if (!cache) return engine_failure(cache.error());
  // Compact rows stand where their keys were rotated to, and have biases; others have neither.
  const index_t cells = own.state->cells();
  compact_rows whole = own.compact;
  for (std::size_t l = 0; l < whole.layers.size(); ++l) {
    for (std::size_t h = 0; h < whole.layers[l].heads.size(); ++h) {
      compact_rows::head& head = whole.layers[l].heads[h];
      head.bias.resize(static_cast<std::size_t>(cells), 0.0F);
      const auto& positions = own.state->global.positions;
      head.positions.insert(head.positions.end(), positions.begin() + own.compact.rows,
                            positions.end());
      kvfit::kv_block& block = cache->view.layers[l].heads[h];
      block.bias = head.bias;
      block.positions = head.positions;
    }
  }
  const auto queries = llama_cpp::queries_of(own.queries, own.layers, cache->view, {});
  index_t heads = 0;
  for (const kvfit::cache_layer& layer : cache->view.layers) {
    heads += static_cast<index_t>(layer.heads.size());
  }
  kvfit::cache_options asked{.budget = heads * how.target};
  asked.head = method->make(how.target);
  asked.head.storage.rows = llama_cpp::storage_of(options_.session);
  asked.head.queries.held_out = 0.0625;  // for the gate, whatever the method holds out itself
  // By number: what has moved back may stand where the first rows do.
  for (index_t row = 0; row < how.protect_first; ++row) asked.head.protect.rows.push_back(row);
  for (index_t row = cells - how.protect_recent; row < cells; ++row) {
    asked.head.protect.rows.push_back(row);
  }
  asked.fallback = kvfit::head_fallback::copies;
  auto small =
      kvfit::compact_cache(cache->view, queries, asked, kvfit::serial{},
                           {.cancel = stop.cancel, .progress = {}, .deadline = stop.deadline});
  if (!small) {
    const bool is_stopped = small.error().code == kvfit::errc::cancelled;
    return failure{is_stopped ? fault::cancelled : fault::engine, small.error().message()};
  }
  auto made = std::make_unique<fitted>();
  made->full = own.state;
  made->next = own.next;
  double error_sum = 0;
  for (const kvfit::compacted_layer& layer : small->layers) {
    for (const kvfit::head_report& head : layer.heads) {
      if (!head.report.held_out) return failure{fault::engine, "a head was not judged"};
      error_sum += head.report.held_out->rms_output_error;
      if (head.rows == how.target) continue;
      return failure{fault::engine, "a head kept " + std::to_string(head.rows) + " rows of " +
                                        std::to_string(how.target)};
    }
  }
  const index_t half = trained_length() / 2;
  if (closes_up_ && own.next >= half + how.target) {
    const auto moved = move_back(*small, own.layers, half, half);
    if (!moved) return engine_failure(moved.error());
    made->is_moved = *moved;
    if (made->is_moved) made->next -= half;
  }
  auto placed = llama_cpp::place_cache(*own.state, *small, own.layers, true, own.next - made->next);
  if (!placed) return engine_failure(placed.error());
  made->placed = std::move(*placed);
  made->compact.rows = how.target;
  for (const kvfit::compacted_layer& layer : small->layers) {
    compact_rows::layer& to = made->compact.layers.emplace_back();
    to.number = layer.number;
    for (std::size_t h = 0; h < layer.heads.size(); ++h) {
      const kvfit::kv_block block = layer.block(h);
      to.heads.push_back({{block.bias.begin(), block.bias.end()},
                          {block.positions.begin(), block.positions.end()}});
    }
  }
  made->report = {.method = how.method,
                  .rows_before = cells,
                  .rows_after = how.target,
                  .held_out_error = error_sum / static_cast<double>(heads)};
  return std::unique_ptr<small_cache>(std::move(made));
}

done llama_engine::apply(index_t slot, const small_cache& small) {
  served& at = of(slot);
  const auto& own = static_cast<const fitted&>(small);
  if (const auto ok = at.of->put(own.placed); !ok) {
    const failure why = engine_failure(ok.error());
    // The old cache back, with the biases that it had.
    if (const done back = put_whole(at, written(at, own.full->bytes)); !back) clear(slot);
    return why;
  }
  at.compact = own.compact;
  at.next = own.next;
  at.rows = own.compact.rows;
  if (own.is_moved) at.queries.clear();
  return nothing{};
}

}  // namespace server
