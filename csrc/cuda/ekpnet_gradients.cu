#include "cuda/attention_rows.cuh"
#include "cuda/block_sum.cuh"
#include "cuda/dispatch_width.cuh"
#include "cuda/ekpnet_gradients.h"
#include "cuda/pair_loss.cuh"
#include "cuda/triple_rows.cuh"

namespace ekpnet {
namespace {

constexpr int kThreads = 256, kMostBlocks = 512;

template <class S>
__device__ double divisor(const S* size, int64_t num_pairs) {
  return size != nullptr ? static_cast<double>(to_compute(*size)) : static_cast<double>(num_pairs);
}

// Rows of a table, their squared norm per block, and zeros where gradients are added up.
// table [E, C D], rows [n], entity and dentity [n, C D]. One thread per value, grid-stride.
template <class T, class S>
__global__ void __launch_bounds__(kThreads)
    gather_rows_kernel(const GatherArgs<T, S> args, double* squares) {
  const int64_t n = args.num_rows * args.row_size;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  double sum = 0;
  for (int64_t i = first; i < n; i += stride) {
    const int32_t row = args.rows[i / args.row_size];
    S x = S(0);
    if (row >= 0)
      x = to_compute(
          args.table[checked_id(row, args.table_rows) * args.row_size + i % args.row_size]);
    args.entity[i] = x;
    args.dentity[i] = S(0);
    sum += static_cast<double>(x) * x;
  }
  for (int64_t i = first; i < args.num_drelation; i += stride) args.drelation[i] = S(0);
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

// Cross-entropy of logits match [B], summed per block in bce; its gradient dmatch [B].
// One thread per pair, grid-stride; sums in double.
template <class S>
__global__ void __launch_bounds__(kThreads)
    pair_loss_kernel(const PairLossArgs<S> args, const S* match, S* dmatch, double* bce) {
  double sum = 0;
  for (int64_t b = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; b < args.num_pairs;
       b += static_cast<int64_t>(gridDim.x) * kThreads) {
    S x = match[b];
    sum += pair_loss(args, b, x);
    dmatch[b] = x;
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) bce[blockIdx.x] = sum;
}

// Rows that the triples refer to, behind the references of slots and pairs. One thread per triple.
// Ids are checked here: without a weight there is no loss before the gradient.
template <class S>
__global__ void batch_references_kernel(const AttentionArgs<S> args,
                                        const TripleLossArgs<S> triples, int32_t* entity_keys,
                                        int32_t* entity_references, int32_t* relation_keys,
                                        int32_t* relation_references) {
  const int64_t K = triples.num_triples, slots = args.num_groups * args.hops * args.slots;
  const int64_t first = 2 * slots + args.num_pairs;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < K;
       k += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    entity_keys[first + k] = static_cast<int32_t>(checked_id(triples.heads[k], triples.num_rows));
    entity_keys[first + K + k] =
        static_cast<int32_t>(checked_id(triples.tails[k], triples.num_rows));
    relation_keys[slots + k] =
        static_cast<int32_t>(checked_id(triples.relations[k], triples.num_relations));
    entity_references[first + k] = static_cast<int32_t>(first + k);
    entity_references[first + K + k] = static_cast<int32_t>(first + K + k);
    relation_references[slots + k] = static_cast<int32_t>(slots + k);
  }
}

// References below `first` are those of slots and pairs, the others of triples.
template <int kD, class S, class Rows>
struct BatchRows {
  int64_t first;
  Rows rows;
  TripleRows<kD, S> triples;

  __device__ RowSum<kD, Compute<S>> operator()(int64_t reference, int lane) const {
    return reference < first ? rows(reference, lane) : triples(reference - first, lane);
  }
};

constexpr int kColumns = 32, kRows = 16;  // of a block of sums of parts

// Gradients of parameters as sums of parts, with decay; relations' with decay where they are named.
// A warp owns 32 neighbouring values and every 16th part, then the block's 16 sums are added in
// order; squared norms per block.
template <class S>
__global__ void __launch_bounds__(kColumns* kRows)
    decay_kernel(const DecayArgs<S> args, double* squares) {
  __shared__ S sums[kRows][kColumns];
  const int row = threadIdx.x / kColumns, column = threadIdx.x % kColumns;
  const double size = divisor(args.size, args.num_pairs);
  int64_t block = blockIdx.x;
  int which = 0;
  while (which < args.num_parameters && block >= ceil_div(args.parameters[which].n, kColumns))
    block -= ceil_div(args.parameters[which++].n, kColumns);
  const int64_t at = block * kColumns + column;
  double square = 0;
  if (which < args.num_parameters) {
    const ParameterSum<S>& p = args.parameters[which];
    S sum = S(0);
    if (at < p.n)
#pragma unroll 4
      for (int64_t part = row; part < p.num_parts; part += kRows) sum += p.parts[part * p.n + at];
    sums[row][column] = sum;
    __syncthreads();
    if (row != 0) return;
    if (at < p.n) {
#pragma unroll
      for (int r = 1; r < kRows; ++r) sum += sums[r][column];
      const S x = p.x[at];
      p.out[at] = sum + static_cast<S>(args.lambda2 / size) * x;
      square = static_cast<double>(x) * x;
    }
  } else {
    if (row != 0) return;
    if (at < args.num_relations * args.relation_size) {
      const int64_t relation = at / args.relation_size;
      int64_t low = 0, high = args.num_references;  // the first key that is not below it
      while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (args.relation_keys[middle] < relation)
          low = middle + 1;
        else
          high = middle;
      }
      if (low < args.num_references && args.relation_keys[low] == relation) {
        const S x = args.relation[at];
        args.drelation[at] += static_cast<S>(args.lambda3 / size) * x;
        square = static_cast<double>(x) * x;
      }
    }
  }
  square = lane_sum<kWarp>(square);
  if (column == 0) squares[blockIdx.x] = square;
}

// Terms [4] of the loss from sums per block. One block; every sum in one fixed order.
template <class S>
__global__ void __launch_bounds__(kThreads) terms_kernel(const TermsArgs<S> args, double* terms) {
  const auto sum = [](const double* values, int64_t n) {
    double x = 0;
    for (int64_t i = threadIdx.x; i < n; i += kThreads) x += values[i];
    return block_sum<kThreads>(x);
  };
  const double bce = sum(args.bce, args.num_bce), kg = sum(args.kg, args.num_kg);
  const double weights = sum(args.weights, args.num_weights);
  const double relations = sum(args.relations, args.num_relations);
  const double rows = sum(args.rows, args.num_rows);
  if (threadIdx.x != 0) return;
  const double size = divisor(args.size, args.num_pairs);
  terms[0] = bce / size;
  terms[1] = kg * args.lambda1 / 2 / size;
  // As an S: what does not fit there does not fit into the gradient's square, and must be told.
  terms[2] = static_cast<S>(args.lambda2 / size / 2 * weights);
  terms[3] = args.lambda3 / size / 2 * rows + static_cast<S>(args.lambda3 / size / 2 * relations);
}

template <class S>
SegmentSumArgs<S> segments(const SortedReferences<S>& sorted, const AttentionArgs<S>& args,
                           int64_t num_rows, S* sums) {
  return {sorted.count, num_rows,          args.width, args.channels,
          sorted.keys,  sorted.references, sums,       sorted.parts};
}

}  // namespace

int64_t gradient_blocks(int64_t n) {
  const int64_t blocks = ceil_div(n, kThreads);
  return blocks < 1 ? 1 : blocks < kMostBlocks ? blocks : kMostBlocks;
}

template <class T, class S>
void launch_gather_rows(const GatherArgs<T, S>& args, double* squares, cudaStream_t stream) {
  launch(gather_rows_kernel<T, S>, gradient_blocks(args.num_rows * args.row_size), kThreads, 0,
         stream, args, squares);
}

template <class S>
void launch_pair_loss(const PairLossArgs<S>& args, const S* match, S* dmatch, double* bce,
                      cudaStream_t stream) {
  launch(pair_loss_kernel<S>, gradient_blocks(args.num_pairs), kThreads, 0, stream, args, match,
         dmatch, bce);
}

template <class S>
void launch_batch_references(const AttentionArgs<S>& args, const TripleLossArgs<S>& triples,
                             int32_t* entity_keys, int32_t* entity_references,
                             int32_t* relation_keys, int32_t* relation_references,
                             cudaStream_t stream) {
  launch_attention_references(args, entity_keys, entity_references, relation_keys,
                              relation_references, stream);
  launch(batch_references_kernel<S>, grid_size(triples.num_triples, kThreads), kThreads, 0, stream,
         args, triples, entity_keys, entity_references, relation_keys, relation_references);
}

template <class S>
void launch_batch_entity_sum(const BatchSumArgs<S>& args, const SortedReferences<S>& sorted,
                             S* dentity, cudaStream_t stream) {
  const AttentionArgs<S>& a = args.attention;
  dispatch_width<S>(a.width, [&](auto width) {
    constexpr int kD = decltype(width)::value;
    launch_segment_sum<kD>(
        segments(sorted, a, a.num_rows, dentity),
        BatchRows<kD, S, EntityRows<kD, S>>{2 * a.num_groups * a.hops * a.slots + a.num_pairs,
                                            {a, args.grads},
                                            {args.triples, nullptr, args.size, args.triple_weight}},
        stream);
  });
}

template <class S>
void launch_batch_relation_sum(const BatchSumArgs<S>& args, const SortedReferences<S>& sorted,
                               S* drelation, cudaStream_t stream) {
  const AttentionArgs<S>& a = args.attention;
  dispatch_width<S>(a.width, [&](auto width) {
    constexpr int kD = decltype(width)::value;
    launch_segment_sum<kD>(segments(sorted, a, a.num_relations, drelation),
                           BatchRows<kD, S, RelationRows<kD, S>>{
                               a.num_groups * a.hops * a.slots,
                               {a, args.grads},
                               {args.triples, nullptr, args.size, args.triple_weight}},
                           stream);
  });
}

template <class S>
int64_t parameter_blocks(const DecayArgs<S>& args) {
  int64_t blocks = 0;
  for (int i = 0; i < args.num_parameters; ++i) blocks += ceil_div(args.parameters[i].n, kColumns);
  return blocks;
}

template <class S>
int64_t relation_blocks(const DecayArgs<S>& args) {
  return ceil_div(args.num_relations * args.relation_size, kColumns);
}

template <class S>
void launch_decay(const DecayArgs<S>& args, double* squares, cudaStream_t stream) {
  launch(decay_kernel<S>, parameter_blocks(args) + relation_blocks(args), kColumns * kRows, 0,
         stream, args, squares);
}

template <class S>
void launch_terms(const TermsArgs<S>& args, double* terms, cudaStream_t stream) {
  launch(terms_kernel<S>, 1, kThreads, 0, stream, args, terms);
}

#define EKPNET_INSTANTIATE(S)                                                                     \
  template void launch_gather_rows(const GatherArgs<S, S>&, double*, cudaStream_t);               \
  template void launch_pair_loss(const PairLossArgs<S>&, const S*, S*, double*, cudaStream_t);    \
  template void launch_batch_references(const AttentionArgs<S>&, const TripleLossArgs<S>&,        \
                                        int32_t*, int32_t*, int32_t*, int32_t*, cudaStream_t);    \
  template void launch_batch_entity_sum(const BatchSumArgs<S>&, const SortedReferences<S>&, S*,   \
                                        cudaStream_t);                                            \
  template void launch_batch_relation_sum(const BatchSumArgs<S>&, const SortedReferences<S>&, S*, \
                                          cudaStream_t);                                          \
  template int64_t parameter_blocks(const DecayArgs<S>&);                                         \
  template int64_t relation_blocks(const DecayArgs<S>&);                                          \
  template void launch_decay(const DecayArgs<S>&, double*, cudaStream_t);                         \
  template void launch_terms(const TermsArgs<S>&, double*, cudaStream_t);
EKPNET_INSTANTIATE(float)
EKPNET_INSTANTIATE(double)
#undef EKPNET_INSTANTIATE
template void launch_gather_rows(const GatherArgs<Bf16, float>&, double*, cudaStream_t);

}  // namespace ekpnet
