// What the CPU bindings of the model's ops share.
#pragma once

#include <algorithm>

#include "checks.h"
#include "cpu/dispatch.h"

namespace ekpnet {

using torch::stable::parallel_for;

constexpr int64_t kMaxWidth = 128;  // D

// Pairs per task below which threads cost more than they bring.
constexpr int64_t kPairGrain = 256;

// Calls f with a value of the tensor's float type.
template <class F>
auto dispatch_float(const Tensor& tensor, const char* name, F f) {
  const ScalarType dtype = tensor.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, name, " is ",
                  dtype_name(dtype), ", expected float32 or float64");
  return dtype == ScalarType::Float ? f(float()) : f(double());
}

inline void check_range(const char* name, int64_t value, int64_t low, int64_t high) {
  STD_TORCH_CHECK(value >= low && value <= high, name, " is ", value, ", expected ", low, " to ",
                  high);
}

// Rows of the entity table, (v, gamma) or v alone.
inline void check_channels(const Tensor& entity) {
  STD_TORCH_CHECK(entity.dim() == 3 && (entity.size(1) == 1 || entity.size(1) == 2),
                  "entity has shape ", shape_text(entity.sizes()),
                  ", expected [n, C, D] with C = 1 (v) or 2 (v, gamma)");
}

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
