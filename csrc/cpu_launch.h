// What the CPU bindings of the model's ops share.
#pragma once

#include <algorithm>

#include "attention_args.h"
#include "checks.h"
#include "cpu/dispatch.h"

namespace ekpnet {

using torch::stable::parallel_for;

// Pairs per task below which threads cost more than they bring.
constexpr int64_t kPairGrain = 256;

template <class T>
T* zeroed(const Tensor& tensor) {
  T* p = mutable_data<T>(tensor);
  std::fill(p, p + tensor.numel(), T(0));
  return p;
}

// out [n] = sum over chunks, in order, of parts [chunks, n].
template <class T>
void sum_chunks(const T* parts, int64_t chunks, int64_t n, T* out) {
  parallel_for(0, n, 4096, [&](int64_t begin, int64_t end) {
    std::copy(parts + begin, parts + end, out + begin);
    for (int64_t c = 1; c < chunks; ++c)
      for (int64_t i = begin; i < end; ++i) out[i] += parts[c * n + i];
  });
}

}  // namespace ekpnet
