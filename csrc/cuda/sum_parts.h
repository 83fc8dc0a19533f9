// Sums of equal parts.
#pragma once

#include "cuda/types.h"

namespace ekpnet {

// out [n] = sum over parts of values [parts, n], in an order that the shapes fix.
template <class A, class S>
void launch_sum_parts(const A* values, int64_t parts, int64_t n, S* out, cudaStream_t stream);

}  // namespace ekpnet
