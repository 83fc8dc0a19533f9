// Adam on the rows of a bfloat16 table that a mini-batch touched.
#pragma once

#include <cstdint>

#include "common/bf16.h"
#include "common/row_adam_args.h"

namespace ekpnet {

struct RowAdamBf16Args {
  int64_t num_rows;     // n, touched rows
  int64_t row_size;     // elements of a table row
  Bf16* table;          // [E, row_size]
  float* m;             // [E, row_size], first moment
  float* v;             // [E, row_size], second moment
  const int32_t* rows;  // [n], distinct; a negative one is skipped
  const float* grad;    // [n, row_size]
  AdamStep step;        // gradient is grad + l2 * table
  uint64_t stream;      // of the step, `rounding_stream`
};

// Touched rows [begin, end). Not compiled per instruction set: a GPU is what the type is for.
void update_bf16_rows(const RowAdamBf16Args& args, int64_t begin, int64_t end);

}  // namespace ekpnet
