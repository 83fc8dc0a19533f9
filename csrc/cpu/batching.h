// From labelled pairs to mini-batches of user groups and the table rows they touch.
#pragma once

#include <cstdint>

namespace ekpnet {

// Shuffles the pairs of each user.
// order [N]: pair ids, user after user.
// Users [begin, end); the draw is keyed by (seed, epoch, user).
void shuffle_user_pairs(const int64_t* user_indptr, uint64_t seed, uint64_t epoch, int64_t begin,
                        int64_t end, int64_t* order);

// A uniform permutation of 0 .. n - 1, keyed by (seed, epoch).
void shuffle(uint64_t seed, uint64_t epoch, int64_t n, int64_t* order);

struct BatchArgs {
  int64_t num_groups, num_pairs, num_extra;
  int hops, slots;
  const int32_t* heads;        // [U, H, M] ripple sets
  const int32_t* relations;    // [U, H, M]
  const int32_t* tails;        // [U, H, M]
  const int32_t* counts;       // [U, H]
  const int32_t* group_users;  // [G]
  const int32_t* items;        // [B], entity ids
  const int32_t* extra;        // [X], further entity ids, as of triples
  // Of sets that folds share, else null: slots that no pair of a group sees are left out.
  const int64_t* slot_folds = nullptr;    // [U, H, M], bit k where fold k sees the slot
  const int64_t* group_indptr = nullptr;  // [G + 1], pairs of each group
  const int32_t* pair_folds = nullptr;    // [B]
};

struct BatchRows {
  int32_t* rows;       // [at most 2 G H M + B + X], touched rows in order of first appearance
  int32_t* heads;      // [G, H, M], positions in `rows`; 0 in masked slots
  int32_t* relations;  // [G, H, M]
  int32_t* tails;      // [G, H, M]
  int32_t* counts;     // [G, H]
  int32_t* items;      // [B]
  int32_t* extra;      // [X]
  int64_t* slot_folds = nullptr;  // [G, H, M]
};

// Finds the rows that a batch touches, in time proportional to the batch; returns their number.
int64_t localize_batch(const BatchArgs& args, int64_t threads, const BatchRows& out);

}  // namespace ekpnet
