// The fused propagation of EKPNet on the CPU, over raw pointers.
#pragma once

#include <cstdint>

#include "common/ripple_attention_args.h"
#include "cpu/row_references.h"

namespace ekpnet {

// What a slot gives to the row of its head or tail, on its way there: the row of `entity` and the
// relation, [2] int32; behind them, where C is 2, dpsi . gamma and gamma_r . v; then dpsi [D], the
// gradient of psi(row).
template <class T>
constexpr int64_t kPartFactors = 2 * sizeof(int32_t) / sizeof(T);
template <class T>
constexpr int64_t kPartGradient = kPartFactors<T> + 2;
template <class T>
int64_t part_size(int64_t width) {
  return kPartGradient<T> + width;
}

// What the backward pass reads and writes besides the inputs. A chunk is a fixed range of groups
// whose shared-parameter gradients are summed in group order; chunks are then summed in order.
template <class T>
struct AttentionGrads {
  const T* dz;                      // [B, (H + 1) D]
  const T* dmatch;                  // [B]
  const RowReferences* references;  // in num_chunks chunks
  T* parts;                         // [2 G H M, part_size], by the positions of `references`
  T* ditem;                         // [B, D]
  int64_t num_chunks;
  T* drelation_chunks;  // [num_chunks, R, C, D], zeroed by the caller
  T* dW_e_chunks;       // [num_chunks, D, D]
  T* db_e_chunks;       // [num_chunks, D]
};

// Ripple sets that folds share: which slots the pairs of a fold see. Without them all see all.
struct SlotFolds {
  const int64_t* of_slots = nullptr;  // [G, H, M], bit k where fold k sees the slot
  const int32_t* of_pairs = nullptr;  // [B]
  int count = 1;                      // F, at most 64
};

// Entry points of one instruction set. `workspace` belongs to the calling thread.
template <class T>
struct AttentionKernels {
  // Elements of T that `forward` and `backward` need as workspace.
  int64_t (*workspace_size)(const AttentionArgs<T>& args);
  // Pairs [begin, end): z [B, (H + 1) D] (eq. 16) and match [B] (the logit of eq. 15).
  void (*forward)(const AttentionArgs<T>& args, int64_t begin, int64_t end, T* z, T* match,
                  T* workspace);
  // Attention weights [H, M] of one pair (eq. 10), 0 in masked slots.
  void (*weights)(const AttentionArgs<T>& args, int64_t begin, int64_t end, T* alpha, T* workspace);
  // Groups of chunk `chunk`: everything of AttentionGrads.
  void (*backward)(const AttentionArgs<T>& args, const AttentionGrads<T>& grads, int64_t chunk,
                   T* workspace);
  // The rows of a range in dentity [n, C, D]: sums over all slots and pairs that name the row, in
  // slot order and then pair order, whoever computes it.
  void (*scatter)(const AttentionArgs<T>& args, const AttentionGrads<T>& grads, int64_t range,
                  T* dentity);
};

}  // namespace ekpnet
