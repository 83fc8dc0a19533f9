// Affinities of items to histories, and rising curves of their logarithms.
#pragma once

#include <cstdint>

namespace ekpnet {

// Where the affinity of two items is read, S[j, i]: a row of neighbours by item, a whole row by
// item, or the product of the items' vectors. Of users the rows are theirs: what is summed is not
// over the items of a history but over the users near it, each times how near.
struct AffinitySource {
  enum Kind { kNeighbours, kDense, kVectors, kUsers } kind;
  const int64_t* indptr;    // [I + 1], of neighbours; [U + 1], of users
  const int32_t* items;     // of neighbours and users, rising within a row
  const float* values;      // of neighbours and users; [I, I]; or vectors [I, width]
  int64_t width;            // of vectors
  const float* transposed;  // [width, I], vectors once more
};

// Affinity of item i to a history of n items: a_i = n^(-1/2) sum over its items j of S[j, i].
struct Affinity {
  int64_t source;
  int64_t first, end;  // columns of vectors
  const float* mean;   // [I], the mean over i of S[j, i]; [U], of users
};

// Feature x = log(max(a, 0) f + added) of an affinity, where f is 1, the root of the history's
// length, or 1 / (the history's mean affinity + smoothing); and its curve, lines through P pieces
// between knots, of which the outermost go on. Signed, of vectors: x = a / sqrt(|q| + smoothing),
// where q = n^(-1/2) times the sum of the history's vectors.
struct Response {
  enum Scale { kNone, kRootOfLength, kByMean, kSigned } scale;
  int64_t affinity;
  float added, smoothing;
  const float* knots;   // [P + 1]
  const float* slopes;  // [P]
};

struct WideArgs {
  int64_t num_items;              // I
  const int64_t* history_indptr;  // [G + 1]
  const int32_t* history_items;
  const int64_t*
      near_indptr;  // [G + 1], of the users near each history; null without such a source
  const int32_t* near_users;
  const float* near_values;
  int64_t num_sources;
  const AffinitySource* sources;
  int64_t num_affinities;
  const Affinity* affinities;  // by rising source, then by rising first and end
  int64_t num_responses;       // N
  const Response* responses;
  int64_t pieces;           // P
  const float* item_terms;  // [I], what the item alone adds to a logit
};

// Pairs of the groups, group g being history g.
struct WidePairs {
  int64_t num_pairs;            // B
  const int64_t* group_indptr;  // [G + 1]
  const int32_t* items;         // [B]
};

struct WideKernels {
  int64_t (*workspace_size)(const WideArgs& args);  // floats
  // Features [N, B] of the pairs of groups [begin, end), `kPairGroups` at most.
  void (*features)(const WideArgs& args, const WidePairs& pairs, int64_t begin, int64_t end,
                   float* out, float* workspace);
  // Logits [B] of the pairs of groups [begin, end), `kPairGroups` at most.
  void (*pair_logits)(const WideArgs& args, const WidePairs& pairs, int64_t begin, int64_t end,
                      float* out, float* workspace);
  // Logits [G, I] of histories [begin, end), `kHistories` at most.
  void (*catalogue_logits)(const WideArgs& args, int64_t begin, int64_t end, float* out,
                           float* workspace);
};

// Histories whose vectors meet those of the items at a time.
constexpr int64_t kHistories = 32;
// Groups of pairs that are taken together.
constexpr int64_t kPairGroups = 128;
constexpr int64_t kMaxAffinities = 64;

}  // namespace ekpnet
