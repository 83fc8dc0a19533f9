#include "cpu/isa/row_adam.h"

#include "cpu/isa/isa_kernels.h"

namespace ekpnet {
namespace {

inline float square_root(float x) { return __builtin_sqrtf(x); }
inline double square_root(double x) { return __builtin_sqrt(x); }

constexpr int64_t kAhead = 8;  // rows whose cache misses are under way

// A row that will be changed.
template <class T>
void prefetch(const T* row, int64_t size) {
  for (int64_t d = 0; d < size; d += 64 / sizeof(T)) __builtin_prefetch(row + d, 1);
}

template <class T>
void update_rows(const RowAdamArgs<T>& args, int64_t begin, int64_t end) {
  const int64_t size = args.row_size;
  const T beta1 = T(args.step.beta1), beta2 = T(args.step.beta2), eps = T(args.step.eps);
  const T one_minus_beta1 = T(1 - args.step.beta1), one_minus_beta2 = T(1 - args.step.beta2);
  const T step_size = T(args.step.step_size), l2 = T(args.step.l2);
  const T rsqrt_correction2 = T(__builtin_sqrt(args.step.scale2));
  for (int64_t i = begin; i < end; ++i) {
    if (i + kAhead < end && args.rows[i + kAhead] >= 0) {
      const int64_t at = args.rows[i + kAhead] * size;
      prefetch(args.table + at, size);
      prefetch(args.m + at, size);
      prefetch(args.v + at, size);
    }
    if (args.rows[i] < 0) continue;
    T* __restrict x = args.table + args.rows[i] * size;
    T* __restrict m = args.m + args.rows[i] * size;
    T* __restrict v = args.v + args.rows[i] * size;
    const T* __restrict grad = args.grad + i * size;
    for (int64_t d = 0; d < size; ++d) {
      const T g = grad[d] + l2 * x[d];
      m[d] = beta1 * m[d] + one_minus_beta1 * g;
      v[d] = beta2 * v[d] + one_minus_beta2 * g * g;
      x[d] -= step_size * m[d] / (square_root(v[d]) * rsqrt_correction2 + eps);
    }
  }
}

}  // namespace

namespace EKPNET_ISA {
RowAdamKernel<float> row_adam_f32() { return update_rows<float>; }
}  // namespace EKPNET_ISA

#if defined(EKPNET_FLOAT64)
namespace float64 {
RowAdamKernel<double> row_adam() { return update_rows<double>; }
}  // namespace float64
#endif

}  // namespace ekpnet
