// Argument checks that deep_score shares between devices.
#pragma once

#include "bindings/checks.h"
#include "common/deep_score_args.h"

namespace ekpnet {

constexpr int64_t kMaxHidden = 16, kMaxInput = 1024;

// All reals have the dtype of z and are stored as T.
template <class T>
DeepScoreArgs<T> deep_score_args(const Tensor& z, const Tensor& weights, const Tensor& biases,
                                 const Tensor& w_out, const Tensor& b_out, int64_t activation) {
  const ScalarType dtype = z.scalar_type();
  check_tensor(z, "z", dtype, {-1, -1});
  const int64_t B = z.size(0), K = z.size(1);
  check_range("width of z", K, 1, kMaxInput);
  check_tensor(weights, "weights", dtype, {-1, K, K});
  const int64_t hidden = weights.size(0);
  check_range("hidden layers", hidden, 0, kMaxHidden);
  check_tensor(biases, "biases", dtype, {hidden, K});
  check_tensor(w_out, "w_out", dtype, {K});
  check_tensor(b_out, "b_out", dtype, {1});
  check_range("activation", activation, 0, 2);
  return {B,
          K,
          static_cast<int>(hidden),
          static_cast<Activation>(activation),
          data<T>(z),
          data<T>(weights),
          data<T>(biases),
          data<T>(w_out),
          data<T>(b_out)};
}

}  // namespace ekpnet
