#include "emulation.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "common/random.h"

EmulatedIndex threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {
namespace {

constexpr size_t kStackBytes = 64 * 1024, kGuardBytes = 256;
constexpr unsigned char kGuard = 0xa5;

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kAtShuffle, kDone };

// What a lane gave to a shuffle.
struct Given {
  uint64_t bits;
  unsigned mask;
};

struct Fiber {
  State state;
  unsigned mask;             // of the warp barrier it waits at
  int source;                // the thread whose value it waits for
  std::vector<Given> given;  // to the shuffles since the last barrier
  bool started;
  ucontext_t start;
  jmp_buf at;
  std::unique_ptr<unsigned char[]> stack;
};

std::mutex one_launch;
std::vector<Fiber> fibers;
std::vector<unsigned char> shared;
unsigned char* shared_begin;
const std::function<void()>* body;
int current, num_threads;
int64_t launches;
jmp_buf scheduler;

uint64_t seed() {
  const char* text = std::getenv("EKPNET_EMULATION_SEED");
  return text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
}

// Draws of orders, the same for the same seed.
struct Draws {
  uint64_t key, count = 0;

  template <class T>
  void shuffle(std::vector<T>& x) {
    for (size_t i = x.size(); i > 1; --i)
      std::swap(x[i - 1], x[ekpnet::bounded(ekpnet::random_bits(key, count++), i)]);
  }
};

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

// Whether the value that a lane waits for is there, or never will be.
bool answered(const Fiber& fiber) {
  const Fiber& source = fibers[fiber.source];
  return source.given.size() >= fiber.given.size() || source.state == State::kDone;
}

// Forgets what the lanes of a warp gave to shuffles, where all of them are past these.
void forget_given(int first) {
  size_t most = 0;
  for (int i = first; i < first + 32; ++i) most = std::max(most, fibers[i].given.size());
  for (int i = first; i < first + 32; ++i) {
    if (fibers[i].state == State::kDone) continue;
    if (fibers[i].given.size() != most) fail("lanes of a warp took part in different shuffles");
    fibers[i].given.clear();
  }
}

// Lets a lane go on once the value is there that it waits for, a warp's lanes once all lanes of
// their mask wait, and the block's threads once all that still run wait.
void release() {
  for (Fiber& fiber : fibers)
    if (fiber.state == State::kAtShuffle && answered(fiber)) fiber.state = State::kReady;
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
      if (mask == ~0u) forget_given(first);
      for (int j = 0; j < 32; ++j)
        if (mask >> j & 1) fibers[first + j].state = State::kReady;
    }
  }
  bool all = true, any = false;
  for (const Fiber& fiber : fibers) {
    all = all && (fiber.state == State::kAtBlockBarrier || fiber.state == State::kDone);
    any = any || fiber.state == State::kAtBlockBarrier;
  }
  if (!all || !any) return;
  for (int first = 0; first < num_threads; first += 32) forget_given(first);
  for (Fiber& fiber : fibers)
    if (fiber.state == State::kAtBlockBarrier) fiber.state = State::kReady;
}

void run_block(size_t shared_bytes, Draws draws) {
  std::memset(shared_begin, 0xff, shared_bytes);  // NaN in every float format
  std::memset(shared_begin + shared_bytes, kGuard, kGuardBytes);
  for (Fiber& fiber : fibers) {
    fiber.state = State::kReady;
    fiber.started = false;
    fiber.given.clear();
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = kStackBytes;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, enter, 0);
  }
  std::vector<int> ready;
  for (;;) {
    ready.clear();
    bool left = false;
    for (int i = 0; i < num_threads; ++i) {
      if (fibers[i].state == State::kReady) ready.push_back(i);
      left = left || fibers[i].state != State::kDone;
    }
    if (!left) break;
    if (ready.empty()) fail("threads of a block wait at different barriers");
    draws.shuffle(ready);
    for (int thread : ready) resume(thread);
    release();
  }
  for (size_t i = 0; i < kGuardBytes; ++i)
    if (shared_begin[shared_bytes + i] != kGuard) fail("a write past the end of shared memory");
}

}  // namespace

void fail(const char* what) {
  std::fprintf(stderr, "emulated GPU: block %u of %u, thread %u of %u, seed %llu: %s\n", blockIdx.x,
               gridDim.x, threadIdx.x, blockDim.x, static_cast<unsigned long long>(seed()), what);
  std::abort();
}

int lane() { return static_cast<int>(threadIdx.x % 32); }

unsigned char* shared_memory() { return shared_begin; }

void give(unsigned mask, uint64_t bits) {
  if (!(mask >> lane() & 1)) fail("a lane outside of its shuffle's mask");
  fibers[current].given.push_back({bits, mask});
}

uint64_t take(unsigned mask, int source) {
  if (!(mask >> source & 1)) fail("a shuffle from a lane outside of the mask");
  Fiber& fiber = fibers[current];
  fiber.source = current / 32 * 32 + source;
  const size_t number = fiber.given.size() - 1;
  while (!answered(fiber)) {
    fiber.state = State::kAtShuffle;
    yield();
  }
  const std::vector<Given>& given = fibers[fiber.source].given;
  if (given.size() <= number) fail("a shuffle from a lane that has ended");
  if (given[number].mask != mask) fail("lanes of a shuffle with different masks");
  return given[number].bits;
}

void check_aligned(const void* at, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(at) % bytes != 0) fail("a misaligned access to four neighbours");
}

void run(int64_t blocks, int threads, size_t shared_bytes, const std::function<void()>& thread) {
  const std::lock_guard<std::mutex> lock(one_launch);
  if (threads % 32 != 0 || threads > 1024) fail("blocks are whole warps of at most 1024 threads");
  if (shared_bytes > 163 * 1024) fail("more shared memory than an A100 gives a block");
  ++launches;
  num_threads = threads;
  fibers.resize(threads);
  for (Fiber& fiber : fibers)
    if (!fiber.stack) fiber.stack = std::make_unique<unsigned char[]>(kStackBytes);
  shared.resize(shared_bytes + kGuardBytes + 64);
  shared_begin = shared.data() + (64 - reinterpret_cast<uintptr_t>(shared.data()) % 64);
  body = &thread;
  gridDim.x = static_cast<unsigned>(blocks);
  blockDim.x = static_cast<unsigned>(threads);
  Draws draws{ekpnet::stream_key(seed(), 0, 0, 0)};
  std::vector<unsigned> order(blocks);
  std::iota(order.begin(), order.end(), 0u);
  draws.shuffle(order);
  for (unsigned block : order) {
    blockIdx.x = block;
    run_block(shared_bytes, {ekpnet::stream_key(seed(), 1, block, 0)});
  }
}

}  // namespace emulation

using namespace emulation;

// Launches so far, for tests that count them.
extern "C" __attribute__((visibility("default"))) int64_t emulated_launches() { return launches; }

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
  give(mask, predicate ? 1 : 0);
  unsigned votes = 0;
  for (int source = 0; source < 32; ++source)
    if (mask >> source & 1) votes |= static_cast<unsigned>(take(mask, source)) << source;
  return votes;
}
