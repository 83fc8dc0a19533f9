// The cross-entropy of a pair and its gradient.
#pragma once

#include <cmath>

#include "cuda/device.cuh"
#include "cuda/pair_loss.h"

namespace ekpnet {

template <class S>
__device__ Compute<S> pair_divisor(const PairLossArgs<S>& args) {
  return args.real_pairs != nullptr ? to_compute(*args.real_pairs) : Compute<S>(args.num_pairs);
}

// Cross-entropy of pair b, not divided; its gradient, divided, replaces the logit.
template <class S>
__device__ Compute<S> pair_loss(const PairLossArgs<S>& args, int64_t b, Compute<S>& logit) {
  using A = Compute<S>;
  const A x = logit + (args.offset != nullptr ? to_compute(args.offset[b]) : A(0));
  const A y = to_compute(args.labels[b]);
  const A real = args.real != nullptr ? to_compute(args.real[b]) : A(1);
  const A e = std::exp(x < A(0) ? x : -x);
  logit = ((x < A(0) ? e : A(1)) / (A(1) + e) - y) * real / pair_divisor(args);
  return ((x < A(0) ? A(0) : x) - x * y + std::log1p(e)) * real;
}

}  // namespace ekpnet
