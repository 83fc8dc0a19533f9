// Sums over a block.
#pragma once

#include "cuda/device.cuh"

namespace ekpnet {

// Sum over the block's kThreads threads in one fixed order, in thread 0.
template <int kThreads>
__device__ double block_sum(double x) {
  __shared__ double sums[kThreads / kWarp];
  x = lane_sum<kWarp>(x);
  __syncthreads();  // `sums` may be in use still
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = x;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int w = 1; w < kThreads / kWarp; ++w) x += sums[w];
  return x;
}

}  // namespace ekpnet
