// A GPU for tests: runs the CUDA kernels' own source on the host, every thread of a block as a
// fiber that yields at barriers and shuffles. Blocks run one after the other, so a static variable
// is what shared memory is. It checks what a GPU does not: shared memory starts as NaN and ends in
// a guard; a barrier that a thread never reaches and a misaligned access to four neighbours abort
// with a message. The order of blocks, and of threads between barriers, is drawn from
// EKPNET_EMULATION_SEED, and a shuffle waits for its own source alone, because it orders no memory:
// the result of a race changes with the seed.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)
#define __restrict__

struct EmulatedIndex {
  unsigned x;
};
extern EmulatedIndex threadIdx, blockIdx, blockDim, gridDim;

using cudaStream_t = void*;

void __syncthreads();
void __syncwarp(unsigned mask = 0xffffffffu);
unsigned __ballot_sync(unsigned mask, bool predicate);

namespace emulation {

// A shuffle: every lane of the mask gives eight bytes, then takes those of others.
void give(unsigned mask, uint64_t bits);
uint64_t take(unsigned mask, int source);
void check_aligned(const void* at, size_t bytes);
int lane();
unsigned char* shared_memory();
void run(int64_t blocks, int threads, size_t shared_bytes, const std::function<void()>& thread);
[[noreturn]] void fail(const char* what);

template <class T>
T exchange_value(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  give(mask, bits);
  bits = take(mask, source);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class Kernel, class... Args>
void launch(Kernel kernel, int64_t blocks, int threads, size_t shared_bytes, cudaStream_t,
            const Args&... args) {
  run(blocks, threads, shared_bytes, [&] { kernel(args...); });
}

}  // namespace emulation

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int step) {
  return emulation::exchange_value(mask, value, emulation::lane() ^ step);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
  return emulation::exchange_value(mask, value, source % 32);
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }

// Threads take turns, so plain updates are atomic.
inline int atomicAdd(int* at, int x) {
  const int before = *at;
  *at += x;
  return before;
}

inline unsigned atomicOr(unsigned* at, unsigned x) {
  const unsigned before = *at;
  *at |= x;
  return before;
}
