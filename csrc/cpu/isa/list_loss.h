// Losses of lists of pairs whose logits are given.
#pragma once

#include <cstdint>

#include "cpu/isa/ekpnet_gradients.h"

namespace ekpnet {

// Sum of the loss, which is one of lists, over lists [L + 1] of at most `kListPairs` pairs each;
// its gradient times `weight` replaces the logits.
template <class T>
using ListLossKernel = double (*)(PairLoss loss, int64_t num_lists, const int64_t* lists,
                                  const T* labels, T weight, T* logit);

}  // namespace ekpnet
