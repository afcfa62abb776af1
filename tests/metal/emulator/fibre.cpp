// SPDX-License-Identifier: MIT
#ifdef __APPLE__  // whose ucontext is for those who ask, and whose MAP_ANONYMOUS then is too
#define _XOPEN_SOURCE 600
#define _DARWIN_C_SOURCE 1
#pragma clang diagnostic ignored "-Wdeprecated-declarations"
#endif
#include "metal/emulator/fibre.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#define METAL_EMULATOR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define METAL_EMULATOR_ASAN 1
#endif
#endif

#ifdef METAL_EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// System V on x86-64: a switch of stacks in a few instructions. Elsewhere ucontext, which asks the
// operating system for the signal mask at each switch and so is slower; METAL_EMULATOR_UCONTEXT
// asks for it anywhere.
#if defined(__x86_64__) && defined(__ELF__) && !defined(METAL_EMULATOR_UCONTEXT)
#define METAL_EMULATOR_ASSEMBLY 1
#else
#include <ucontext.h>
#endif

#ifdef METAL_EMULATOR_ASSEMBLY
extern "C" void metal_emulator_switch(void** save, void* load);
asm(R"(
.text
.p2align 4
.globl metal_emulator_switch
.type metal_emulator_switch, @function
metal_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size metal_emulator_switch, .-metal_emulator_switch
)");
#endif

namespace metal_emulator {

namespace {

#ifdef METAL_EMULATOR_ASAN
constexpr std::size_t stack_bytes = 512 * 1024;
#else
constexpr std::size_t stack_bytes = 128 * 1024;
#endif

struct context {
#ifdef METAL_EMULATOR_ASSEMBLY
  void* stack_pointer = nullptr;
#else
  ucontext_t registers{};
#endif
  void* fake_stack = nullptr;  // of the address sanitizer
};

struct fibre {
  std::byte* stack = nullptr;  // its lowest page may not be touched
  context at;
  bool ended = true;
};

void switch_from(context& from, context& to) {
#ifdef METAL_EMULATOR_ASSEMBLY
  metal_emulator_switch(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.registers, &to.registers);
#endif
}

}  // namespace

struct fibres::implementation {
  std::vector<fibre> all;
  std::uint32_t count = 0;
  std::uint32_t current = 0;
  void (*body)() = nullptr;
  context outside;
  const void* outside_stack = nullptr;
  std::size_t outside_size = 0;
  std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));

  void prepare(fibre& f);
  void enter(fibre& f);
  void arrived_in_fibre(fibre& f);
  void back(fibre& f, bool for_good);
};

namespace {

fibres::implementation* starting = nullptr;

// Never returns, so it keeps nothing on the stack that a sanitizer would have to clear.
#if defined(__clang__) || defined(__GNUC__)
__attribute__((no_sanitize_address))
#endif
void start() {
  fibres::implementation& self = *starting;
  fibre& f = self.all[self.current];
  self.arrived_in_fibre(f);
  self.body();
  self.back(f, true);
  std::abort();  // an ended fibre was resumed
}

}  // namespace

void fibres::implementation::prepare(fibre& f) {
  if (f.stack == nullptr) {
    void* memory = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) {
      std::fputs("metal emulator: no memory for the stacks of fibres\n", stderr);
      std::abort();
    }
    f.stack = static_cast<std::byte*>(memory);
  }
  f.ended = false;
  f.at.fake_stack = nullptr;
#ifdef METAL_EMULATOR_ASSEMBLY
  // What metal_emulator_switch pops: six registers and the address of start(). Above them lies a
  // return address, as after a call: 8 bytes below a multiple of 16.
  auto** top = reinterpret_cast<void**>(f.stack + stack_bytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&start);
  for (int r = 0; r < 6; ++r) *--top = nullptr;
  f.at.stack_pointer = top;
#else
  getcontext(&f.at.registers);
  f.at.registers.uc_stack.ss_sp = f.stack;
  f.at.registers.uc_stack.ss_size = stack_bytes;
  f.at.registers.uc_link = nullptr;
  makecontext(&f.at.registers, start, 0);
#endif
}

void fibres::implementation::enter(fibre& f) {
#ifdef METAL_EMULATOR_ASAN
  __sanitizer_start_switch_fiber(&outside.fake_stack, f.stack, stack_bytes);
#endif
  switch_from(outside, f.at);
#ifdef METAL_EMULATOR_ASAN
  __sanitizer_finish_switch_fiber(outside.fake_stack, nullptr, nullptr);
#endif
}

void fibres::implementation::arrived_in_fibre([[maybe_unused]] fibre& f) {
#ifdef METAL_EMULATOR_ASAN
  __sanitizer_finish_switch_fiber(f.at.fake_stack, &outside_stack, &outside_size);
#endif
}

void fibres::implementation::back(fibre& f, bool for_good) {
  f.ended = for_good;
#ifdef METAL_EMULATOR_ASAN
  __sanitizer_start_switch_fiber(for_good ? nullptr : &f.at.fake_stack, outside_stack,
                                 outside_size);
#endif
  switch_from(f.at, outside);
  arrived_in_fibre(f);
}

fibres::fibres() : self_(std::make_unique<implementation>()) {}

fibres::~fibres() {
  for (const fibre& f : self_->all) {
    if (f.stack != nullptr) munmap(f.stack, stack_bytes);
  }
}

void fibres::begin(std::uint32_t count, void (*body)()) {
  self_->body = body;
  self_->count = count;
  if (self_->all.size() < count) self_->all.resize(count);
  for (std::uint32_t i = 0; i < count; ++i) self_->prepare(self_->all[i]);
}

bool fibres::resume(std::uint32_t index) {
  self_->current = index;
  starting = self_.get();
  fibre& f = self_->all[index];
  self_->enter(f);
  return f.ended;
}

void fibres::leave() {
  self_->back(self_->all[self_->current], false);
}

void fibres::abandon() {
#ifdef METAL_EMULATOR_ASAN
  for (fibre& f : self_->all) {
    if (f.stack != nullptr) {
      __asan_unpoison_memory_region(f.stack + self_->page, stack_bytes - self_->page);
    }
  }
#endif
}

}  // namespace metal_emulator
