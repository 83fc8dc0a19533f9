// Memory that the prediction layers need on a GPU.
#pragma once

#include <type_traits>

#include "bindings/cuda_launch.h"
#include "bindings/deep_score.h"
#include "cuda/deep_score.h"

namespace ekpnet {

// Weights as kernels read them, padded where they must be, and activations where shared memory does
// not hold them.
template <class S>
struct DeepWorkspace {
  using A = Compute<S>;
  Tensor padded, activations;
  const A* weights;  // [L - 1, KP, KP]

  DeepWorkspace(const Tensor& beside, const DeepScoreArgs<S>& args, const DeepScorePlan& plan,
                cudaStream_t stream)
      : padded(beside),
        activations(empty_beside(beside, {plan.blocks, plan.activation_values}, kComputeDtype<S>)) {
    if constexpr (std::is_same_v<S, A>) {
      weights = args.weights;
      if (plan.width == args.width && reinterpret_cast<uintptr_t>(weights) % 16 == 0) return;
    }
    padded = empty_beside(beside, {args.hidden, plan.width, plan.width}, kComputeDtype<S>);
    launch_pad_weights(args, plan, mutable_data<A>(padded), stream);
    weights = data<A>(padded);
  }
};

}  // namespace ekpnet
