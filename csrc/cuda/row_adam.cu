#include <cmath>

#include "common/random_rounding.h"
#include "cuda/device.cuh"
#include "cuda/row_adam.h"

namespace ekpnet {
namespace {

constexpr int kThreads = 256;

// Adam on touched rows. Kingma & Ba 2015, Algorithm 1, with gradient grad + l2 * table.
// table, m, v [E, row_size]; rows [n] distinct or negative; grad [n, row_size]; step, l2 [].
// A thread owns kVector neighbours of a row, so a row is read in whole lines and distinct rows make
// every element the work of one thread: no atomics. A bfloat16 table is rounded at random. The
// step's number is read from the device, so that a captured launch can be replayed. Computes in
// float (double for double).
template <int kVector, class S>
__global__ void __launch_bounds__(kThreads) row_adam_kernel(const RowAdamCudaArgs<S> args) {
  using A = Compute<S>;
  __shared__ A corrections[2];
  __shared__ uint64_t stream;
  if (threadIdx.x == 0) {
    const double step = static_cast<double>(*args.step);
    corrections[0] = A(args.lr / (1 - std::pow(args.beta1, step)));
    corrections[1] = A(std::sqrt(1 / (1 - std::pow(args.beta2, step))));
    stream = rounding_stream(args.seed, *args.step);
  }
  __syncthreads();
  const A step_size = corrections[0], rsqrt_correction2 = corrections[1], l2 = A(*args.l2);
  const A beta1 = A(args.beta1), beta2 = A(args.beta2), eps = A(args.eps);
  const A one_minus_beta1 = A(1 - args.beta1), one_minus_beta2 = A(1 - args.beta2);
  const auto in_row = static_cast<uint32_t>(args.row_size / kVector);
  const auto total = static_cast<uint32_t>(args.num_rows * in_row);
  for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total;
       i += static_cast<uint64_t>(gridDim.x) * kThreads) {
    const uint32_t n = static_cast<uint32_t>(i) / in_row;
    if (args.rows[n] < 0) continue;
    const int64_t row = checked_id(args.rows[n], args.table_rows);
    const int64_t column = static_cast<int64_t>(i - static_cast<uint64_t>(n) * in_row) * kVector;
    const int64_t at = row * args.row_size + column, from = n * args.row_size + column;
    if constexpr (kVector == 4) {
      Vec4<A> x = load4(args.table + at), m = load4(args.m + at), v = load4(args.v + at);
      const Vec4<A> grad = load4(args.grad + from);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const A g = grad.x[j] + l2 * x.x[j];
        m.x[j] = beta1 * m.x[j] + one_minus_beta1 * g;
        v.x[j] = beta2 * v.x[j] + one_minus_beta2 * g * g;
        x.x[j] -= step_size * m.x[j] / (std::sqrt(v.x[j]) * rsqrt_correction2 + eps);
      }
      store4(args.m + at, m);
      store4(args.v + at, v);
      if constexpr (std::is_same_v<S, Bf16>) {
        const uint64_t random = rounding_bits(stream, at);
        Vec4<S> stored;
#pragma unroll
        for (int j = 0; j < 4; ++j) stored.x[j] = rounded_at_random(x.x[j], random >> (16 * j));
        *reinterpret_cast<Vec4<S>*>(args.table + at) = stored;
      } else {
        store4(args.table + at, x);
      }
    } else {
      const A x = to_compute(args.table[at]), g = args.grad[from] + l2 * x;
      const A m = beta1 * args.m[at] + one_minus_beta1 * g,
              v = beta2 * args.v[at] + one_minus_beta2 * g * g;
      args.m[at] = m;
      args.v[at] = v;
      const A moved = x - step_size * m / (std::sqrt(v) * rsqrt_correction2 + eps);
      if constexpr (std::is_same_v<S, Bf16>)
        args.table[at] = rounded_at_random(moved, rounding_bits(stream, at));
      else
        args.table[at] = moved;
    }
  }
}

}  // namespace

template <class S>
void launch_row_adam(const RowAdamCudaArgs<S>& args, cudaStream_t stream) {
  if (args.row_size % 4 == 0)
    launch(row_adam_kernel<4, S>, grid_size(args.num_rows * (args.row_size / 4), kThreads),
           kThreads, 0, stream, args);
  else
    launch(row_adam_kernel<1, S>, grid_size(args.num_rows * args.row_size, kThreads), kThreads, 0,
           stream, args);
}

template void launch_row_adam(const RowAdamCudaArgs<float>&, cudaStream_t);
template void launch_row_adam(const RowAdamCudaArgs<Bf16>&, cudaStream_t);
template void launch_row_adam(const RowAdamCudaArgs<double>&, cudaStream_t);

}  // namespace ekpnet
