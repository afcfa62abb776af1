// SPDX-License-Identifier: MIT
#include "llama_cpp/measured_budgets.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace llama_cpp {

namespace {

using kvfit::errc;
using kvfit::error;

/// A head's loss is steep where few rows are left.
constexpr double measured_shares[] = {1.0 / 512, 1.0 / 128, 1.0 / 32, 1.0 / 8, 1.0 / 2};

/// One head of `small`, all others of `whole`.
kvfit::compacted_layer with_head(const kvfit::compacted_layer& whole,
                                 const kvfit::compacted_layer& small, std::size_t which) {
  kvfit::compacted_layer made;
  made.number = whole.number;
  made.heads = whole.heads;
  made.offsets.push_back(0);
  for (std::size_t h = 0; h < whole.heads.size(); ++h) {
    made.offsets.push_back(made.offsets.back() + (h == which ? small : whole).rows(h));
  }
  const index_t rows = made.offsets.back();
  made.keys.resize(rows, whole.keys.cols());
  made.values.resize(rows, whole.values.cols());
  made.bias.resize(rows);
  for (std::size_t h = 0; h < whole.heads.size(); ++h) {
    const kvfit::compacted_layer& from = h == which ? small : whole;
    const index_t first = from.offsets[h];
    const index_t count = from.rows(h);
    made.keys.middleRows(made.offsets[h], count) = from.keys.middleRows(first, count);
    made.values.middleRows(made.offsets[h], count) = from.values.middleRows(first, count);
    made.bias.segment(made.offsets[h], count) = from.bias.segment(first, count);
    const auto part = [&](const std::vector<index_t>& all) { return all.begin() + first; };
    made.positions.insert(made.positions.end(), part(from.positions), part(from.positions) + count);
    made.key_positions.insert(made.key_positions.end(), part(from.key_positions),
                              part(from.key_positions) + count);
  }
  return made;
}

/// The losses of one document, a head each, at each share.
result<std::vector<std::vector<double>>> losses_on(session& model, const prepared_document& ready,
                                                   const evaluation_plan& plan,
                                                   kvfit::thread_pool& pool) {
  const auto rows = ready.full.cells();
  evaluation_plan even = plan;
  even.shares = kvfit::budgets::uniform{};
  even.measured = {};
  even.copies_failed = true;
  // By a method that is quick: curves say which head needs rows.
  const auto method = *kvfit::presets::find("highest_attention");
  const auto whole = compact(model, ready, method, 1, even, pool);
  if (!whole) return whole.error();
  std::vector<std::vector<double>> losses;
  for (const double share : measured_shares) {
    const double ratio = 1 / share;
    if (static_cast<double>(rows) * share < 1) {
      return error{errc::budget_out_of_range, "prefix", rows, 512, "too short to measure budgets"};
    }
    const auto small = compact(model, ready, method, ratio, even, pool);
    if (!small) return small.error();
    std::size_t place = 0;
    for (std::size_t l = 0; l < whole->layers.size(); ++l) {
      for (std::size_t h = 0; h < whole->layers[l].heads.size(); ++h, ++place) {
        kvfit::compacted_cache one = *whole;
        one.layers[l] = with_head(whole->layers[l], small->layers[l], h);
        if (const auto ok = model.put_back(ready.full, one, true); !ok) return ok.error();
        const auto read = read_passages(model, ready);
        if (!read) return read.error();
        if (losses.size() <= place) losses.emplace_back();
        losses[place].push_back(read->mean_kl());
      }
    }
  }
  return losses;
}

}  // namespace

result<share_curves> measure_budgets(session& model, const std::vector<document>& on,
                                     const evaluation_plan& plan, kvfit::thread_pool& pool,
                                     const std::function<void(const std::string&)>& said) {
  if (on.empty()) return error{errc::empty_input, "documents", 0, 1, "to measure budgets on"};
  const auto recalls = static_cast<double>(
      std::count_if(on.begin(), on.end(), [](const document& one) { return one.is_recall; }));
  share_curves made{.shares = {std::begin(measured_shares), std::end(measured_shares)},
                    .losses = {}};
  for (const document& each : on) {
    const auto ready = prepare(model, each, plan, on);
    if (!ready) return ready.error();
    const auto losses = losses_on(model, *ready, plan, pool);
    if (!losses) return losses.error();
    const double same_kind = each.is_recall ? recalls : static_cast<double>(on.size()) - recalls;
    made.losses.resize(losses->size(), std::vector<double>(made.shares.size(), 0));
    for (std::size_t h = 0; h < losses->size(); ++h) {
      for (std::size_t i = 0; i < made.shares.size(); ++i) {
        made.losses[h][i] += (*losses)[h][i] / same_kind;
      }
    }
    said(each.name + ": measured");
  }
  return made;
}

}  // namespace llama_cpp
