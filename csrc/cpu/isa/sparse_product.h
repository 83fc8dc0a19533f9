// Product of a sparse matrix and a dense one.
#pragma once

#include <cstdint>

namespace ekpnet {

struct SparseProductArgs {
  int64_t width;          // r
  const int64_t* indptr;  // [n + 1]
  const int32_t* columns;
  const float* values;
  const float* x;  // [K, r]
  float* y;        // [n, r]
};

// Rows [begin, end) of y.
using SparseProductKernel = void (*)(const SparseProductArgs& args, int64_t begin, int64_t end);

}  // namespace ekpnet
