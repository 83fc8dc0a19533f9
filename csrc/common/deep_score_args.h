// The inputs of deep_score as raw pointers, for every device.
#pragma once

#include <cstdint>

namespace ekpnet {

enum class Activation : int { kTanh = 0, kRelu = 1, kSigmoid = 2 };

template <class T>
struct DeepScoreArgs {
  int64_t num_pairs;      // B
  int64_t width;          // K, of the input and of every hidden layer
  int hidden;             // L - 1 hidden layers
  Activation activation;  // a of eq. 17
  const T* z;             // [B, K]
  const T* weights;       // [L - 1, K, K]
  const T* biases;        // [L - 1, K]
  const T* w_out;         // [K]
  const T* b_out;         // [1]
};

}  // namespace ekpnet
