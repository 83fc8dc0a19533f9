// The best K of all items per user.
#pragma once

#include <cstdint>

namespace ekpnet {

struct TopItemsArgs {
  int64_t num_users;           // n
  int64_t num_items;           // I
  int64_t k;                   // K
  const float* scores;         // [n, I]
  const int64_t* seen_indptr;  // [n + 1]
  const int32_t* seen;         // item ids that may not be recommended, sorted within a user
};

// Users [begin, end): items [n, K] by falling score, ties by rising item id; -1 where fewer than K
// items are left. NaN scores rank last.
void top_items(const TopItemsArgs& args, int64_t begin, int64_t end, int32_t* items);

}  // namespace ekpnet
