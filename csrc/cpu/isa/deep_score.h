// The prediction layers over the concatenated hops (eq. 17, 18).
#pragma once

#include <cstdint>

#include "common/deep_score_args.h"

namespace ekpnet {

// Parameter gradients are summed within a chunk of pairs, then over chunks in order.
template <class T>
struct DeepScoreGrads {
  const T* dlogit;  // [B]
  const T* hidden;  // [B, L - 1, K], as the forward pass left it
  T* dz;            // [B, K]
  int64_t num_chunks;
  T* dweights_chunks;  // [num_chunks, L - 1, K, K]
  T* dbiases_chunks;   // [num_chunks, L - 1, K]
  T* dw_out_chunks;    // [num_chunks, K]
  T* db_out_chunks;    // [num_chunks, 1]
};

template <class T>
struct DeepScoreKernels {
  int64_t (*workspace_size)(const DeepScoreArgs<T>& args);
  // Pairs [begin, end): logit [B] (eq. 18 before its sigmoid), and unless null hidden
  // [B, L - 1, K], the layers z_1 .. z_{L-1} (eq. 17).
  void (*forward)(const DeepScoreArgs<T>& args, int64_t begin, int64_t end, T* logit, T* hidden,
                  T* workspace);
  // Pairs of one chunk: everything of DeepScoreGrads, whose chunk is overwritten.
  void (*backward)(const DeepScoreArgs<T>& args, const DeepScoreGrads<T>& grads, int64_t chunk,
                   T* workspace);
};

}  // namespace ekpnet
