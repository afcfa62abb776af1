// SPDX-License-Identifier: MIT
/// Pointers into emulated memory: every access through them is checked and recorded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "metal/emulator/types.hpp"

namespace metal_emulator {

template <space S, class T>
class pointer;

template <class T>
[[nodiscard]] inline T load(allocation* memory, std::int64_t offset) {
  static_assert(std::is_trivially_copyable_v<T> || operand<T>);
  const std::byte* from = checked(memory, offset, sizeof(T), alignof(T), access::load);
  T x;
  std::memcpy(static_cast<void*>(&x), from, sizeof(T));
  return x;
}

template <class T>
inline void store(allocation* memory, std::int64_t offset, const T& x) {
  std::byte* to = checked(memory, offset, sizeof(T), alignof(T), access::store);
  std::memcpy(to, static_cast<const void*>(&x), sizeof(T));
}

/// A place in memory: reading it loads, assigning to it stores.
template <space S, class T>
class place {
 public:
  using stored_type = T;
  place(allocation* memory, std::int64_t offset) : memory_(memory), offset_(offset) {}
  place(const place&) = default;

  operator T() const { return load<T>(memory_, offset_); }
  /// To what the value converts to: half to float, packed to plain vectors.
  template <class U>
  requires(!std::same_as<T, U> && !number<T> && std::is_convertible_v<T, U>) operator U() const {
    return load<T>(memory_, offset_);
  }
  template <class U>
  requires(!std::is_convertible_v<T, U> && std::is_constructible_v<U, T> && scalar<U>) explicit
  operator U() const {
    return static_cast<U>(load<T>(memory_, offset_));
  }

  const place& operator=(const place& other) const {
    store<T>(memory_, offset_, static_cast<T>(other));
    return *this;
  }
  template <class V>
  requires std::is_convertible_v<V, T>
  const place& operator=(const V& v) const {
    store<T>(memory_, offset_, static_cast<T>(v));
    return *this;
  }
#define METAL_EMULATOR_UPDATE(op)                                           \
  template <class V>                                                        \
  const place& operator op##=(const V& v) const {                           \
    store<T>(memory_, offset_, static_cast<T>(static_cast<T>(*this) op v)); \
    return *this;                                                           \
  }
  METAL_EMULATOR_UPDATE(+)
  METAL_EMULATOR_UPDATE(-)
  METAL_EMULATOR_UPDATE(*)
  METAL_EMULATOR_UPDATE(/)
  METAL_EMULATOR_UPDATE(%)
  METAL_EMULATOR_UPDATE(&)
  METAL_EMULATOR_UPDATE(|)
  METAL_EMULATOR_UPDATE(^)
  METAL_EMULATOR_UPDATE(<<)
  METAL_EMULATOR_UPDATE(>>)
#undef METAL_EMULATOR_UPDATE
  const place& operator++() const {
    return *this += T(1);
  }
  const place& operator--() const {
    return *this -= T(1);
  }
  T operator++(int) const {
    const T before = *this;
    *this += T(1);
    return before;
  }
  T operator--(int) const {
    const T before = *this;
    *this -= T(1);
    return before;
  }
  pointer<S, T> operator&() const {
    return {memory_, offset_};
  }

  allocation* memory() const {
    return memory_;
  }
  std::int64_t offset() const {
    return offset_;
  }

 protected:
  allocation* memory_;
  std::int64_t offset_;
};

/// A place that holds a vector, with places for its components.
template <space S, class T, int N>
class vector_place : public place<S, vec<T, N>> {
 public:
  using base = place<S, vec<T, N>>;
  using base::operator=;
  vector_place(allocation* m, std::int64_t o)
      : base(m, o), x(m, o), y(at(m, o, 1)), z(at(m, o, 2)), w(at(m, o, 3)) {}
  vector_place(const vector_place&) = default;
  const vector_place& operator=(const vector_place& other) const {
    base::operator=(static_cast<const base&>(other));
    return *this;
  }
  place<S, T> operator[](std::int64_t i) const {
    return at(this->memory_, this->offset_, static_cast<int>(vector_index(i, N)));
  }
  struct absent {
    absent(const place<S, T>&) {}
  };
  place<S, T> x, y;
  [[no_unique_address]] std::conditional_t<(N > 2), place<S, T>, absent> z;
  [[no_unique_address]] std::conditional_t<(N > 3), place<S, T>, absent> w;

 private:
  static place<S, T> at(allocation* m, std::int64_t o, int i) {
    return {m, o + std::int64_t{i} * static_cast<std::int64_t>(sizeof(T))};
  }
};

template <space S, class T>
struct place_trait {
  using type = place<S, T>;
};
template <space S, class T, int N>
struct place_trait<S, vec<T, N>> {
  using type = vector_place<S, T, N>;
};
template <space S, class T>
using place_t = typename place_trait<S, T>::type;

template <space S, class T>
requires requires {
  typename value_trait<T>::type;
}
struct value_trait<place<S, T>> {
  using type = typename value_trait<T>::type;
};
template <space S, class T, int N>
struct value_trait<vector_place<S, T, N>> {
  using type = vec<T, N>;
};

/// A pointer that reads; of one that also writes, the base. So a function template of a pointer to
/// const takes both, as in Metal.
template <space S, class T>
class pointer<S, const T> {
 public:
  pointer() = default;
  pointer(std::nullptr_t) {}
  pointer(allocation* memory, std::int64_t offset) : memory_(memory), offset_(offset) {}
  /// A cast: the same bytes as another type.
  template <class U>
  explicit pointer(const pointer<S, U>& other) : memory_(other.memory()), offset_(other.offset()) {}

  T operator[](std::int64_t i) const { return load<T>(memory_, offset_of(i)); }
  T operator*() const { return load<T>(memory_, offset_); }
  struct arrow {
    T value;
    const T* operator->() const { return &value; }
  };
  arrow operator->() const { return {load<T>(memory_, offset_)}; }

  pointer operator+(std::int64_t n) const { return {memory_, offset_of(n)}; }
  pointer operator-(std::int64_t n) const { return {memory_, offset_of(-n)}; }
  std::int64_t operator-(const pointer& other) const {
    return (offset_ - other.offset_) / static_cast<std::int64_t>(sizeof(T));
  }
  pointer& operator+=(std::int64_t n) { return offset_ = offset_of(n), *this; }
  pointer& operator-=(std::int64_t n) { return offset_ = offset_of(-n), *this; }
  pointer& operator++() { return *this += 1; }
  pointer& operator--() { return *this -= 1; }
  pointer operator++(int) {
    const pointer before = *this;
    return *this += 1, before;
  }
  friend bool operator==(const pointer& a, const pointer& b) {
    return a.memory_ == b.memory_ && a.offset_ == b.offset_;
  }
  friend bool operator<(const pointer& a, const pointer& b) { return a.offset_ < b.offset_; }
  friend bool operator==(const pointer& a, std::nullptr_t) { return a.memory_ == nullptr; }
  explicit operator bool() const { return memory_ != nullptr; }

  allocation* memory() const { return memory_; }
  std::int64_t offset() const { return offset_; }

 protected:
  std::int64_t offset_of(std::int64_t i) const {
    return offset_ + i * static_cast<std::int64_t>(sizeof(T));
  }
  allocation* memory_ = nullptr;
  std::int64_t offset_ = 0;  ///< in bytes
};

template <space S, class T>
class pointer : public pointer<S, const T> {
  using base = pointer<S, const T>;

 public:
  using base::base;
  pointer() = default;
  template <class U>
  requires(!std::is_const_v<U>) explicit pointer(const pointer<S, U>& other)
      : base(other.memory(), other.offset()) {}

  place_t<S, T> operator[](std::int64_t i) const { return {this->memory_, this->offset_of(i)}; }
  place_t<S, T> operator*() const { return {this->memory_, this->offset_}; }
  pointer operator+(std::int64_t n) const { return {this->memory_, this->offset_of(n)}; }
  pointer operator-(std::int64_t n) const { return {this->memory_, this->offset_of(-n)}; }
  std::int64_t operator-(const base& other) const { return base::operator-(other); }
  pointer& operator+=(std::int64_t n) { return this->offset_ = this->offset_of(n), *this; }
  pointer& operator-=(std::int64_t n) { return this->offset_ = this->offset_of(-n), *this; }
  pointer& operator++() { return *this += 1; }
  pointer& operator--() { return *this -= 1; }
  pointer operator++(int) {
    const pointer before = *this;
    return *this += 1, before;
  }
};

/// Pointers to void only travel; they must be cast before they are used.
template <space S>
class pointer<S, const void> {
 public:
  pointer(allocation* memory, std::int64_t offset) : memory_(memory), offset_(offset) {}
  template <class U>
  pointer(const pointer<S, U>& other) : memory_(other.memory()), offset_(other.offset()) {}
  allocation* memory() const { return memory_; }
  std::int64_t offset() const { return offset_; }

 private:
  allocation* memory_;
  std::int64_t offset_;
};

inline void check_array_index(std::int64_t i, std::size_t n, const allocation* memory) {
  if (i < 0 || static_cast<std::uint64_t>(i) >= n) {
    raise(fault_kind::out_of_range, "index " + std::to_string(i) + " of an array of " +
                                        std::to_string(n) + " in " + memory->name());
  }
}

/// An array of threadgroup memory; each index is checked against its own extent.
template <space S, class T, std::size_t... Extents>
class array;

template <space S, class T, std::size_t N>
class array<S, T, N> : public pointer<S, T> {
 public:
  array(allocation* memory, std::int64_t offset) : pointer<S, T>(memory, offset) {}
  auto operator[](std::int64_t i) const {
    check_array_index(i, N, this->memory());
    return pointer<S, T>::operator[](i);
  }
};

template <space S, class T, std::size_t N, std::size_t M, std::size_t... More>
class array<S, T, N, M, More...> {
 public:
  array(allocation* memory, std::int64_t offset) : memory_(memory), offset_(offset) {}
  array<S, T, M, More...> operator[](std::int64_t i) const {
    check_array_index(i, N, memory_);
    return {memory_, offset_ + i * static_cast<std::int64_t>((M * ... * More) * sizeof(T))};
  }
  pointer<S, T> first() const { return {memory_, offset_}; }
  allocation* memory() const { return memory_; }
  std::int64_t offset() const { return offset_; }

 private:
  allocation* memory_;
  std::int64_t offset_;
};

/// `threadgroup T name[A][B]` in a kernel.
template <class T, std::size_t... Extents>
inline auto threadgroup_variable(unsigned declaration, const char* name) {
  allocation* memory =
      threadgroup_memory(declaration, sizeof(T) * (std::size_t{1} * ... * Extents), name);
  if constexpr (sizeof...(Extents) == 0) {
    return place_t<space::threadgroup, T>(memory, 0);
  } else {
    return array<space::threadgroup, T, Extents...>(memory, 0);
  }
}

/// reinterpret_cast between checked pointers.
template <class To, class From>
inline To pointer_cast(const From& from) {
  return To(from);
}

/// `constant T name [[function_constant(n)]]`.
template <class T>
class function_constant {
 public:
  explicit constexpr function_constant(unsigned index, const char* name)
      : index_(index), name_(name) {}
  operator T() const {
    const auto* bytes = function_constant_bytes(index_);
    if (bytes == nullptr || bytes->size() != sizeof(T)) {
      raise(fault_kind::bad_launch, "function constant " + std::to_string(index_) + " (" + name_ +
                                        ") is " + (bytes ? "of another size" : "not set"));
    }
    T x;
    std::memcpy(&x, bytes->data(), sizeof(T));
    return x;
  }
  bool defined() const { return function_constant_bytes(index_) != nullptr; }

 private:
  unsigned index_;
  const char* name_;
};
template <class T>
struct value_trait<function_constant<T>> {
  using type = T;
};

}  // namespace metal_emulator
