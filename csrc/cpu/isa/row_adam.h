// Adam on the rows of a table that a mini-batch touched.
#pragma once

#include <cstdint>

#include "common/row_adam_args.h"

namespace ekpnet {

template <class T>
struct RowAdamArgs {
  int64_t num_rows;     // n, touched rows
  int64_t row_size;     // elements of a table row
  T* table;             // [E, row_size]
  T* m;                 // [E, row_size], first moment
  T* v;                 // [E, row_size], second moment
  const int32_t* rows;  // [n], distinct; a negative one is skipped
  const T* grad;        // [n, row_size]
  AdamStep step;        // gradient is grad + l2 * table
};

// Touched rows [begin, end).
template <class T>
using RowAdamKernel = void (*)(const RowAdamArgs<T>& args, int64_t begin, int64_t end);

}  // namespace ekpnet
