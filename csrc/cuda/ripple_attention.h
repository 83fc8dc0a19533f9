// The fused propagation of EKPNet on the GPU, over raw pointers of device memory.
#pragma once

#include "common/ripple_attention_args.h"
#include "cuda/types.h"

namespace ekpnet {

constexpr int kAttentionThreads = 128;            // of a block
constexpr int64_t kMostSharedBytes = 163 * 1024;  // that a block can ask for on sm_80

// How a pass is laid over teams of threads and shared memory. A function of the shapes alone, so
// that sums are in the same order on every GPU.
struct AttentionPlan {
  int team;            // threads: a warp for small groups, else the whole block
  int pairs;           // P, pairs at a time, a power of two
  int shift;           // log2 of it
  int width;           // DP, D rounded up to a multiple of 4
  int slots;           // MP, M likewise
  int stride_d;        // DS, of rows of D values
  int stride_m;        // MS, of rows of M weights
  bool one_tile;       // keys and values share a tile, one after the other
  int64_t team_bytes;  // shared memory of a team
  int64_t teams;       // backward: teams of the grid, each with its own sums of dW_e and db_e
};

AttentionPlan plan_attention_forward(int64_t num_groups, int64_t num_pairs, int slots, int width,
                                     int value_bytes);
AttentionPlan plan_attention_backward(int64_t num_groups, int64_t num_pairs, int hops, int slots,
                                      int width, int value_bytes);

// z [B, (H + 1) D] (eq. 16), match [B] (eq. 15), alpha [B, H, M] (eq. 10); each may be null.
template <class S>
void launch_ripple_attention_forward(const AttentionArgs<S>& args, const AttentionPlan& plan, S* z,
                                     S* match, S* alpha, cudaStream_t stream);

// What the backward pass reads and writes. `A` is the type that S is computed in.
template <class S>
struct AttentionGradsCuda {
  using A = Compute<S>;
  const S* dz;      // [B, (H + 1) D], null for 0
  const S* dmatch;  // [B], null for 0
  A* dkey;          // [G, H, M, D], valid slots of groups with pairs
  A* dvalue;        // [G, H, M, D], likewise
  A* factors;       // [G, H, M, 4]: dkey . gamma_h, gamma_r . v_h, dvalue . gamma_t, gamma_r . v_t
  A* ditem;         // [B, D]
  A* dW_e_teams;    // [teams, D, D]
  A* db_e_teams;    // [teams, D]
};

template <class S>
void launch_ripple_attention_backward(const AttentionArgs<S>& args, const AttentionPlan& plan,
                                      const AttentionGradsCuda<S>& grads, cudaStream_t stream);

// Rows that the slots and items refer to, as keys to sort: references [heads | tails | items] of
// length 2 G H M + B with keys below n, and G H M relations with keys below R. Masked slots and
// slots of groups without pairs get the key n or R.
template <class S>
void launch_attention_references(const AttentionArgs<S>& args, int32_t* entity_keys,
                                 int32_t* entity_references, int32_t* relation_keys,
                                 int32_t* relation_references, cudaStream_t stream);

}  // namespace ekpnet
