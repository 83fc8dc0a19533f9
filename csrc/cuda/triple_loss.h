// The translation loss (eq. 22) on the GPU, over raw pointers of device memory.
#pragma once

#include "common/triple_loss_args.h"
#include "cuda/sorted_references.h"
#include "cuda/types.h"

namespace ekpnet {

// Blocks of the forward pass, each with its own sum; a function of the shapes alone.
int64_t triple_loss_blocks(int64_t num_triples, int width);

// parts [blocks]: sums that add up to the loss.
template <class S>
void launch_triple_loss_forward(const TripleLossArgs<S>& args, double* parts, cudaStream_t stream);

// References [heads | tails] with their rows as keys to sort, and those of the relations.
template <class S>
void launch_triple_references(const TripleLossArgs<S>& args, int32_t* entity_keys,
                              int32_t* entity_references, int32_t* relation_references,
                              cudaStream_t stream);

// dentity [n, C, D] and drelation [R, C, D], zeroed by the caller; grad [] scales them.
template <class S>
void launch_triple_entity_sum(const TripleLossArgs<S>& args, const S* grad,
                              const SortedReferences<S>& sorted, S* dentity, cudaStream_t stream);
template <class S>
void launch_triple_relation_sum(const TripleLossArgs<S>& args, const S* grad,
                                const SortedReferences<S>& sorted, S* drelation,
                                cudaStream_t stream);

}  // namespace ekpnet
