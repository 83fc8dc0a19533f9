// What launchers and kernels share with the host's compiler.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(EKPNET_EMULATED)
#include "emulation.h"
#else
#include <cuda_runtime.h>
#endif

#include "common/bf16.h"
#include "common/host_device.h"

namespace ekpnet {

constexpr int kWarp = 32;

// The type that values of a storage type are computed in.
template <class S>
struct ComputeType {
  using type = S;
};
template <>
struct ComputeType<Bf16> {
  using type = float;
};
template <class S>
using Compute = typename ComputeType<S>::type;

EKPNET_HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
EKPNET_HOST_DEVICE constexpr int round_up4(int n) { return (n + 3) / 4 * 4; }

// Stride of rows of n values in shared memory, 4 more than a multiple of 8: eight neighbouring
// rows' 16-byte reads fall into different banks.
EKPNET_HOST_DEVICE constexpr int bank_stride(int n) { return (n + 7) / 8 * 8 + 4; }

// Blocks for a grid-stride loop over n elements.
inline int64_t grid_size(int64_t n, int threads) {
  const int64_t blocks = ceil_div(n, threads);
  return blocks < (1 << 16) ? blocks : 1 << 16;
}

}  // namespace ekpnet
