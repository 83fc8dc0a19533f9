// From gradients per slot and pair to gradients per table row.
#pragma once

#include "cuda/ripple_attention.h"
#include "cuda/sorted_references.h"

namespace ekpnet {

// dentity [n, C, D] and drelation [R, C, D], zeroed by the caller.
template <class S>
void launch_entity_sum(const AttentionArgs<S>& args, const AttentionGradsCuda<S>& grads,
                       const SortedReferences<S>& sorted, S* dentity, cudaStream_t stream);
template <class S>
void launch_relation_sum(const AttentionArgs<S>& args, const AttentionGradsCuda<S>& grads,
                         const SortedReferences<S>& sorted, S* drelation, cudaStream_t stream);

}  // namespace ekpnet
