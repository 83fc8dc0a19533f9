#include "cpu/isa/sparse_product.h"

#include <algorithm>

#include "cpu/isa/isa_kernels.h"
#include "cpu/isa/vectors.h"

namespace ekpnet {
namespace {

constexpr int64_t kAhead = 4;  // rows of x whose cache misses are under way

void multiply(const SparseProductArgs& args, int64_t begin, int64_t end) {
  using V = Vector<float>;
  const int64_t r = args.width;
  for (int64_t row = begin; row < end; ++row) {
    float* y = args.y + row * r;
    std::fill(y, y + r, 0.0f);
    for (int64_t i = args.indptr[row]; i < args.indptr[row + 1]; ++i) {
      if (i + kAhead < args.indptr[end]) {
        const float* next = args.x + args.columns[i + kAhead] * r;
        for (int64_t d = 0; d < r; d += 16) __builtin_prefetch(next + d);
      }
      axpy<V>(r, args.values[i], args.x + args.columns[i] * r, y);
    }
  }
}

}  // namespace

namespace EKPNET_ISA {
SparseProductKernel sparse_product() { return multiply; }
}  // namespace EKPNET_ISA

}  // namespace ekpnet
