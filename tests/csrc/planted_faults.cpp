// Kernels with a fault each, by name, for the emulated GPU to tell; prints what they computed.
#include <cstdio>
#include <cstring>

#include "cuda/device.cuh"

namespace ekpnet {
namespace {

constexpr int kThreads = 64;
float result[kThreads];

float* shared_floats() { return reinterpret_cast<float*>(shared_memory()); }

// Every lane stores, then reads what the lane beside its shuffle's partner stored.
void through_shuffle(bool with_barrier) {
  const int lane = static_cast<int>(threadIdx.x);
  shared_floats()[lane] = static_cast<float>(lane);
  float x = __shfl_xor_sync(kAllLanes, static_cast<float>(lane), 1);
  if (with_barrier) __syncwarp();
  result[lane] = x + shared_floats()[lane ^ 2];
}

// Every thread stores, then reads what a thread of the other warp stored.
void through_memory(bool with_barrier) {
  const int thread = static_cast<int>(threadIdx.x);
  shared_floats()[thread] = static_cast<float>(thread);
  if (with_barrier) __syncthreads();
  result[thread] = shared_floats()[(thread + kWarp) % kThreads];
}

void misaligned_access() {
  if (threadIdx.x == 5) result[0] = load4(shared_floats() + 2).x[0];
}

void barrier_in_a_branch() {
  if (threadIdx.x < 40) __syncthreads();
  __syncwarp();
}

void shuffle_in_a_branch() {
  if (threadIdx.x != 3) result[threadIdx.x] = __shfl_xor_sync(kAllLanes, 1.0f, 1);
}

void write_past_the_end() { shared_floats()[kThreads + threadIdx.x % 2] = 0.0f; }

void id_outside() { checked_id(7, 7); }

struct Named {
  const char* name;
  void (*kernel)();
};

const Named kKernels[] = {
    {"shuffle as a barrier", [] { through_shuffle(false); }},
    {"shuffle and a barrier", [] { through_shuffle(true); }},
    {"no barrier", [] { through_memory(false); }},
    {"barrier", [] { through_memory(true); }},
    {"misaligned access", misaligned_access},
    {"barrier in a branch", barrier_in_a_branch},
    {"shuffle in a branch", shuffle_in_a_branch},
    {"write past the end", write_past_the_end},
    {"id outside", id_outside},
};

}  // namespace
}  // namespace ekpnet

int main(int argc, char** argv) {
  using namespace ekpnet;
  for (const Named& named : kKernels) {
    if (argc != 2 || std::strcmp(argv[1], named.name) != 0) continue;
    launch(named.kernel, 1, kThreads, kThreads * sizeof(float), nullptr);
    for (float x : result) std::printf("%g ", x);
    return 0;
  }
  std::fprintf(stderr, "expected one kernel's name\n");
  return 2;
}
