// What the loss of EKPNet over a mini-batch (eq. 24) needs on the GPU besides propagation, layers
// and translation loss, over raw pointers of device memory.
#pragma once

#include "cuda/pair_loss.h"
#include "cuda/ripple_attention.h"
#include "cuda/sorted_references.h"
#include "cuda/triple_loss.h"

namespace ekpnet {

// Rows that a batch touches, out of a table.
// `T` is the table's type, S or bfloat16.
template <class T, class S>
struct GatherArgs {
  int64_t num_rows;       // n
  int64_t row_size;       // C D
  int64_t table_rows;     // E
  const T* table;         // [E, C D]
  const int32_t* rows;    // [n], below E; a negative one is none
  S* entity;              // [n, C D], 0 for none
  S* dentity;             // [n, C D], becomes 0
  int64_t num_drelation;  // R C D
  S* drelation;           // becomes 0
};

// Blocks of a kernel over n values that leaves a sum per block; a function of the shapes alone.
int64_t gradient_blocks(int64_t n);

// squares [gradient_blocks(n C D)] add up to the squared norm of the rows.
template <class T, class S>
void launch_gather_rows(const GatherArgs<T, S>& args, double* squares, cudaStream_t stream);

// dmatch [B] for logits `match`; bce [gradient_blocks(B)] add up to the cross-entropy.
template <class S>
void launch_pair_loss(const PairLossArgs<S>& args, const S* match, S* dmatch, double* bce,
                      cudaStream_t stream);

// Keys and references of the triples, behind those of launch_attention_references: entity_keys from
// 2 G H M + B, relation_keys from G H M.
template <class S>
void launch_batch_references(const AttentionArgs<S>& args, const TripleLossArgs<S>& triples,
                             int32_t* entity_keys, int32_t* entity_references,
                             int32_t* relation_keys, int32_t* relation_references,
                             cudaStream_t stream);

// dentity [n, C, D] and drelation [R, C, D] of slots, pairs and triples, zeroed before; the
// triples' share is times triple_weight / size, size null for B.
template <class S>
struct BatchSumArgs {
  AttentionArgs<S> attention;
  AttentionGradsCuda<S> grads;
  TripleLossArgs<S> triples;
  const S* size;
  double triple_weight;
};
template <class S>
void launch_batch_entity_sum(const BatchSumArgs<S>& args, const SortedReferences<S>& sorted,
                             S* dentity, cudaStream_t stream);
template <class S>
void launch_batch_relation_sum(const BatchSumArgs<S>& args, const SortedReferences<S>& sorted,
                               S* drelation, cudaStream_t stream);

// A parameter whose gradient is the sum of parts, and its decay.
template <class S>
struct ParameterSum {
  int64_t num_parts;
  int64_t n;
  const S* parts;  // [num_parts, n]
  const S* x;      // [n]
  S* out;          // [n]
};

constexpr int kMostParameters = 6;  // W_e, b_e and the layers'

template <class S>
struct DecayArgs {
  int num_parameters;
  ParameterSum<S> parameters[kMostParameters];
  // Relations decay where a reference names them; their gradient is summed before.
  int64_t num_relations, relation_size;  // R, C D
  const S* relation;                     // [R, C D]
  S* drelation;                          // [R, C D]
  int64_t num_references;
  const int32_t* relation_keys;  // [num_references], rising
  const S* size;                 // [], divisor of the loss; null for num_pairs
  int64_t num_pairs;
  double lambda2, lambda3;
};

// Blocks of the next launch: first those of the parameters, then those of relations.
template <class S>
int64_t parameter_blocks(const DecayArgs<S>& args);
template <class S>
int64_t relation_blocks(const DecayArgs<S>& args);

// Sums parts, adds decay; squares [blocks] add up to squared norms.
template <class S>
void launch_decay(const DecayArgs<S>& args, double* squares, cudaStream_t stream);

// Sums that the terms of the loss are made of.
template <class S>
struct TermsArgs {
  const double *bce, *kg, *weights, *relations, *rows;
  int64_t num_bce, num_kg, num_weights, num_relations, num_rows;
  const S* size;  // [], divisor; null for num_pairs
  int64_t num_pairs;
  double lambda1, lambda2, lambda3;
};

// terms [4]: bce, kg, l2_weights, l2_rows.
template <class S>
void launch_terms(const TermsArgs<S>& args, double* terms, cudaStream_t stream);

}  // namespace ekpnet
