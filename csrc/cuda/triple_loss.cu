#include "cuda/dispatch_width.cuh"
#include "cuda/triple_loss.h"
#include "cuda/triple_rows.cuh"

namespace ekpnet {
namespace {

constexpr int kThreads = 256;

// Sums of || I - sigmoid(v_h + v_r - v_t) ||^2 (eq. 22) in parts [blocks].
// entity [n, C, D], relation [R, C, D], of which channel 0 takes part; ids and labels [K].
// One thread per value of a triple, grid-stride; a block's threads add up in a tree.
// Differences in float (double for double), sums in double.
template <class S>
__global__ void __launch_bounds__(kThreads)
    triple_loss_forward_kernel(const TripleLossArgs<S> args, double* parts) {
  using A = Compute<S>;
  __shared__ double sums[kThreads / kWarp];
  const int64_t D = args.width, row = args.channels * D, n = args.num_triples * D;
  double sum = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t k = i / D, d = i % D;
    const A h = to_compute(args.entity[checked_id(args.heads[k], args.num_rows) * row + d]);
    const A r =
        to_compute(args.relation[checked_id(args.relations[k], args.num_relations) * row + d]);
    const A t = to_compute(args.entity[checked_id(args.tails[k], args.num_rows) * row + d]);
    const A miss = A(args.labels[k]) - sigmoid(h + r - t);
    sum += miss * miss;
  }
  sum = lane_sum<kWarp>(sum);
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kThreads / kWarp; ++w) sum += sums[w];
  parts[blockIdx.x] = sum;
}

// Rows that the triples refer to, as keys to sort; their relations are keys as they are. Ids are
// checked here: a gradient may be asked for without a loss before. One thread per triple.
template <class S>
__global__ void triple_references_kernel(const TripleLossArgs<S> args, int32_t* entity_keys,
                                         int32_t* entity_references, int32_t* relation_references) {
  const int64_t K = args.num_triples;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < K;
       k += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    entity_keys[k] = static_cast<int32_t>(checked_id(args.heads[k], args.num_rows));
    entity_keys[K + k] = static_cast<int32_t>(checked_id(args.tails[k], args.num_rows));
    checked_id(args.relations[k], args.num_relations);
    entity_references[k] = relation_references[k] = static_cast<int32_t>(k);
    entity_references[K + k] = static_cast<int32_t>(K + k);
  }
}

template <class S>
void launch_sum(const TripleLossArgs<S>& args, const S* grad, const SortedReferences<S>& sorted,
                int64_t num_rows, S* sums, cudaStream_t stream) {
  dispatch_width<S>(args.width, [&](auto width) {
    constexpr int kD = decltype(width)::value;
    launch_segment_sum<kD>(SegmentSumArgs<S>{sorted.count, num_rows, args.width, args.channels,
                                             sorted.keys, sorted.references, sums, sorted.parts},
                           TripleRows<kD, S>{args, grad, nullptr, 1}, stream);
  });
}

}  // namespace

int64_t triple_loss_blocks(int64_t num_triples, int width) {
  const int64_t blocks = ceil_div(num_triples * width, kThreads);
  return blocks < 512 ? blocks : 512;
}

template <class S>
void launch_triple_loss_forward(const TripleLossArgs<S>& args, double* parts, cudaStream_t stream) {
  launch(triple_loss_forward_kernel<S>, triple_loss_blocks(args.num_triples, args.width), kThreads,
         0, stream, args, parts);
}

template <class S>
void launch_triple_references(const TripleLossArgs<S>& args, int32_t* entity_keys,
                              int32_t* entity_references, int32_t* relation_references,
                              cudaStream_t stream) {
  launch(triple_references_kernel<S>, grid_size(args.num_triples, kThreads), kThreads, 0, stream,
         args, entity_keys, entity_references, relation_references);
}

template <class S>
void launch_triple_entity_sum(const TripleLossArgs<S>& args, const S* grad,
                              const SortedReferences<S>& sorted, S* dentity, cudaStream_t stream) {
  launch_sum(args, grad, sorted, args.num_rows, dentity, stream);
}

template <class S>
void launch_triple_relation_sum(const TripleLossArgs<S>& args, const S* grad,
                                const SortedReferences<S>& sorted, S* drelation,
                                cudaStream_t stream) {
  launch_sum(args, grad, sorted, args.num_relations, drelation, stream);
}

#define EKPNET_INSTANTIATE(S)                                                                    \
  template void launch_triple_loss_forward(const TripleLossArgs<S>&, double*, cudaStream_t);     \
  template void launch_triple_references(const TripleLossArgs<S>&, int32_t*, int32_t*, int32_t*, \
                                         cudaStream_t);                                          \
  template void launch_triple_entity_sum(const TripleLossArgs<S>&, const S*,                     \
                                         const SortedReferences<S>&, S*, cudaStream_t);          \
  template void launch_triple_relation_sum(const TripleLossArgs<S>&, const S*,                   \
                                           const SortedReferences<S>&, S*, cudaStream_t);
EKPNET_INSTANTIATE(float)
EKPNET_INSTANTIATE(Bf16)
EKPNET_INSTANTIATE(double)
#undef EKPNET_INSTANTIATE

}  // namespace ekpnet
