// SPDX-License-Identifier: MIT
/// Buffers and their sizes, listed once: to count bytes beforehand, or to allocate.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvfit/core/bytes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// One function names the buffers of a computation with their sizes. The code that runs calls it to
/// allocate them, and whoever plans calls it on empty buffers to count bytes (as LAPACK's workspace
/// query), so that each size is written once.
///
///     struct sums {
///       vector parts;
///       std::vector<double> whole;
///       void declare(workspace& space, index_t n, index_t panel) {
///         space.add(parts, panel);
///         space.add(whole, n);
///       }
///     };
///     sums own;
///     allocate_buffers(own, n, panel);             // in the code that runs
///     workspace space;                      // in the plan
///     sums().declare(space, n, panel);      // space.most() bytes
///
/// What is added is held until its `phase` ends, or to the end: `most` is the peak. Counts are
/// doubles, for sizes asked about need not exist, and no product of them overflows.
class workspace {
 public:
  enum class purpose : std::uint8_t { count, allocate };

  explicit workspace(purpose what = purpose::count) noexcept
      : allocates_(what == purpose::allocate) {}

  /// rows × cols numbers of an Eigen matrix, and `size` ones of a vector. What they hold before is
  /// lost where the size differs.
  template <class Matrix>
  void add(Matrix& to, index_t rows, index_t cols) {
    count(bytes_of_elements<typename Matrix::Scalar>(rows, cols));
    if (allocates_) to.resize(rows, cols);
  }
  template <class Vector>
  void add(Vector& to, index_t size) {
    count(bytes_of_elements<typename Vector::Scalar>(size, 1));
    if (allocates_) to.resize(size);
  }
  /// rows · cols elements. Those that are there stay, unless more memory is needed; new ones are
  /// `value`.
  template <class Element>
  void add(std::vector<Element>& to, index_t rows, index_t cols = 1, const Element& value = {}) {
    reserve(to, rows, cols);
    if (allocates_) to.resize(static_cast<std::size_t>(rows * cols), value);
  }
  /// Memory for as many, none of them there yet. Never two memories beside each other.
  template <class Element>
  void reserve(std::vector<Element>& to, index_t rows, index_t cols = 1) {
    count(bytes_of_elements<Element>(rows, cols));
    if (!allocates_) return;
    const auto size = static_cast<std::size_t>(rows * cols);
    if (to.capacity() >= size) return;
    to = {};
    to.reserve(size);
  }
  /// A vector that grows to as many one at a time, most often to far fewer: nothing is allocated.
  /// Counted with the moment at which the old memory lies beside the new.
  template <class Element>
  void grow(std::vector<Element>& /*to*/, index_t rows, index_t cols = 1) {
    count(grown_bytes(bytes_of_elements<Element>(rows, cols)));
  }

  /// Each of them.
  template <class... Vectors>
  void add_vectors(index_t size, Vectors&... to) {
    (add(to, size), ...);
  }
  template <class... Matrices>
  void add_matrices(index_t rows, index_t cols, Matrices&... to) {
    (add(to, rows, cols), ...);
  }

  /// Bytes that others allocate: what a function called returns.
  void count(double bytes) noexcept {
    held_ += bytes;
    most_ = (std::max)(most_, held_);
  }

  /// Bytes held at most so far.
  [[nodiscard]] double most() const noexcept { return most_; }

  /// What is added during its life is given back at its end.
  class phase {
   public:
    explicit phase(workspace& of) noexcept : of_(of), before_(of.held_) {}
    phase(const phase&) = delete;
    phase& operator=(const phase&) = delete;
    ~phase() { of_.held_ = before_; }

   private:
    workspace& of_;
    double before_;
  };

 private:
  template <class Element>
  static double bytes_of_elements(index_t rows, index_t cols) noexcept {
    return static_cast<double>(sizeof(Element)) * static_cast<double>(rows) *
           static_cast<double>(cols);
  }

  bool allocates_;
  double held_ = 0;
  double most_ = 0;
};

/// Allocates what `buffers` declares for these sizes.
template <class Buffers, class... Sizes>
void allocate_buffers(Buffers& buffers, const Sizes&... sizes) {
  workspace space(workspace::purpose::allocate);
  buffers.declare(space, sizes...);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
