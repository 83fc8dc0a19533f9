// Losses of a user's positives against the negatives of their list, on the GPU.
#pragma once

#include "cuda/pair_loss.h"

namespace ekpnet {

// Pairs of a list at most: those of a group are cut evenly into as few lists as that allows.
constexpr int kListPairs = 16;

enum class ListLoss : int { kBpr = 1, kSoftmax = 2 };

// Blocks of the kernel, each with a sum of its own; a function of the shapes alone.
int64_t list_loss_blocks(int64_t num_groups);

// dlogit [B] for logits [B] of groups of pairs, group_indptr [G + 1]; losses [list_loss_blocks(G)]
// add up to the loss of their lists. Pairs that are not real belong to no list.
template <class S>
void launch_list_loss(const PairLossArgs<S>& pairs, ListLoss loss, const int64_t* group_indptr,
                      int64_t num_groups, const S* logit, S* dlogit, double* losses,
                      cudaStream_t stream);

}  // namespace ekpnet
