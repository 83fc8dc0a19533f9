// The best K of all items per user on the GPU.
#pragma once

#include "cuda/types.h"

namespace ekpnet {

constexpr int64_t kMostTopItems = 4096;  // K, whose keys a block sorts in shared memory

struct TopItemsCudaArgs {
  int64_t num_users;           // n
  int64_t num_items;           // I
  int64_t num_seen;            // of all users
  int64_t k;                   // K
  const float* scores;         // [n, I]
  const int64_t* seen_indptr;  // [n + 1]
  const int32_t* seen;         // item ids that may not be recommended, sorted within a user
  int32_t* items;              // [n, K] by falling score, ties by rising id; -1 where none is left
  uint64_t* keys;              // [n, parts, K], not used with one part
};

// Parts of a user's items that blocks share: one, but for many items.
int64_t top_items_parts(int64_t num_items);

void launch_top_items(const TopItemsCudaArgs& args, cudaStream_t stream);

}  // namespace ekpnet
