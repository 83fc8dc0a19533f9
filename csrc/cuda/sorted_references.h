// References to table rows in the order of the rows, as segmented sums take them.
#pragma once

#include "cuda/types.h"

namespace ekpnet {

template <class S>
struct SortedReferences {
  int64_t count;
  const int32_t* keys;        // [count], sorted
  const int32_t* references;  // [count], rising within a key
  Compute<S>* parts;          // [2, chunks, C, D], see SegmentSumArgs
};

}  // namespace ekpnet
