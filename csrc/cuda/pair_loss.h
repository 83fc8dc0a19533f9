// The cross-entropy of pairs (eq. 24), as kernels take it.
#pragma once

#include "cuda/types.h"

namespace ekpnet {

template <class S>
struct PairLossArgs {
  int64_t num_pairs;    // B
  const S* labels;      // [B]
  const S* offset;      // [B], added to the logits; null for none
  const S* real;        // [B], weight of a pair: 1, or 0 for padding; null where all are real
  const S* real_pairs;  // [], divisor; null for B
};

}  // namespace ekpnet
