// The prediction layers (17), (18) over a block of pairs, which goes through all layers before the
// next one starts, so that activations stay in the cache.
#pragma once

#include "cpu/isa/arena.h"
#include "cpu/isa/deep_score.h"
#include "cpu/isa/vectors.h"

namespace ekpnet {
namespace {

constexpr int64_t kLayerBlock = 32;

template <class T>
class LayerStack {
  using V = Vector<T>;
  static constexpr int kLanes = EKPNET_VECTOR_BYTES / sizeof(T);

 public:
  LayerStack(const DeepScoreArgs<T>& args, T* base, int64_t* size)
      : args_(args), K(args.width), KP(round_up(args.width, kLanes)), layers(args.hidden) {
    Arena<T> arena(base);
    weights_ = arena.take(layers * K * KP);
    weights_t_ = arena.take(layers * K * KP);
    act_ = arena.take((layers + 1) * kLayerBlock * KP);
    dact_ = arena.take(kLayerBlock * KP);
    dprev_ = arena.take(kLayerBlock * KP);
    w_out_ = arena.take(KP);
    dw_out_ = arena.take(KP);
    dbiases_ = arena.take(layers * KP);
    dweights_ = arena.take(layers * K * KP);
    if (size) *size = arena.next() - base;
  }

  // Padded copies of the parameters; the backward pass needs the weights transposed.
  void load_parameters(bool forward, bool backward) {
    fill(act_, kLayerBlock * KP, T(0));
    for (int64_t l = 0; l < layers; ++l) {
      const T* weights = args_.weights + l * K * K;
      if (forward) read_rows(weights, K, K, weights_ + l * K * KP);
      if (!backward) continue;
      T* to = weights_t_ + l * K * KP;
      transpose(K, K, weights, K, to, KP);
      for (int64_t i = 0; i < K; ++i) fill(to + i * KP + K, KP - K, T(0));
    }
    read_rows(args_.w_out, K, 1, w_out_);
  }

  // Where the rows of z are expected, `stride()` apart.
  T* input() { return act_; }
  int64_t stride() const { return KP; }

  void read_input(int64_t begin, int64_t P) { read_rows(args_.z + begin * K, K, P, act_); }

  // Activations of the P pairs in `input()` through all hidden layers.
  void propagate(int64_t P) {
    for (int64_t l = 0; l < layers; ++l) {
      const T* in = act_ + l * kLayerBlock * KP;
      T* out = act_ + (l + 1) * kLayerBlock * KP;
      const T* bias = args_.biases + l * K;
      for (int64_t i = 0; i < P; ++i)
        for (int64_t k = 0; k < KP; ++k) out[i * KP + k] = k < K ? bias[k] : T(0);
      gemm<V>(P, KP, K, in, KP, 1, weights_ + l * K * KP, KP, out, KP, true);
      for (int64_t i = 0; i < P * KP; i += kLanes) store(out + i, activate(load<V>(out + i)));
    }
  }

  void write_logits(int64_t P, T* logit) const {
    const T* top = act_ + layers * kLayerBlock * KP;
    for (int64_t i = 0; i < P; ++i) logit[i] = dot<V>(KP, top + i * KP, w_out_) + args_.b_out[0];
  }

  void write_hidden(int64_t begin, int64_t P, T* hidden) const {
    for (int64_t l = 0; l < layers; ++l)
      for (int64_t i = 0; i < P; ++i)
        copy(act_ + ((l + 1) * kLayerBlock + i) * KP, K, hidden + ((begin + i) * layers + l) * K);
  }

  // Activations of pairs [begin, begin + P), as propagate() left them.
  void read_activations(int64_t begin, int64_t P, const T* hidden) {
    read_input(begin, P);
    for (int64_t l = 0; l < layers; ++l)
      read_rows(hidden + (begin * layers + l) * K, layers * K, P,
                act_ + (l + 1) * kLayerBlock * KP);
  }

  void clear_gradients() {
    fill(dw_out_, KP, T(0));
    fill(dbiases_, layers * KP, T(0));
    fill(dweights_, layers * K * KP, T(0));
    db_out_ = 0;
  }

  // Gradients of the P pairs whose activations are here, from those of their logits [P]. Returns
  // the gradient of z, P rows that are `stride()` apart.
  const T* propagate_backward(int64_t P, const T* dlogit) {
    const T* top = act_ + layers * kLayerBlock * KP;
    for (int64_t i = 0; i < P; ++i) {
      const T d = dlogit[i];
      db_out_ += d;
      for (int64_t k = 0; k < KP; k += kLanes) {
        store(dprev_ + i * KP + k, load<V>(top + i * KP + k) * d);
        store(dact_ + i * KP + k, load<V>(w_out_ + k) * d);
      }
    }
    add_column_sums<V>(P, KP, dprev_, dw_out_);
    for (int64_t l = layers - 1; l >= 0; --l) {
      const T* in = act_ + l * kLayerBlock * KP;
      const T* out = act_ + (l + 1) * kLayerBlock * KP;
      for (int64_t i = 0; i < P * KP; i += kLanes)
        store(dact_ + i, load<V>(dact_ + i) * slope(load<V>(out + i)));
      add_column_sums<V>(P, KP, dact_, dbiases_ + l * KP);
      gemm<V>(K, KP, P, in, 1, KP, dact_, KP, dweights_ + l * K * KP, KP, true);
      gemm<V>(P, KP, K, dact_, KP, 1, weights_t_ + l * K * KP, KP, dprev_, KP, false);
      T* swap = dact_;
      dact_ = dprev_;
      dprev_ = swap;
    }
    return dact_;
  }

  void write_rows(const T* rows, int64_t P, T* to) const {
    for (int64_t i = 0; i < P; ++i) copy(rows + i * KP, K, to + i * K);
  }

  void write_gradients(const DeepScoreGrads<T>& grads, int64_t chunk) const {
    for (int64_t l = 0; l < layers; ++l) {
      for (int64_t i = 0; i < K; ++i)
        __builtin_memcpy(grads.dweights_chunks + ((chunk * layers + l) * K + i) * K,
                         dweights_ + (l * K + i) * KP, K * sizeof(T));
      __builtin_memcpy(grads.dbiases_chunks + (chunk * layers + l) * K, dbiases_ + l * KP,
                       K * sizeof(T));
    }
    __builtin_memcpy(grads.dw_out_chunks + chunk * K, dw_out_, K * sizeof(T));
    grads.db_out_chunks[chunk] = static_cast<T>(db_out_);
  }

 private:
  static void copy(const T* from, int64_t n, T* to) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(to + i, load<V>(from + i));
    for (; i < n; ++i) to[i] = from[i];
  }

  // Rows of K elements, `stride` apart, to rows that zeros pad.
  void read_rows(const T* from, int64_t stride, int64_t P, T* to) const {
    for (int64_t i = 0; i < P; ++i) {
      copy(from + i * stride, K, to + i * KP);
      fill(to + i * KP + K, KP - K, T(0));
    }
  }

  V activate(V x) const {
    switch (args_.activation) {
      case Activation::kTanh:
        return hyperbolic_tangent<T>(x);
      case Activation::kRelu:
        return x < V{} ? V{} : x;  // NaN stays NaN
      default:
        return sigmoid<T>(x);
    }
  }

  // Derivative of the activation in terms of its value.
  V slope(V y) const {
    const V one = V{} + T(1);
    switch (args_.activation) {
      case Activation::kTanh:
        return one - y * y;
      case Activation::kRelu:
        return y <= V{} ? V{} : one;
      default:
        return y * (one - y);
    }
  }

  const DeepScoreArgs<T>& args_;
  const int64_t K, KP, layers;
  T* weights_;    // [L - 1, K, KP]
  T* weights_t_;  // [L - 1, K, KP], transposed
  T* act_;        // [L, kLayerBlock, KP], z_0 .. z_{L-1}
  T* dact_;       // [kLayerBlock, KP]
  T* dprev_;      // [kLayerBlock, KP]
  T* w_out_;      // [KP]
  T* dw_out_;     // [KP]
  T* dbiases_;    // [L - 1, KP]
  T* dweights_;   // [L - 1, K, KP]
  double db_out_ = 0;
};

}  // namespace
}  // namespace ekpnet
