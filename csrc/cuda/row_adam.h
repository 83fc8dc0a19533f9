// Adam on the touched rows of a table in device memory.
#pragma once

#include "cuda/types.h"

namespace ekpnet {

template <class S>
struct RowAdamCudaArgs {
  int64_t num_rows;        // n, touched rows
  int64_t row_size;        // elements of a table row
  int64_t table_rows;      // E
  S* table;                // [E, row_size]
  Compute<S>* m;           // [E, row_size], first moment
  Compute<S>* v;           // [E, row_size], second moment
  const int32_t* rows;     // [n], distinct, below E; a negative one is skipped
  const Compute<S>* grad;  // [n, row_size]
  const int64_t* step;     // [], from 1
  const double* l2;        // [], gradient is grad + l2 * table
  double lr, beta1, beta2, eps;
  int64_t seed;  // of the rounding of a bfloat16 table
};

template <class S>
void launch_row_adam(const RowAdamCudaArgs<S>& args, cudaStream_t stream);

}  // namespace ekpnet
