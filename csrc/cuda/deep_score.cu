#include <cmath>
#include <type_traits>

#include "cuda/deep_score.h"
#include "cuda/pair_loss.cuh"
#include "cuda/products.cuh"

namespace ekpnet {
namespace {

template <class A>
__device__ A activate(Activation activation, A x) {
  switch (activation) {
    case Activation::kTanh:
      return std::tanh(x);
    case Activation::kRelu:
      return x < A(0) ? A(0) : x;  // NaN stays NaN
    default:
      return A(1) / (A(1) + std::exp(-x));
  }
}

// Derivative of the activation in terms of its value.
template <class A>
__device__ A slope(Activation activation, A y) {
  switch (activation) {
    case Activation::kTanh:
      return A(1) - y * y;
    case Activation::kRelu:
      return y <= A(0) ? A(0) : A(1);
    default:
      return y * (A(1) - y);
  }
}

// weights [L - 1, K, K] into padded [L - 1, KP, KP]. One thread per padded value.
template <class S>
__global__ void pad_weights_kernel(const DeepScoreArgs<S> args, int KP, Compute<S>* padded) {
  const int64_t n = static_cast<int64_t>(args.hidden) * KP * KP, K = args.width;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t c = i % KP, r = i / KP % KP, layer = i / KP / KP;
    padded[i] = r < K && c < K ? to_compute(args.weights[(layer * K + r) * K + c]) : Compute<S>(0);
  }
}

// What both passes do with a tile of pairs. Which memory holds what is a constant, so that every
// load of a product says where it loads from; so is how many rows a thread's tile of a product has.
template <LayerMemory kMemory, int kRows, class S>
struct DeepTile {
  using A = Compute<S>;
  static constexpr bool kWeightsShared = kMemory == LayerMemory::kAllShared;
  static constexpr bool kActivationsShared = kMemory != LayerMemory::kDevice;
  const DeepScoreArgs<S>& args;
  const DeepScorePlan& plan;
  const A* padded;
  A* weights;  // [KP, stride] in shared memory, if they fit

  __device__ Team team() const { return {static_cast<int>(threadIdx.x), kDeepThreads}; }

  // A layer's weights and the stride of their rows; a barrier must follow.
  __device__ const A* layer_weights(int layer, int* stride) const {
    const int KP = plan.width;
    const A* from = padded + static_cast<int64_t>(layer) * KP * KP;
    if constexpr (kWeightsShared) {
      for (int i = threadIdx.x; i < KP * KP / 4; i += kDeepThreads)
        store4_shared(weights + i / (KP / 4) * plan.stride + 4 * (i % (KP / 4)),
                      load4(from + 4 * i));
      *stride = plan.stride;
      return weights;
    } else {
      *stride = KP;
      return from;
    }
  }

  __device__ static void store_activations(A* to, const Vec4<A>& value) {
    if constexpr (kActivationsShared)
      store4_shared(to, value);
    else
      store4(to, value);
  }

  // Rows of z into x [P, stride], 0 beyond the pairs and K.
  __device__ void load_inputs(int64_t begin, int count, A* x) const {
    const int KP = plan.width;
    for (int at = threadIdx.x; at < plan.pairs * KP; at += kDeepThreads) {
      const int i = at / KP, k = at % KP;
      const bool real = i < count && k < args.width;
      x[i * plan.stride + k] = real ? to_compute(args.z[(begin + i) * args.width + k]) : A(0);
    }
  }

  // y = a(x W_l + b_l) (eq. 17); columns beyond K stay 0. Begins and ends with a barrier.
  __device__ void hidden_layer(int layer, const A* x, A* y) const {
    __syncthreads();
    int stride;
    const A* W = layer_weights(layer, &stride);
    __syncthreads();
    const S* b = args.biases + layer * args.width;
    product_rows_cols<kRows, 0>(
        team(), plan.pairs, plan.width, plan.width, x, plan.stride, W, stride,
        [&](int, int c) {
          Vec4<A> start;
#pragma unroll
          for (int j = 0; j < 4; ++j) start.x[j] = c + j < args.width ? to_compute(b[c + j]) : A(0);
          return start;
        },
        [&](int i, int c, const Vec4<A>& sum) {
          Vec4<A> value;
#pragma unroll
          for (int j = 0; j < 4; ++j)
            value.x[j] = c + j < args.width ? activate(args.activation, sum.x[j]) : A(0);
          store_activations(y + i * plan.stride + c, value);
        });
    __syncthreads();
  }

  // Calls store(i, logit) for every pair, from the activations of the last hidden layer.
  template <class Store>
  __device__ void logits(int count, const A* top, Store store) const {
    constexpr int kLanes = 8;
    for_rows<kLanes>(team(), plan.pairs, [&](int i, int lane) {
      A sum = A(0);
      if (i < count)
        for (int k = lane; k < args.width; k += kLanes)
          sum += top[i * plan.stride + k] * to_compute(args.w_out[k]);
      sum = lane_sum<kLanes>(sum);
      if (i < count && lane == 0) store(i, sum + to_compute(args.b_out[0]));
    });
  }
};

// Logits through all layers (eq. 17, 18). z [B, K], padded [L - 1, KP, KP], logit [B].
// A block owns tiles of P pairs; activations of two layers stay on chip (in device memory where K
// is too large for that), weights come layer by layer.
// Accumulates in float (double for double), every sum in one fixed order.
template <LayerMemory kMemory, int kRows, class S>
__global__ void __launch_bounds__(kDeepThreads, 2)
    deep_score_forward_kernel(const DeepScoreArgs<S> args, const DeepScorePlan plan,
                              const Compute<S>* padded, Compute<S>* activations, S* logit) {
  using A = Compute<S>;
  A* shared = reinterpret_cast<A*>(shared_memory());
  using Tile = DeepTile<kMemory, kRows, S>;
  const Tile tile{args, plan, padded, shared};
  const int P = plan.pairs, stride = plan.stride;
  A* x = shared + (Tile::kWeightsShared ? plan.width * stride : 0);
  if constexpr (!Tile::kActivationsShared) x = activations + blockIdx.x * plan.activation_values;
  A* y = x + P * stride;
  for (int64_t begin = static_cast<int64_t>(blockIdx.x) * P; begin < args.num_pairs;
       begin += static_cast<int64_t>(gridDim.x) * P) {
    const int count = static_cast<int>(args.num_pairs - begin < P ? args.num_pairs - begin : P);
    tile.load_inputs(begin, count, x);
    for (int layer = 0; layer < args.hidden; ++layer) {
      tile.hidden_layer(layer, x, y);
      A* swap = x;
      x = y;
      y = swap;
    }
    __syncthreads();
    tile.logits(count, x, [&](int i, A sum) { logit[begin + i] = from_compute<S>(sum); });
    __syncthreads();
  }
}

// Gradient of the prediction layers; activations are recomputed, then the layers undone in reverse.
// Writes dz [B, K] and per block the sums of DeepScoreGradsCuda; inputs as for the forward pass.
// kLoss: the gradient of the logits is that of their cross-entropy, whose sum per block is written.
// A block owns tiles of P pairs and its own sums in device memory, one thread to a place.
// Accumulates in float (double for double), every sum in one fixed order.
template <LayerMemory kMemory, int kRows, bool kLoss, class S>
__global__ void __launch_bounds__(kDeepThreads, 2)
    deep_score_backward_kernel(const DeepScoreArgs<S> args, const DeepScorePlan plan,
                               const Compute<S>* padded, Compute<S>* activations,
                               const DeepScoreGradsCuda<S> grads, const PairLossArgs<S> loss,
                               double* bce) {
  using A = Compute<S>;
  __shared__ A dlogit[kMostDeepPairs], losses[kMostDeepPairs];
  A* shared = reinterpret_cast<A*>(shared_memory());
  using Tile = DeepTile<kMemory, kRows, S>;
  const Tile tile{args, plan, padded, shared};
  const Team team = tile.team();
  const int P = plan.pairs, K = static_cast<int>(args.width), KP = plan.width, ds = plan.stride;
  const int hidden = args.hidden;
  A* next = shared + (Tile::kWeightsShared ? KP * ds : 0);
  A* act = next;
  if constexpr (Tile::kActivationsShared)
    next += (hidden + 1) * P * ds;
  else
    act = activations + blockIdx.x * plan.activation_values;
  A *dact = next, *dprev = next + P * ds;
  A* const dweights = grads.dweights + static_cast<int64_t>(blockIdx.x) * hidden * K * K;
  A* const dbiases = grads.dbiases + static_cast<int64_t>(blockIdx.x) * hidden * K;
  A* const dw_out = grads.dw_out + static_cast<int64_t>(blockIdx.x) * K;
  double total = 0;
  bool first = true;
  for (int64_t begin = static_cast<int64_t>(blockIdx.x) * P; begin < args.num_pairs;
       begin += static_cast<int64_t>(gridDim.x) * P, first = false) {
    const int count = static_cast<int>(args.num_pairs - begin < P ? args.num_pairs - begin : P);
    tile.load_inputs(begin, count, act);
    for (int layer = 0; layer < hidden; ++layer)
      tile.hidden_layer(layer, act + layer * P * ds, act + (layer + 1) * P * ds);
    __syncthreads();
    const A* top = act + hidden * P * ds;
    if constexpr (kLoss)
      tile.logits(count, top, [&](int i, A x) {
        losses[i] = pair_loss(loss, begin + i, x);
        dlogit[i] = x;
      });
    else
      for (int i = team.rank; i < count; i += team.size)
        dlogit[i] = to_compute(grads.dlogit[begin + i]);
    __syncthreads();
    if (kLoss && team.rank == 0)
      for (int i = 0; i < count; ++i) total += losses[i];
    for (int at = team.rank; at < P * KP; at += team.size) {
      const int i = at / KP, k = at % KP;
      const bool real = i < count && k < K;
      dact[i * ds + k] = real ? dlogit[i] * to_compute(args.w_out[k]) : A(0);
    }
    for (int k = team.rank; k <= K; k += team.size) {
      A sum = A(0);
      for (int i = 0; i < count; ++i) sum += k < K ? dlogit[i] * top[i * ds + k] : dlogit[i];
      A* to = k < K ? dw_out + k : grads.db_out + blockIdx.x;
      *to = first ? sum : *to + sum;
    }
    __syncthreads();
    for (int layer = hidden - 1; layer >= 0; --layer) {
      const A *in = act + layer * P * ds, *out = act + (layer + 1) * P * ds;
      for (int at = team.rank; at < P * KP; at += team.size) {
        const int i = at / KP * ds + at % KP;
        dact[i] *= slope(args.activation, out[i]);
      }
      int stride;
      const A* W = tile.layer_weights(layer, &stride);
      __syncthreads();
      for (int k = team.rank; k < K; k += team.size) {
        A sum = A(0);
        for (int i = 0; i < P; ++i) sum += dact[i * ds + k];
        A* to = dbiases + layer * K + k;
        *to = first ? sum : *to + sum;
      }
      A* dW = dweights + static_cast<int64_t>(layer) * K * K;
      product_cols_cols<4>(team, KP, KP, P, in, ds, dact, ds, Zero<A>(),
                           [&](int r, int c, const Vec4<A>& x) {
                             if (r >= K) return;
                             A* to = dW + static_cast<int64_t>(r) * K + c;
#pragma unroll
                             for (int j = 0; j < 4; ++j)
                               if (c + j < K) to[j] = first ? x.x[j] : to[j] + x.x[j];
                           });
      product_rows_rows<kRows, 0>(
          team, P, KP, KP, dact, ds, W, stride, Zero<A>(),
          [&](int i, int c, const Vec4<A>& x) { store4_shared(dprev + i * ds + c, x); });
      __syncthreads();
      A* swap = dact;
      dact = dprev;
      dprev = swap;
    }
    for (int at = team.rank; at < count * K; at += team.size)
      grads.dz[begin * K + at] = from_compute<S>(dact[at / K * ds + at % K]);
    __syncthreads();
  }
  if (kLoss && team.rank == 0) bce[blockIdx.x] = total;
}

// Calls f with the memory and the rows of a tile as constants. float64, which is there to check
// gradients, has plans for device memory alone, and bfloat16 one number of rows.
template <class S, class F>
void with_plan(const DeepScorePlan& plan, F f) {
  const auto with_rows = [&](auto memory) {
    if constexpr (std::is_same_v<S, float>)
      if (plan.tile_rows == 2) return f(memory, std::integral_constant<int, 2>());
    f(memory, std::integral_constant<int, 4>());
  };
  using enum LayerMemory;
  if constexpr (!std::is_same_v<S, double>) {
    if (plan.memory == kAllShared)
      return with_rows(std::integral_constant<LayerMemory, kAllShared>());
    if (plan.memory == kActivationsShared)
      return with_rows(std::integral_constant<LayerMemory, kActivationsShared>());
  }
  f(std::integral_constant<LayerMemory, kDevice>(), std::integral_constant<int, 4>());
}

}  // namespace

template <class S>
void launch_pad_weights(const DeepScoreArgs<S>& args, const DeepScorePlan& plan, Compute<S>* padded,
                        cudaStream_t stream) {
  constexpr int kThreads = 256;
  const int64_t n = static_cast<int64_t>(args.hidden) * plan.width * plan.width;
  launch(pad_weights_kernel<S>, grid_size(n, kThreads), kThreads, 0, stream, args, plan.width,
         padded);
}

template <class S>
void launch_deep_score_forward(const DeepScoreArgs<S>& args, const DeepScorePlan& plan,
                               const Compute<S>* padded, Compute<S>* activations, S* logit,
                               cudaStream_t stream) {
  with_plan<S>(plan, [&](auto memory, auto rows) {
    launch(deep_score_forward_kernel<decltype(memory)::value, decltype(rows)::value, S>,
           plan.blocks, kDeepThreads, plan.shared_bytes, stream, args, plan, padded, activations,
           logit);
  });
}

template <class S>
void launch_deep_score_backward(const DeepScoreArgs<S>& args, const DeepScorePlan& plan,
                                const Compute<S>* padded, Compute<S>* activations,
                                const DeepScoreGradsCuda<S>& grads, cudaStream_t stream) {
  with_plan<S>(plan, [&](auto memory, auto rows) {
    launch(deep_score_backward_kernel<decltype(memory)::value, decltype(rows)::value, false, S>,
           plan.blocks, kDeepThreads, plan.shared_bytes, stream, args, plan, padded, activations,
           grads, PairLossArgs<S>{}, static_cast<double*>(nullptr));
  });
}

template <class S>
void launch_deep_score_gradients(const DeepScoreArgs<S>& args, const DeepScorePlan& plan,
                                 const Compute<S>* padded, Compute<S>* activations,
                                 const DeepScoreGradsCuda<S>& grads, const PairLossArgs<S>& loss,
                                 double* bce, cudaStream_t stream) {
  with_plan<S>(plan, [&](auto memory, auto rows) {
    launch(deep_score_backward_kernel<decltype(memory)::value, decltype(rows)::value, true, S>,
           plan.blocks, kDeepThreads, plan.shared_bytes, stream, args, plan, padded, activations,
           grads, loss, bce);
  });
}

#define EKPNET_INSTANTIATE(S)                                                                  \
  template void launch_pad_weights(const DeepScoreArgs<S>&, const DeepScorePlan&, Compute<S>*, \
                                   cudaStream_t);                                              \
  template void launch_deep_score_forward(const DeepScoreArgs<S>&, const DeepScorePlan&,       \
                                          const Compute<S>*, Compute<S>*, S*, cudaStream_t);   \
  template void launch_deep_score_backward(const DeepScoreArgs<S>&, const DeepScorePlan&,      \
                                           const Compute<S>*, Compute<S>*,                     \
                                           const DeepScoreGradsCuda<S>&, cudaStream_t);
EKPNET_INSTANTIATE(float)
EKPNET_INSTANTIATE(Bf16)
EKPNET_INSTANTIATE(double)
#undef EKPNET_INSTANTIATE

#define EKPNET_INSTANTIATE(S)                                                              \
  template void launch_deep_score_gradients(const DeepScoreArgs<S>&, const DeepScorePlan&, \
                                            const S*, S*, const DeepScoreGradsCuda<S>&,    \
                                            const PairLossArgs<S>&, double*, cudaStream_t);
EKPNET_INSTANTIATE(float)
EKPNET_INSTANTIATE(double)
#undef EKPNET_INSTANTIATE

}  // namespace ekpnet
