#include "cuda/device.cuh"
#include "cuda/sum_parts.h"

namespace ekpnet {
namespace {

constexpr int kColumns = 32, kRows = 16;  // of a block

// out [n] = sum over parts of values [parts, n]; a warp owns 32 neighbouring columns and every
// 16th part, then the block's 16 sums are added in order.
template <class A, class S>
__global__ void __launch_bounds__(kColumns* kRows)
    sum_parts_kernel(const A* values, int64_t parts, int64_t n, S* out) {
  __shared__ A sums[kRows][kColumns];
  const int row = threadIdx.x / kColumns, column = threadIdx.x % kColumns;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kColumns + column;
  A sum = A(0);
  if (at < n)
#pragma unroll 4
    for (int64_t part = row; part < parts; part += kRows) sum += values[part * n + at];
  sums[row][column] = sum;
  __syncthreads();
  if (row != 0 || at >= n) return;
#pragma unroll
  for (int r = 1; r < kRows; ++r) sum += sums[r][column];
  out[at] = from_compute<S>(static_cast<Compute<S>>(sum));
}

}  // namespace

template <class A, class S>
void launch_sum_parts(const A* values, int64_t parts, int64_t n, S* out, cudaStream_t stream) {
  launch(sum_parts_kernel<A, S>, ceil_div(n, kColumns), kColumns * kRows, 0, stream, values, parts,
         n, out);
}

template void launch_sum_parts(const float*, int64_t, int64_t, float*, cudaStream_t);
template void launch_sum_parts(const float*, int64_t, int64_t, Bf16*, cudaStream_t);
template void launch_sum_parts(const double*, int64_t, int64_t, float*, cudaStream_t);
template void launch_sum_parts(const double*, int64_t, int64_t, Bf16*, cudaStream_t);
template void launch_sum_parts(const double*, int64_t, int64_t, double*, cudaStream_t);

}  // namespace ekpnet
