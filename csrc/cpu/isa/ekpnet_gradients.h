// The loss of EKPNet over a mini-batch (eq. 24) and its gradients in one pass, over raw pointers.
#pragma once

#include <cstdint>

#include "cpu/isa/deep_score.h"
#include "cpu/isa/ripple_attention.h"
#include "cpu/isa/triple_loss.h"
#include "cpu/team.h"

namespace ekpnet {

// Loss of a pair alone, or of the positives of a list against its negatives.
enum class PairLoss : int { kCrossEntropy = 0, kBpr = 1, kSoftmax = 2 };

// Pairs of a list at most: those of a group are cut evenly into as few lists as that allows.
constexpr int64_t kListPairs = 16;

// A mini-batch and the parameters. `entity` of both parts are the rows that it touches.
template <class T>
struct EkpnetArgs {
  AttentionArgs<T> attention;
  bool deep;                // prediction by (18), else by (15)
  DeepScoreArgs<T> layers;  // z is null: it stays on chip
  const T* labels;          // [B]
  const T* offset;          // [B], added to the logits; null for none
  TripleLossArgs<T> triples;
  T pair_weight;    // of a pair's loss
  T triple_weight;  // of a triple's loss (22)
  SlotFolds folds = {};
  PairLoss loss = PairLoss::kCrossEntropy;
  const T* real = nullptr;  // [B], 1 for pairs that count, 0 for padding
};

// Sums over pairs are made per chunk of groups, those over triples per chunk of triples; chunks are
// then summed in order.
template <class T>
struct EkpnetSums {
  AttentionGrads<T> attention;  // dz and dmatch are null: they stay on chip
  DeepScoreGrads<T> layers;     // so do dlogit, hidden and dz; its chunks are those of the groups
  int64_t triple_chunks;
  T* dtriple;        // [K, D], gradient of v_h + v_r - v_t
  uint8_t* touched;  // [chunks, R], zeroed by the caller: 1 where a slot names the relation
  double* pairs;     // [chunks], loss of the pairs
  double* kg;        // [triple_chunks], translation loss
};

template <class T>
struct EkpnetKernels {
  int64_t (*workspace_size)(const EkpnetArgs<T>& args);
  // out [n, size] = rows of `table`, 0 for negative ones, for positions [begin, end); returns their
  // sum of squares.
  double (*gather)(const T* table, int64_t size, const int32_t* rows, int64_t begin, int64_t end,
                   T* out);
  // Takes chunks until none are left, those of groups and, from their number on, of triples:
  // everything of EkpnetSums.
  void (*chunks)(const EkpnetArgs<T>& args, const EkpnetSums<T>& sums, Chunks& chunks, int64_t slot,
                 T* workspace);
  // The rows of a range in dentity [n, C, D]: sums in the order of slots, pairs, triples.
  void (*scatter)(const EkpnetArgs<T>& args, const EkpnetSums<T>& sums, int64_t range, T* dentity);
};

}  // namespace ekpnet
