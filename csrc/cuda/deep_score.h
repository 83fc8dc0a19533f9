// The prediction layers (eq. 17, 18) on the GPU, over raw pointers of device memory.
#pragma once

#include "common/deep_score_args.h"
#include "cuda/pair_loss.h"
#include "cuda/types.h"

namespace ekpnet {

constexpr int kDeepThreads = 128;   // of a block
constexpr int kMostDeepPairs = 32;  // P

// Where weights and activations of the layers lie; gradients of activations are in shared memory.
enum class LayerMemory {
  kAllShared,          // a layer's weights, and activations of all layers, in shared memory
  kActivationsShared,  // weights in device memory
  kDevice              // both in device memory
};

// How a pass is laid over blocks and memory; a function of the shapes alone.
struct DeepScorePlan {
  int pairs;      // P, pairs of a block at a time
  int tile_rows;  // of a thread's tile in products of activations: 2 or 4
  int width;      // KP, K rounded up to a multiple of 4
  int stride;     // of rows of activations and of weights in shared memory
  LayerMemory memory;
  int64_t shared_bytes;       // of a block
  int64_t blocks;             // backward: each with its own sums of parameter gradients
  int64_t activation_values;  // of a block in device memory, else 0
};

DeepScorePlan plan_deep_score(int64_t num_pairs, int64_t width, int hidden, int value_bytes,
                              bool backward);

// weights [L - 1, K, K] into padded [L - 1, KP, KP], 0 beyond K.
template <class S>
void launch_pad_weights(const DeepScoreArgs<S>& args, const DeepScorePlan& plan, Compute<S>* padded,
                        cudaStream_t stream);

// logit [B]; `activations` [blocks, activation_values] is null where shared memory holds them.
template <class S>
void launch_deep_score_forward(const DeepScoreArgs<S>& args, const DeepScorePlan& plan,
                               const Compute<S>* padded, Compute<S>* activations, S* logit,
                               cudaStream_t stream);

template <class S>
struct DeepScoreGradsCuda {
  using A = Compute<S>;
  const S* dlogit;  // [B]
  S* dz;            // [B, K]
  A* dweights;      // [blocks, L - 1, K, K]
  A* dbiases;       // [blocks, L - 1, K]
  A* dw_out;        // [blocks, K]
  A* db_out;        // [blocks, 1]
};

template <class S>
void launch_deep_score_backward(const DeepScoreArgs<S>& args, const DeepScorePlan& plan,
                                const Compute<S>* padded, Compute<S>* activations,
                                const DeepScoreGradsCuda<S>& grads, cudaStream_t stream);

// The same where the gradient of the logits is that of their cross-entropy, and `grads.dlogit` is
// not read; bce [blocks] are sums that add up to it.
template <class S>
void launch_deep_score_gradients(const DeepScoreArgs<S>& args, const DeepScorePlan& plan,
                                 const Compute<S>* padded, Compute<S>* activations,
                                 const DeepScoreGradsCuda<S>& grads, const PairLossArgs<S>& loss,
                                 double* bce, cudaStream_t stream);

}  // namespace ekpnet
