// SPDX-License-Identifier: MIT
/// Counts what a program allocates, at malloc: Eigen does not ask operator new. To be included by
/// one unit of a program, for it defines malloc itself.
#pragma once

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <utility>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KVFIT_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define KVFIT_TEST_SANITIZED 1
#endif
#endif

#if defined(KVFIT_TEST_SANITIZED)
#include <sanitizer/allocator_interface.h>
#elif defined(__GLIBC__)
#include <malloc.h>
#endif

namespace {

/// Bytes and calls of the whole program since the last `start`.
std::atomic<bool> is_counting{false};
std::atomic<std::ptrdiff_t> live{0};
std::atomic<std::ptrdiff_t> peak{0};
std::atomic<std::ptrdiff_t> calls{0};

void note_allocated(std::size_t size) {
  if (!is_counting) return;
  ++calls;
  const std::ptrdiff_t now = live += static_cast<std::ptrdiff_t>(size);
  std::ptrdiff_t highest = peak;
  while (now > highest && !peak.compare_exchange_weak(highest, now)) {
  }
}
void note_freed(std::size_t size) {
  if (is_counting) live -= static_cast<std::ptrdiff_t>(size);
}

}  // namespace

#if defined(KVFIT_TEST_SANITIZED)

namespace {
constexpr bool can_count = true;
const int hooks_installed = __sanitizer_install_malloc_and_free_hooks(
    [](const volatile void*, std::size_t size) { note_allocated(size); },
    [](const volatile void* p) {
      if (p != nullptr) note_freed(__sanitizer_get_allocated_size(const_cast<const void*>(p)));
    });
}  // namespace

#elif defined(__GLIBC__)

// glibc lets a program bring its own malloc; these count and pass on to the original.
extern "C" {
void* __libc_malloc(std::size_t);                 // NOLINT(bugprone-reserved-identifier)
void* __libc_calloc(std::size_t, std::size_t);    // NOLINT(bugprone-reserved-identifier)
void* __libc_realloc(void*, std::size_t);         // NOLINT(bugprone-reserved-identifier)
void* __libc_memalign(std::size_t, std::size_t);  // NOLINT(bugprone-reserved-identifier)
void __libc_free(void*);                          // NOLINT(bugprone-reserved-identifier)

void* malloc(std::size_t size) {
  void* p = __libc_malloc(size);
  if (p != nullptr) note_allocated(malloc_usable_size(p));
  return p;
}
void* calloc(std::size_t count, std::size_t size) {
  void* p = __libc_calloc(count, size);
  if (p != nullptr) note_allocated(malloc_usable_size(p));
  return p;
}
void* realloc(void* old, std::size_t size) {
  if (old != nullptr) note_freed(malloc_usable_size(old));
  void* p = __libc_realloc(old, size);
  if (p != nullptr) note_allocated(malloc_usable_size(p));
  return p;
}
void* memalign(std::size_t alignment, std::size_t size) {
  void* p = __libc_memalign(alignment, size);
  if (p != nullptr) note_allocated(malloc_usable_size(p));
  return p;
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  return memalign(alignment, size);
}
int posix_memalign(void** p, std::size_t alignment, std::size_t size) {
  *p = memalign(alignment, size);
  return *p == nullptr ? ENOMEM : 0;
}
void free(void* p) {
  if (p != nullptr) note_freed(malloc_usable_size(p));
  __libc_free(p);
}
}

namespace {
constexpr bool can_count = true;
}

#else

namespace {
constexpr bool can_count = false;
}

#endif

namespace kvfit_test {
namespace {

struct allocations {
  std::ptrdiff_t calls = 0;
  std::ptrdiff_t peak_bytes = 0;
};

template <class Work>
allocations count_allocations(Work&& work) {
  live = 0;
  peak = 0;
  calls = 0;
  is_counting = true;
  work();
  is_counting = false;
  return {calls, peak};
}

}  // namespace
}  // namespace kvfit_test
