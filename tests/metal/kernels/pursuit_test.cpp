// SPDX-License-Identifier: MIT
#include <Eigen/Dense>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/metal/kernels/shared/pursuit_arguments.h"
#include "kvfit/metal/kernels/shared/step_arguments.h"
#include "metal/kernels/column_runs.hpp"
#include "support/catch.hpp"

namespace {

using namespace kernel_tests;

buffer floats_of(const matrix& from) {
  std::vector<float> out;
  for (const double x : from.numbers) out.push_back(static_cast<float>(x));
  return buffer::of(out);
}

std::vector<float> as_floats(const std::vector<double>& from) {
  return {from.begin(), from.end()};
}

struct correlated {
  std::vector<float> correlations;
  std::vector<float> scores;
  counts cost;
};

/// `correlate` for columns that lie a column a row, without gaps.
correlated run_correlate(buffer& columns, buffer& residual, int keys, int queries,
                         const std::vector<float>& divisors = {}, buffer* open = nullptr,
                         bool is_absolute = false, const std::vector<std::int32_t>& rows = {}) {
  kernels::correlation_arguments rule{};
  rule.column_stride = queries;
  rule.keys = keys;
  rule.queries = queries;
  rule.flags = (divisors.empty() ? 0U : kernels::correlation_divisors) |
               (open == nullptr ? 0U : kernels::correlation_open) |
               (is_absolute ? kernels::correlation_absolute : 0U) |
               (rows.empty() ? 0U : kernels::correlation_rows);
  buffer divisor_memory = buffer::of(divisors);
  buffer row_memory = buffer::of(rows);
  buffer correlations = buffer::output<float>(static_cast<std::size_t>(keys));
  buffer scores = buffer::output<float>(static_cast<std::size_t>(keys));
  call kernel("correlate");
  kernel.memory(kernels::correlation_buffer_columns, columns)
      .memory(kernels::correlation_buffer_residual, residual)
      .memory(kernels::correlation_buffer_divisors, divisor_memory)
      .memory(kernels::correlation_buffer_rows, row_memory)
      .memory(kernels::correlation_buffer_correlations, correlations)
      .memory(kernels::correlation_buffer_scores, scores)
      .bytes(kernels::correlation_buffer_arguments, rule);
  if (open == nullptr) {
    kernel.absent(kernels::correlation_buffer_open);
  } else {
    kernel.memory(kernels::correlation_buffer_open, *open);
  }
  const outcome run = kernel.groups({tiles(keys, kernels::keys_per_group), 1, 1}, {threads, 1, 1});
  checked(run);
  return {copy_of<float>(correlations), copy_of<float>(scores), run.cost};
}

/// The `count` best of `scores`, found in parts of `per_part` and then among those.
std::vector<kernels::ranked_key> run_best(const std::vector<float>& scores, int count, int per_part,
                                          buffer* open = nullptr, const order& how = {}) {
  const std::uint32_t parts = tiles(static_cast<int>(scores.size()), per_part);
  buffer candidates = buffer::of(scores);
  buffer best = buffer::output<kernels::ranked_key>(parts * static_cast<std::size_t>(count));
  kernels::best_arguments rule{};
  rule.candidates = static_cast<std::int32_t>(scores.size());
  rule.candidates_per_part = per_part;
  rule.count = count;
  call first("best_rows");
  first.memory(kernels::best_buffer_candidates, candidates)
      .memory(kernels::best_buffer_best, best)
      .absent(kernels::best_buffer_open)
      .bytes(kernels::best_buffer_arguments, rule);
  checked(first.groups({parts, 1, 1}, {threads, 1, 1}, how));
  rule.candidates = static_cast<std::int32_t>(parts) * count;
  rule.candidates_per_part = rule.candidates;
  rule.flags = open == nullptr ? 0U : kernels::best_close;
  buffer all = buffer::output<kernels::ranked_key>(static_cast<std::size_t>(count));
  call last("best_of_parts");
  last.memory(kernels::best_buffer_candidates, best)
      .memory(kernels::best_buffer_best, all)
      .bytes(kernels::best_buffer_arguments, rule);
  if (open == nullptr) {
    last.absent(kernels::best_buffer_open);
  } else {
    last.memory(kernels::best_buffer_open, *open);
  }
  checked(last.groups({1, 1, 1}, {threads, 1, 1}, how));
  return copy_of<kernels::ranked_key>(all);
}

/// r = M w − y, or its negative, for listed columns.
std::vector<float> run_residual(buffer& columns, const std::vector<std::int32_t>& rows,
                                const std::vector<float>& weights, const std::vector<float>& target,
                                int queries, bool is_negative,
                                std::vector<float>* squares = nullptr) {
  kernels::step_arguments rule{};
  rule.column_stride = queries;
  rule.keys = static_cast<std::int32_t>(weights.size());
  rule.queries = queries;
  rule.flags = (rows.empty() ? 0U : kernels::step_rows) |
               (target.empty() ? 0U : kernels::step_target) |
               (is_negative ? kernels::step_negative : 0U);
  const std::uint32_t groups = tiles(queries, kernels::group_threads);
  buffer row_memory = buffer::of(rows);
  buffer weight_memory = buffer::of(weights);
  buffer target_memory = buffer::of(target);
  buffer out = buffer::output<float>(static_cast<std::size_t>(queries));
  buffer square_memory = buffer::output<float>(groups);
  call kernel("residual");
  kernel.memory(kernels::step_buffer_columns, columns)
      .memory(kernels::step_buffer_rows, row_memory)
      .memory(kernels::step_buffer_weights, weight_memory)
      .memory(kernels::step_buffer_target, target_memory)
      .memory(kernels::step_buffer_residual, out)
      .memory(kernels::step_buffer_squares, square_memory)
      .bytes(kernels::step_buffer_arguments, rule);
  checked(kernel.groups({groups, 1, 1}, {threads, 1, 1}));
  if (squares != nullptr) *squares = copy_of<float>(square_memory);
  return copy_of<float>(out);
}

TEST_CASE("correlate equals the oracle, and ranks by it", "[metal][correlation]") {
  for (const int queries : {1, 31, 32, 97, 300}) {
    for (const int keys : {1, 15, 17, 50}) {
      INFO("n = " << queries << ", T = " << keys);
      std::mt19937 draw(3);
      const matrix columns = random_matrix(draw, keys, queries);
      const matrix residual = random_matrix(draw, 1, queries);
      buffer column_memory = floats_of(columns);
      buffer residual_memory = floats_of(residual);
      std::vector<float> divisors;
      std::vector<std::uint8_t> open;
      for (int j = 0; j < keys; ++j) {
        divisors.push_back(1.0F + static_cast<float>(j % 4));
        open.push_back(j % 5 == 2 ? 0 : 1);
      }
      buffer open_memory = buffer::of(open);
      const correlated plain = run_correlate(column_memory, residual_memory, keys, queries);
      const correlated ranked = run_correlate(column_memory, residual_memory, keys, queries,
                                              divisors, &open_memory, true);
      CHECK(plain.cost.buffers.at(kernels::correlation_buffer_columns).loaded_bytes ==
            static_cast<std::uint64_t>(keys * queries) * 4);
      for (int j = 0; j < keys; ++j) {
        const auto at = static_cast<std::size_t>(j);
        double want = 0;
        double size = 0;
        for (int i = 0; i < queries; ++i) {
          want += columns(j, i) * residual(0, i);
          size += std::abs(columns(j, i) * residual(0, i));
        }
        CHECK(std::abs(static_cast<double>(plain.correlations[at]) - want) <= 1e-6 * size);
        CHECK(plain.scores[at] == plain.correlations[at]);
        CHECK(ranked.correlations[at] == plain.correlations[at]);
        CHECK(ranked.scores[at] == (open[at] == 0
                                        ? -std::numeric_limits<float>::infinity()
                                        : std::abs(plain.correlations[at]) / divisors[at]));
      }
    }
  }
}

TEST_CASE("correlate takes listed columns", "[metal][correlation]") {
  std::mt19937 draw(3);
  const matrix columns = random_matrix(draw, 20, 40);
  buffer column_memory = floats_of(columns);
  buffer residual = floats_of(random_matrix(draw, 1, 40));
  const correlated all = run_correlate(column_memory, residual, 20, 40);
  const std::vector<std::int32_t> rows = {19, 3, 3, 0, 7};
  const correlated some = run_correlate(column_memory, residual, 5, 40, {}, nullptr, false, rows);
  for (std::size_t k = 0; k < rows.size(); ++k) {
    CHECK(some.correlations[k] == all.correlations[static_cast<std::size_t>(rows[k])]);
  }
}

TEST_CASE("The best rows come best first, ties by the lower row, in any number of parts",
          "[metal][correlation]") {
  std::vector<float> scores;
  for (int j = 0; j < 700; ++j) scores.push_back(static_cast<float>(j * 131 % 50) - 10.0F);
  scores[13] = std::numeric_limits<float>::quiet_NaN();
  for (std::size_t j = 100; j < 300; ++j) scores[j] = -std::numeric_limits<float>::infinity();
  std::vector<std::pair<float, int>> sorted;
  for (int j = 0; j < 700; ++j) {
    const float x = scores[static_cast<std::size_t>(j)];
    if (x > -std::numeric_limits<float>::infinity()) sorted.emplace_back(-x, j);
  }
  std::sort(sorted.begin(), sorted.end());
  for (const int per_part : {64, 128, 300, 700}) {
    for (const order& how : metal_emulator::orders()) {
      const auto best = run_best(scores, 20, per_part, nullptr, how);
      for (std::size_t k = 0; k < best.size(); ++k) {
        INFO("place " << k << ", parts of " << per_part);
        CHECK(best[k].row == sorted[k].second);
        CHECK(best[k].score == -sorted[k].first);
      }
    }
  }
}

TEST_CASE("Where fewer rows are left than asked for, the rest is none", "[metal][correlation]") {
  const float none = -std::numeric_limits<float>::infinity();
  const auto best =
      run_best({none, 2.0F, none, 2.0F, std::numeric_limits<float>::quiet_NaN()}, 4, 2);
  CHECK(best[0].row == 1);
  CHECK(best[1].row == 3);
  for (const std::size_t k : {2, 3}) {
    CHECK(best[k].row == -1);
    CHECK(best[k].score == none);
  }
}

TEST_CASE("The best rows are closed where that is asked for", "[metal][correlation]") {
  buffer open = buffer::of(std::vector<std::uint8_t>(6, 1));
  const auto best = run_best({1, 5, 3, 5, 0, 2}, 2, 3, &open);
  CHECK(best[0].row == 1);
  CHECK(best[1].row == 3);
  CHECK(copy_of<std::uint8_t>(open) == std::vector<std::uint8_t>{1, 0, 1, 0, 1, 1});
}

/// w = clip(argmin ‖Φ_S w − y‖) in double.
std::vector<double> refit(const matrix& columns, const std::vector<std::int32_t>& rows,
                          const std::vector<double>& target) {
  const auto t = static_cast<Eigen::Index>(rows.size());
  Eigen::MatrixXd m(columns.cols, t);
  Eigen::VectorXd y(columns.cols);
  for (int i = 0; i < columns.cols; ++i) {
    y[i] = target[static_cast<std::size_t>(i)];
    for (Eigen::Index k = 0; k < t; ++k) {
      m(i, k) = columns(rows[static_cast<std::size_t>(k)], i);
    }
  }
  const Eigen::VectorXd w = m.colPivHouseholderQr().solve(y).cwiseMax(1e-12);
  return {w.begin(), w.end()};
}

TEST_CASE("Pursuit on the kernels picks the rows that it picks in double", "[metal][correlation]") {
  head on({.blocks = 2, .block_rows = 40, .keys = 150, .depth = 16, .size = 1.4});
  const int n = on.rows();
  const matrix weights = attention_weights(on);
  matrix exact(on.spec.keys, n);  // the columns, a column a row
  for (int j = 0; j < on.spec.keys; ++j) {
    for (int r = 0; r < n; ++r) exact(j, r) = weights(r, j);
  }
  const std::vector<double> target(static_cast<std::size_t>(n), 1.0);

  std::vector<std::int32_t> truth;
  std::vector<double> rest = target;
  while (truth.size() < 25) {
    int best = -1;
    double most = -infinity;
    for (int j = 0; j < on.spec.keys; ++j) {
      if (std::find(truth.begin(), truth.end(), j) != truth.end()) continue;
      double product = 0;
      double square = 0;
      for (int r = 0; r < n; ++r) {
        product += exact(j, r) * rest[static_cast<std::size_t>(r)];
        square += exact(j, r) * exact(j, r);
      }
      const double score = product / std::pow(std::sqrt(square) + 1e-12, 0.5);
      if (score > most) {
        most = score;
        best = j;
      }
    }
    truth.push_back(best);
    const std::vector<double> w = refit(exact, truth, target);
    for (int r = 0; r < n; ++r) {
      double sum = 1;
      for (std::size_t k = 0; k < truth.size(); ++k) sum -= w[k] * exact(truth[k], r);
      rest[static_cast<std::size_t>(r)] = sum;
    }
  }

  for (const std::string& kind : both_tiles) {
    const query_results known = run_score(on, kind, 4096);
    std::vector<float> factors;
    for (const float mass : known.mass) factors.push_back(1.0F / mass);
    const matrix gathered = run_gather(on, kind, {}, false, known.max, factors);
    buffer columns = floats_of(gathered);
    std::vector<float> divisors;
    for (int j = 0; j < on.spec.keys; ++j) {
      double square = 0;
      for (int r = 0; r < n; ++r) square += gathered(j, r) * gathered(j, r);
      divisors.push_back(static_cast<float>(std::pow(std::sqrt(square) + 1e-12, 0.5)));
    }
    buffer open = buffer::of(std::vector<std::uint8_t>(static_cast<std::size_t>(on.spec.keys), 1));
    std::vector<float> residual(static_cast<std::size_t>(n), 1.0F);
    std::vector<std::int32_t> picked;
    while (picked.size() < truth.size()) {
      buffer residual_memory = buffer::of(residual);
      const correlated now =
          run_correlate(columns, residual_memory, on.spec.keys, n, divisors, &open);
      picked.push_back(run_best(now.scores, 1, 64, &open)[0].row);
      residual = run_residual(columns, picked, as_floats(refit(gathered, picked, target)),
                              as_floats(target), n, true);
    }
    CHECK(picked == truth);
  }
}

// ---- Joint selection
// ------------------------------------------------------------------------------

TEST_CASE("Joint updates pick the rows that orthogonal least squares in double picks",
          "[metal][joint]") {
  // As many slots as keys: every key is up to date after each pick.
  constexpr int keys = 30;
  constexpr int n = 60;
  constexpr int targets = 5;
  constexpr int picks = 12;
  std::mt19937 draw(17);
  const matrix a = random_matrix(draw, keys, n);  // columns, a column a row
  const matrix r = random_matrix(draw, n, targets);

  // In double, from scratch: what each key, fitted with those before it, leaves least of.
  std::vector<int> truth;
  matrix left = a;
  matrix rest = r;
  for (int pick = 0; pick < picks; ++pick) {
    int best = -1;
    double most = 0;
    for (int j = 0; j < keys; ++j) {
      if (std::find(truth.begin(), truth.end(), j) != truth.end()) continue;
      double square = 0;
      double gain = 0;
      for (int i = 0; i < n; ++i) square += left(j, i) * left(j, i);
      for (int c = 0; c < targets; ++c) {
        double product = 0;
        for (int i = 0; i < n; ++i) product += left(j, i) * rest(i, c);
        gain += product * product / square;
      }
      if (gain > most) {
        most = gain;
        best = j;
      }
    }
    truth.push_back(best);
    std::vector<double> q(n);
    double square = 0;
    for (int i = 0; i < n; ++i) square += left(best, i) * left(best, i);
    for (int i = 0; i < n; ++i) q[static_cast<std::size_t>(i)] = left(best, i) / std::sqrt(square);
    const auto take_out = [&](auto read, auto write) {
      double product = 0;
      for (int i = 0; i < n; ++i) product += read(i) * q[static_cast<std::size_t>(i)];
      for (int i = 0; i < n; ++i) write(i, read(i) - product * q[static_cast<std::size_t>(i)]);
    };
    for (int j = 0; j < keys; ++j) {
      take_out([&](int i) { return left(j, i); }, [&](int i, double x) { left(j, i) = x; });
    }
    for (int c = 0; c < targets; ++c) {
      take_out([&](int i) { return rest(i, c); }, [&](int i, double x) { rest(i, c) = x; });
    }
  }

  // On the kernels: G = AᵀR, P = AᵀA, H = G Gᵀ, and updates of them.
  matrix g(keys, targets);
  matrix p(keys, keys);
  matrix h(keys, keys);
  std::vector<float> norms;
  for (int j = 0; j < keys; ++j) {
    for (int c = 0; c < targets; ++c) {
      for (int i = 0; i < n; ++i) g(j, c) += a(j, i) * r(i, c);
    }
    for (int k = 0; k < keys; ++k) {
      for (int i = 0; i < n; ++i) p(j, k) += a(j, i) * a(k, i);
    }
    norms.push_back(static_cast<float>(p(j, j)));
  }
  for (int j = 0; j < keys; ++j) {
    for (int k = 0; k < keys; ++k) {
      for (int c = 0; c < targets; ++c) h(j, k) += g(j, c) * g(k, c);
    }
  }
  buffer products = floats_of(p);
  buffer shared = floats_of(h);
  buffer correlation = floats_of(g);
  buffer scores = buffer::output<float>(keys);
  call lengths("squared_lengths");
  lengths.memory(kernels::length_buffer_rows, correlation)
      .memory(kernels::length_buffer_lengths, scores)
      .bytes(kernels::length_buffer_arguments,
             kernels::length_arguments{0, targets, 0, keys, targets});
  checked(lengths.groups({tiles(keys, kernels::keys_per_group), 1, 1}, {threads, 1, 1}));
  for (int j = 0; j < keys; ++j) {
    CHECK(static_cast<double>(scores.as<float>()[static_cast<std::size_t>(j)]) ==
          Approx(h(j, j)).epsilon(1e-5));
  }
  buffer rests = buffer::of(norms);
  buffer norm_memory = buffer::of(norms);
  buffer open = buffer::of(std::vector<std::uint8_t>(keys, 1));
  buffer waiting = buffer::output<float>(keys * picks);
  buffer along = buffer::of(std::vector<float>(keys, 0.0F));
  buffer change = buffer::of(std::vector<float>(keys, 0.0F));
  buffer gains = buffer::output<float>(keys);
  kernels::joint_arguments rule{};
  rule.waiting_stride = picks;
  rule.keys = keys;
  rule.slots = keys;
  rule.slot = -1;
  rule.dependent = 1e-5F;
  const auto update = [&] {
    call kernel("joint_update");
    kernel.memory(kernels::joint_buffer_products, products)
        .memory(kernels::joint_buffer_shared, shared)
        .memory(kernels::joint_buffer_waiting, waiting)
        .memory(kernels::joint_buffer_scores, scores)
        .memory(kernels::joint_buffer_left, rests)
        .memory(kernels::joint_buffer_norms, norm_memory)
        .memory(kernels::joint_buffer_open, open)
        .memory(kernels::joint_buffer_along, along)
        .memory(kernels::joint_buffer_change, change)
        .memory(kernels::joint_buffer_gains, gains)
        .bytes(kernels::joint_buffer_arguments, rule);
    checked(kernel.groups({tiles(keys, kernels::keys_per_group), 1, 1}, {threads, 1, 1}));
  };
  update();  // gains alone
  matrix of_slots = g;
  std::vector<int> picked;
  for (int pick = 0; pick < picks; ++pick) {
    const int best = run_best(copy_of<float>(gains), 1, 64)[0].row;
    picked.push_back(best);
    open.as<std::uint8_t>()[static_cast<std::size_t>(best)] = 0;
    const auto product_at = [&](int j, int k) {
      return static_cast<double>(products.as<float>()[static_cast<std::size_t>(j * keys + k)]);
    };
    const double scale = 1 / std::sqrt(product_at(best, best));
    std::vector<double> explained(targets);
    double squares = 0;
    for (int c = 0; c < targets; ++c) {
      explained[static_cast<std::size_t>(c)] = of_slots(best, c) * scale;
      squares += explained[static_cast<std::size_t>(c)] * explained[static_cast<std::size_t>(c)];
    }
    for (int s = 0; s < keys; ++s) {
      const double z = product_at(s, best) * scale;
      double change_of = -z * squares;
      for (int c = 0; c < targets; ++c) {
        change_of += explained[static_cast<std::size_t>(c)] * of_slots(s, c);
      }
      along.as<float>()[static_cast<std::size_t>(s)] = static_cast<float>(z);
      change.as<float>()[static_cast<std::size_t>(s)] = static_cast<float>(change_of);
    }
    for (int s = 0; s < keys; ++s) {
      const auto z = static_cast<double>(along.as<float>()[static_cast<std::size_t>(s)]);
      for (int c = 0; c < targets; ++c) {
        of_slots(s, c) -= z * explained[static_cast<std::size_t>(c)];
      }
    }
    rule.slot = best;
    rule.pending = pick;
    rule.scale = static_cast<float>(scale);
    rule.squares = static_cast<float>(squares);
    update();
    for (int j = 0; j < keys; ++j) {
      const auto at = static_cast<std::size_t>(j);
      CHECK(waiting.as<float>()[at * picks + static_cast<std::size_t>(pick)] ==
            Approx(along.as<float>()[at]).margin(1e-3));
      if (open.as<std::uint8_t>()[at] == 0) CHECK(gains.as<float>()[at] == 0);
    }
  }
  CHECK(picked == truth);
}

// ---- Projected gradient
// ---------------------------------------------------------------------------

TEST_CASE("residual equals the oracle, with its sums of squares", "[metal][nnls]") {
  for (const int queries : {1, 127, 129, 300}) {
    std::mt19937 draw(4);
    const matrix columns = random_matrix(draw, 50, queries);
    const matrix target = random_matrix(draw, 1, queries);
    const matrix weights = random_matrix(draw, 1, 7);
    const std::vector<std::int32_t> rows = {49, 0, 3, 3, 17, 22, 48};
    buffer memory = floats_of(columns);
    std::vector<float> squares;
    const std::vector<float> got =
        run_residual(memory, rows, as_floats(weights.numbers), as_floats(target.numbers), queries,
                     false, &squares);
    const std::vector<float> negative = run_residual(memory, rows, as_floats(weights.numbers),
                                                     as_floats(target.numbers), queries, true);
    double all = 0;
    double summed = 0;
    for (const float part : squares) summed += static_cast<double>(part);
    for (int i = 0; i < queries; ++i) {
      const auto at = static_cast<std::size_t>(i);
      double want = -target(0, i);
      for (std::size_t k = 0; k < rows.size(); ++k) {
        want += weights.numbers[k] * columns(rows[k], i);
      }
      CHECK(std::abs(static_cast<double>(got[at]) - want) <= 1e-6);
      CHECK(negative[at] == -got[at]);
      all += want * want;
    }
    CHECK(summed == Approx(all).epsilon(1e-5));
  }
}

/// `projected_step` for a step length of the caller's.
std::vector<float> run_step(buffer& columns, const std::vector<std::int32_t>& rows,
                            std::vector<float> weights, const std::vector<float>& residual,
                            float step, float lower, float upper, int queries) {
  kernels::step_arguments rule{};
  rule.column_stride = queries;
  rule.keys = static_cast<std::int32_t>(weights.size());
  rule.queries = queries;
  rule.lower = lower;
  rule.upper = upper;
  rule.flags = rows.empty() ? 0U : kernels::step_rows;
  buffer row_memory = buffer::of(rows);
  buffer weight_memory = buffer::of(weights);
  buffer residual_memory = buffer::of(residual);
  buffer steps = buffer::of(std::vector<float>{step});
  call kernel("projected_step");
  kernel.memory(kernels::step_buffer_columns, columns)
      .memory(kernels::step_buffer_rows, row_memory)
      .memory(kernels::step_buffer_weights, weight_memory)
      .memory(kernels::step_buffer_residual, residual_memory)
      .memory(kernels::step_buffer_steps, steps)
      .bytes(kernels::step_buffer_arguments, rule);
  checked(kernel.groups({tiles(rule.keys, kernels::keys_per_group), 1, 1}, {threads, 1, 1}));
  return copy_of<float>(weight_memory);
}

TEST_CASE("Projected steps equal those in double, and end inside the box", "[metal][nnls]") {
  constexpr int n = 90;
  constexpr int t = 21;
  std::mt19937 draw(12);
  const matrix columns = random_matrix(draw, 40, n);
  const matrix target = random_matrix(draw, 1, n, 5);
  std::vector<std::int32_t> rows;
  for (int k = 0; k < t; ++k) rows.push_back(k * 17 % 40);
  buffer memory = floats_of(columns);
  std::vector<double> truth(t, 1.0);
  std::vector<float> w(t, 1.0F);
  const double step = 1.0 / 250;
  int clipped = 0;
  for (int round = 0; round < 4; ++round) {
    const std::vector<float> residual =
        run_residual(memory, rows, w, as_floats(target.numbers), n, false);
    w = run_step(memory, rows, w, residual, static_cast<float>(step), 0.1F, 1.25F, n);
    std::vector<double> r(n);
    for (int i = 0; i < n; ++i) {
      r[static_cast<std::size_t>(i)] = -target(0, i);
      for (int k = 0; k < t; ++k) {
        r[static_cast<std::size_t>(i)] +=
            truth[static_cast<std::size_t>(k)] * columns(rows[static_cast<std::size_t>(k)], i);
      }
    }
    for (int k = 0; k < t; ++k) {
      double gradient = 0;
      for (int i = 0; i < n; ++i) {
        gradient += columns(rows[static_cast<std::size_t>(k)], i) * r[static_cast<std::size_t>(i)];
      }
      auto& x = truth[static_cast<std::size_t>(k)];
      x = std::clamp(x - step * gradient, 0.1, 1.25);
      CHECK(std::abs(static_cast<double>(w[static_cast<std::size_t>(k)]) - x) <= 1e-5);
      CHECK(w[static_cast<std::size_t>(k)] >= 0.1F);
      CHECK(w[static_cast<std::size_t>(k)] <= 1.25F);
      clipped += x == 0.1 || x == 1.25 ? 1 : 0;
    }
  }
  CHECK(clipped > 0);
}

TEST_CASE("A weight that becomes NaN is taken to the number of the box nearest 0",
          "[metal][nnls]") {
  buffer columns = buffer::of(std::vector<float>{1, 1, 1});
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(run_step(columns, {}, {5}, {nan, 0, 0}, 1, 0.25F, 9, 3)[0] == 0.25F);
  CHECK(run_step(columns, {}, {5}, {nan, 0, 0}, 1, -2, -1, 3)[0] == -1);
  CHECK(run_step(columns, {}, {5}, {nan, 0, 0}, 1, -2, 9, 3)[0] == 0);
  CHECK(run_step(columns, {}, {5}, {-1e30F, 0, 0}, 1e30F, 0, std::numeric_limits<float>::infinity(),
                 3)[0] == std::numeric_limits<float>::infinity());
}

TEST_CASE("Power steps find the largest singular value, and the step length from it",
          "[metal][nnls]") {
  constexpr int n = 80;
  for (const int t : {1, 5, 200}) {
    for (const double size : {1.0, 1e-20, 1e15}) {
      INFO("t = " << t << ", size " << size);
      std::mt19937 draw(13);
      matrix columns = random_matrix(draw, t, n);
      for (double& x : columns.numbers) x = stored((std::abs(x) + 0.1) * size, dtype::fp32);
      Eigen::MatrixXd m(t, n);
      for (int k = 0; k < t; ++k) {
        for (int i = 0; i < n; ++i) m(k, i) = columns(k, i) / size;
      }
      const double sigma = m.jacobiSvd().singularValues()[0] * size;
      buffer memory = floats_of(columns);
      std::vector<float> u(static_cast<std::size_t>(t),
                           static_cast<float>(1 / std::sqrt(static_cast<double>(t))));
      kernels::step_arguments rule{};
      rule.keys = t;
      buffer vectors = buffer::of(u);
      buffer steps = buffer::output<float>(1);
      buffer squared = buffer::output<float>(1);
      for (int round = 0; round < 12; ++round) {
        const std::vector<float> along =
            run_residual(memory, {}, copy_of<float>(vectors), {}, n, false);
        buffer along_memory = buffer::of(along);
        const correlated image = run_correlate(memory, along_memory, t, n);
        buffer images = buffer::of(image.correlations);
        call kernel("power_step");
        kernel.memory(kernels::step_buffer_weights, vectors)
            .memory(kernels::step_buffer_steps, steps)
            .memory(kernels::step_buffer_images, images)
            .memory(kernels::step_buffer_squared_sigmas, squared)
            .bytes(kernels::step_buffer_arguments, rule);
        checked(kernel.groups({1, 1, 1}, {threads, 1, 1}));
      }
      const auto got = static_cast<double>(squared.as<float>()[0]);
      CHECK(std::abs(got - sigma * sigma) <= 1e-4 * sigma * sigma + 1e-37);
      CHECK(static_cast<double>(steps.as<float>()[0]) ==
            Approx(1 / std::max(got, 1e-6)).epsilon(1e-5));
      double square = 0;
      for (const float x : copy_of<float>(vectors)) square += static_cast<double>(x * x);
      CHECK(square == Approx(1).epsilon(1e-5));
    }
  }
}

TEST_CASE("correlate and gather reach columns beyond 2^32 elements", "[metal][correlation]") {
  constexpr std::int64_t stride = (std::int64_t{1} << 32) + 5;
  head on({.block_rows = 6, .keys = 3, .depth = 4});
  for (const std::string& kind : both_tiles) {
    buffer columns(static_cast<std::size_t>(4 * (2 * stride + 6)));
    const std::vector<float> zeros(6, 0.0F);
    const std::vector<float> ones(6, 1.0F);
    buffer shift = buffer::of(zeros);
    buffer factor = buffer::of(ones);
    const kernels::gather_arguments rule{on.logits, 0, 0, stride};
    call kernel(on.kernel("gather", kind));
    on.bind(kernel);
    kernel.bytes(kernels::buffer_arguments, rule)
        .memory(kernels::gather_buffer_shifts, shift)
        .memory(kernels::gather_buffer_factors, factor)
        .memory(kernels::gather_buffer_columns, columns);
    checked(kernel.groups({1, 1, 1}, {threads, 1, 1}));

    buffer residual = buffer::of(ones);
    buffer correlations = buffer::output<float>(3);
    buffer scores = buffer::output<float>(3);
    kernels::correlation_arguments sums{};
    sums.column_stride = stride;
    sums.keys = 3;
    sums.queries = 6;
    call correlate("correlate");
    correlate.memory(kernels::correlation_buffer_columns, columns)
        .memory(kernels::correlation_buffer_residual, residual)
        .absent(kernels::correlation_buffer_divisors)
        .absent(kernels::correlation_buffer_open)
        .absent(kernels::correlation_buffer_rows)
        .memory(kernels::correlation_buffer_correlations, correlations)
        .memory(kernels::correlation_buffer_scores, scores)
        .bytes(kernels::correlation_buffer_arguments, sums);
    checked(correlate.groups({1, 1, 1}, {threads, 1, 1}));
    for (int j = 0; j < 3; ++j) {
      double want = 0;
      for (int r = 0; r < 6; ++r) want += std::exp(on.logit(r, j));
      CHECK(static_cast<double>(correlations.as<float>()[static_cast<std::size_t>(j)]) ==
            Approx(want).epsilon(1e-5));
    }
  }
}

}  // namespace
