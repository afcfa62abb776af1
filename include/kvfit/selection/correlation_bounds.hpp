// SPDX-License-Identifier: MIT
/// Upper bounds of how much columns agree with a residual that moves.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// For every key j a number that c_j(r) = Φ_:j·r, or |c_j(r)|, does not exceed.
///
/// A key whose product was taken with an earlier residual r' is off by what has moved since
/// (Cauchy–Schwarz):
///
///     c_j(r) = α c_j(r') + Φ_:j·(r − α r') ≤ α c_j(r') + ‖Φ_:j‖ ‖r − α r'‖,
///     α = max(⟨r, r'⟩, 0) / ‖r'‖²,
///
/// and c_j(r) ≤ ‖Φ_:j‖ ‖r‖ always. The last `depth` residuals are kept, so that the distance is the
/// straight one: steps that turn away from each other add up to less than their lengths. A key
/// whose residual is about to be forgotten keeps the bound it then has.
class correlation_bounds {
 public:
  static constexpr index_t depth = 32;
  static_assert(depth <= 256, "a key says in one byte which residual it refers to");

  correlation_bounds() = default;
  /// No bound is known yet of `keys` columns of `queries` numbers.
  correlation_bounds(index_t keys, index_t queries) {
    allocate_buffers(*this, keys, queries);
    std::fill_n(known_.data(), keys, 0.0F);
  }

  void declare(workspace& space, index_t keys, index_t queries) {
    space.add(residuals_, depth, queries);
    space.add(now_, queries);
    space.add_vectors(keys, known_, bounds_, of_);
  }

  /// Makes the bounds those for `residual`, which is finite and in length within 1e38 times those
  /// before, or 0. `norms`: ‖Φ_:j‖; `slack`, over these: what fp32 may add to a product, which is
  /// far more than what it takes from a norm or from a bound here.
  void move_to(const vector& residual, const vector& norms, float slack) {
    newest_ = (newest_ + 1) % depth;  // in the place of the oldest, once that has served
    const auto newest = static_cast<std::uint8_t>(newest_);
    const index_t queries = residual.size();
    for (index_t i = 0; i < queries; ++i) {
      now_[static_cast<std::size_t>(i)] = static_cast<double>(residual[i]);
    }
    const double length_sq = simd::squared_norm(now_.data(), queries);
    std::array<float, depth> carried{};
    std::array<float, depth> moved{};
    for (index_t e = 0; e < depth; ++e) {
      const auto at = static_cast<std::size_t>(e);
      const double product = simd::dot(residuals_.data() + e * queries, now_.data(), queries);
      const double before = lengths_sq_[at];
      const double alpha = before > 0 ? (std::max)(0.0, product / before) : 0.0;
      const double distance_sq = length_sq - 2 * alpha * product + alpha * alpha * before;
      carried[at] = static_cast<float>(alpha);
      // The difference loses digits where little has moved: some 1e-7 of ‖r‖.
      moved[at] = static_cast<float>(std::sqrt((std::max)(distance_sq, 0.0)) * (1 + 1e-6) +
                                     1e-7 * std::sqrt(length_sq)) +
                  slack;
    }
    const float most = static_cast<float>(std::sqrt(length_sq) * (1 + 1e-6)) + slack;
    for (index_t j = 0; j < bounds_.size(); ++j) {
      const std::uint8_t of = of_[static_cast<std::size_t>(j)];
      const float drifted = carried[of] * known_[j] + moved[of] * norms[j];
      const float limit = most * norms[j];
      const float bound = drifted < limit ? drifted : limit;
      bounds_[j] = bound;
      known_[j] = of == newest ? bound : known_[j];  // what it referred to goes
    }
    std::copy(now_.begin(), now_.end(), residuals_.data() + newest_ * queries);
    lengths_sq_[newest] = length_sq;
  }

  /// T: c_j, or |c_j|, is at most this.
  [[nodiscard]] const vector& bounds() const noexcept { return bounds_; }

  /// Key j has been examined: with this residual its bound is `most`.
  void set(index_t j, float most) noexcept {
    known_[j] = most;
    of_[static_cast<std::size_t>(j)] = static_cast<std::uint8_t>(newest_);
  }

 private:
  std::vector<double> residuals_;  // depth × n: in fp32 the distances of near ones would be lost
  std::vector<double> now_;
  std::array<double, depth> lengths_sq_{};
  index_t newest_ = depth - 1;
  vector known_;   // c_j is at most this, for the residual of_[j]
  vector bounds_;  // for the residual now
  std::vector<std::uint8_t> of_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit
