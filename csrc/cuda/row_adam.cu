#include <algorithm>

#include "cuda/row_adam.h"

namespace ekpnet {
namespace {

// Adam on touched rows. Kingma & Ba 2015, Algorithm 1, with gradient grad + l2 * table.
// table, m, v [E, row_size]; rows [n] distinct; grad [n, row_size].
// One thread per element of grad, grid-stride, so neighbours read neighbouring addresses of a row.
// Distinct rows make every element of the table the work of one thread: no atomics.
template <class T>
__global__ void row_adam_kernel(const RowAdamArgs<T> args) {
  const int64_t total = args.num_rows * args.row_size;
  const T beta1 = T(args.step.beta1), beta2 = T(args.step.beta2), eps = T(args.step.eps);
  const T rest1 = T(1 - args.step.beta1), rest2 = T(1 - args.step.beta2);
  const T step_size = T(args.step.step_size), l2 = T(args.step.l2);
  const T root2 = sqrt(T(args.step.scale2));
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < total;
       i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t at = args.rows[i / args.row_size] * args.row_size + i % args.row_size;
    const T x = args.table[at];
    const T g = args.grad[i] + l2 * x;
    const T m = beta1 * args.m[at] + rest1 * g;
    const T v = beta2 * args.v[at] + rest2 * g * g;
    args.m[at] = m;
    args.v[at] = v;
    args.table[at] = x - step_size * m / (sqrt(v) * root2 + eps);
  }
}

}  // namespace

template <class T>
void launch_row_adam(const RowAdamArgs<T>& args, cudaStream_t stream) {
  const int64_t total = args.num_rows * args.row_size;
  if (total == 0) return;
  constexpr int kThreads = 256;
  const int64_t blocks = std::min<int64_t>((total + kThreads - 1) / kThreads, 1 << 16);
  row_adam_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(args);
}

template void launch_row_adam(const RowAdamArgs<float>&, cudaStream_t);
template void launch_row_adam(const RowAdamArgs<double>&, cudaStream_t);

}  // namespace ekpnet
