#include "emulation.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

EmulatedIndex threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {
namespace {

constexpr size_t kStackBytes = 64 * 1024, kGuardBytes = 256;
constexpr unsigned char kGuard = 0xa5;

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct Fiber {
  State state;
  unsigned mask;  // of the warp barrier it waits at
  bool started;
  ucontext_t start;
  jmp_buf at;
  std::unique_ptr<unsigned char[]> stack;
};

std::mutex one_launch;
std::vector<Fiber> fibers;
std::vector<uint64_t> slots;  // one per thread, for shuffles
std::vector<unsigned char> shared;
unsigned char* shared_begin;
const std::function<void()>* body;
int current, num_threads;
jmp_buf scheduler;

bool backwards() {
  const char* order = std::getenv("EKPNET_EMULATION_ORDER");
  return order != nullptr && std::strcmp(order, "backwards") == 0;
}

// ucontext makes the stacks; jumps switch between them, because they need no system call.
void enter() {
  (*body)();
  fibers[current].state = State::kDone;
  _longjmp(scheduler, 1);
}

void yield() {
  if (_setjmp(fibers[current].at) == 0) _longjmp(scheduler, 1);
}

void resume(int thread) {
  current = thread;
  threadIdx.x = static_cast<unsigned>(thread);
  Fiber& fiber = fibers[thread];
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.at, 1);
  fiber.started = true;
  setcontext(&fiber.start);
}

// Lets a warp's lanes go on once all lanes of their mask wait, and the block's threads once all
// that still run wait.
void release() {
  for (int first = 0; first < num_threads; first += 32) {
    for (int i = first; i < first + 32 && i < num_threads; ++i) {
      if (fibers[i].state != State::kAtWarpBarrier) continue;
      bool all = true;
      for (int j = 0; j < 32; ++j) {
        if (!(fibers[i].mask >> j & 1)) continue;
        const Fiber& other = fibers[first + j];
        all = all && other.state == State::kAtWarpBarrier && other.mask == fibers[i].mask;
      }
      if (!all) continue;
      const unsigned mask = fibers[i].mask;
      for (int j = 0; j < 32; ++j)
        if (mask >> j & 1) fibers[first + j].state = State::kReady;
    }
  }
  bool all = true, any = false;
  for (const Fiber& fiber : fibers) {
    all = all && (fiber.state == State::kAtBlockBarrier || fiber.state == State::kDone);
    any = any || fiber.state == State::kAtBlockBarrier;
  }
  if (all && any)
    for (Fiber& fiber : fibers)
      if (fiber.state == State::kAtBlockBarrier) fiber.state = State::kReady;
}

void run_block(size_t shared_bytes) {
  std::memset(shared_begin, 0xff, shared_bytes);  // NaN in every float format
  std::memset(shared_begin + shared_bytes, kGuard, kGuardBytes);
  for (Fiber& fiber : fibers) {
    fiber.state = State::kReady;
    fiber.started = false;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = kStackBytes;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, enter, 0);
  }
  const bool reversed = backwards();
  for (;;) {
    bool ran = false, left = false;
    for (int i = 0; i < num_threads; ++i) {
      const int thread = reversed ? num_threads - 1 - i : i;
      if (fibers[thread].state != State::kReady) continue;
      resume(thread);
      ran = true;
    }
    release();
    for (const Fiber& fiber : fibers) left = left || fiber.state != State::kDone;
    if (!left) break;
    if (!ran) {
      bool ready = false;
      for (const Fiber& fiber : fibers) ready = ready || fiber.state == State::kReady;
      if (!ready) fail("threads of a block wait at different barriers");
    }
  }
  for (size_t i = 0; i < kGuardBytes; ++i)
    if (shared_begin[shared_bytes + i] != kGuard) fail("a write past the end of shared memory");
}

}  // namespace

void fail(const char* what) {
  std::fprintf(stderr, "emulated GPU: block %u of %u, thread %u of %u: %s\n", blockIdx.x, gridDim.x,
               threadIdx.x, blockDim.x, what);
  std::abort();
}

int lane() { return static_cast<int>(threadIdx.x % 32); }

unsigned char* shared_memory() { return shared_begin; }

uint64_t exchange(unsigned mask, uint64_t bits, int source) {
  if (!(mask >> lane() & 1)) fail("a lane outside of its shuffle's mask");
  if (!(mask >> source & 1)) fail("a shuffle from a lane outside of the mask");
  const int warp = current / 32 * 32;
  slots[current] = bits;
  __syncwarp(mask);
  const uint64_t value = slots[warp + source];
  __syncwarp(mask);
  return value;
}

void run(int64_t blocks, int threads, size_t shared_bytes, const std::function<void()>& thread) {
  const std::lock_guard<std::mutex> lock(one_launch);
  if (threads % 32 != 0 || threads > 1024) fail("blocks are whole warps of at most 1024 threads");
  if (shared_bytes > 163 * 1024) fail("more shared memory than an A100 gives a block");
  num_threads = threads;
  fibers.resize(threads);
  slots.assign(threads, 0);
  for (Fiber& fiber : fibers)
    if (!fiber.stack) fiber.stack = std::make_unique<unsigned char[]>(kStackBytes);
  shared.resize(shared_bytes + kGuardBytes + 64);
  shared_begin = shared.data() + (64 - reinterpret_cast<uintptr_t>(shared.data()) % 64);
  body = &thread;
  gridDim.x = static_cast<unsigned>(blocks);
  blockDim.x = static_cast<unsigned>(threads);
  for (int64_t block = 0; block < blocks; ++block) {
    blockIdx.x = static_cast<unsigned>(block);
    run_block(shared_bytes);
  }
}

}  // namespace emulation

using namespace emulation;

void __syncthreads() {
  fibers[current].state = State::kAtBlockBarrier;
  yield();
}

void __syncwarp(unsigned mask) {
  fibers[current].mask = mask;
  fibers[current].state = State::kAtWarpBarrier;
  yield();
}

unsigned __ballot_sync(unsigned mask, bool predicate) {
  unsigned votes = 0;
  for (int source = 0; source < 32; ++source)
    if (mask >> source & 1)
      votes |= static_cast<unsigned>(exchange(mask, predicate ? 1 : 0, source)) << source;
  return votes;
}
