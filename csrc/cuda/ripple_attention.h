// The fused propagation of EKPNet on the GPU, over raw pointers of device memory.
#pragma once

#include "common/ripple_attention_args.h"
#include "cuda/types.h"

namespace ekpnet {

constexpr int kMostFolds = 64;                    // bits of a slot
constexpr int kAttentionThreads = 128;            // of a block at most
constexpr int64_t kMostSharedBytes = 163 * 1024;  // that a block can ask for on sm_80

// How a pass is laid over blocks and shared memory. A block owns up to P pairs of one group at a
// time. A function of the shapes alone, so that sums are in the same order on every GPU.
struct AttentionPlan {
  int threads;           // of a block
  int tile_rows;         // of a thread's tile in products: 1, or 4 where there is work for it
  int pairs;             // P, a power of two
  int shift;             // log2 of it
  int width;             // DP, D rounded up to a multiple of 4
  int slots;             // MP, M likewise
  int stride_d;          // DS, of rows of D values
  int stride_m;          // MS, of rows of M weights
  int tiles;             // of keys and values at a time: all 2 H, a hop's 2, or 1 for both in turn
  bool all_tiles;        // whether they are those of all hops
  int64_t shared_bytes;  // of a block
  int64_t items;         // G + B / P, pieces of work: see `find_work`
  int64_t teams;         // backward: blocks of the grid, each with its own sums of dW_e and db_e
};

AttentionPlan plan_attention_forward(int64_t num_groups, int64_t num_pairs, int hops, int slots,
                                     int width, int value_bytes);
AttentionPlan plan_attention_backward(int64_t num_groups, int64_t num_pairs, int hops, int slots,
                                      int width, int value_bytes);

// Folds that share the ripple sets: a pair attends to the slots that its fold sees.
struct SlotFoldsCuda {
  const int64_t* slots = nullptr;  // [G, H, M], bit k: seen by fold k; null where all are seen
  const int32_t* pairs = nullptr;  // [B], fold of a pair, below 64
};

// z [B, (H + 1) D] (eq. 16), match [B] (eq. 15), alpha [B, H, M] (eq. 10); each may be null.
template <class S>
void launch_ripple_attention_forward(const AttentionArgs<S>& args, const SlotFoldsCuda& folds,
                                     const AttentionPlan& plan, S* z, S* match, S* alpha,
                                     cudaStream_t stream);

// What the backward pass reads and writes. `A` is the type that S is computed in.
template <class S>
struct AttentionGradsCuda {
  using A = Compute<S>;
  const S* dz;      // [B, (H + 1) D], null for 0
  const S* dmatch;  // [B], null for 0
  A* dkey_items;    // [items, H, M, D], of the pairs of each piece of work
  A* dvalue_items;  // [items, H, M, D], likewise
  A* dkey;          // [G, H, M, D], valid slots of groups with pairs
  A* dvalue;        // [G, H, M, D], likewise
  A* factors;       // [G, H, M, 4]: dkey . gamma_h, gamma_r . v_h, dvalue . gamma_t, gamma_r . v_t
  A* ditem;         // [B, D]
  A* dW_e_teams;    // [teams, D, D]
  A* db_e_teams;    // [teams, D]
};

template <class S>
void launch_ripple_attention_backward(const AttentionArgs<S>& args, const SlotFoldsCuda& folds,
                                      const AttentionPlan& plan, const AttentionGradsCuda<S>& grads,
                                      cudaStream_t stream);

// Rows that the slots and items refer to, as keys to sort: references [heads | tails | items] of
// length 2 G H M + B with keys below n, and G H M relations with keys below R. Masked slots and
// slots of groups without pairs get the key n or R.
template <class S>
void launch_attention_references(const AttentionArgs<S>& args, int32_t* entity_keys,
                                 int32_t* entity_references, int32_t* relation_keys,
                                 int32_t* relation_references, cudaStream_t stream);

}  // namespace ekpnet
