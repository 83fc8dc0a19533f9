#include "cuda/attention_rows.cuh"
#include "cuda/attention_sums.h"
#include "cuda/dispatch_width.cuh"

namespace ekpnet {
template <class S>
void launch_entity_sum(const AttentionArgs<S>& args, const AttentionGradsCuda<S>& grads,
                       const SortedReferences<S>& sorted, S* dentity, cudaStream_t stream) {
  dispatch_width<S>(args.width, [&](auto width) {
    constexpr int kD = decltype(width)::value;
    launch_segment_sum<kD>(SegmentSumArgs<S>{sorted.count, args.num_rows, args.width, args.channels,
                                             sorted.keys, sorted.references, dentity, sorted.parts},
                           EntityRows<kD, S>{args, grads}, stream);
  });
}

template <class S>
void launch_relation_sum(const AttentionArgs<S>& args, const AttentionGradsCuda<S>& grads,
                         const SortedReferences<S>& sorted, S* drelation, cudaStream_t stream) {
  dispatch_width<S>(args.width, [&](auto width) {
    constexpr int kD = decltype(width)::value;
    launch_segment_sum<kD>(
        SegmentSumArgs<S>{sorted.count, args.num_relations, args.width, args.channels, sorted.keys,
                          sorted.references, drelation, sorted.parts},
        RelationRows<kD, S>{args, grads}, stream);
  });
}

#define EKPNET_INSTANTIATE(S)                                                              \
  template void launch_entity_sum(const AttentionArgs<S>&, const AttentionGradsCuda<S>&,   \
                                  const SortedReferences<S>&, S*, cudaStream_t);           \
  template void launch_relation_sum(const AttentionArgs<S>&, const AttentionGradsCuda<S>&, \
                                    const SortedReferences<S>&, S*, cudaStream_t);
EKPNET_INSTANTIATE(float)
EKPNET_INSTANTIATE(Bf16)
EKPNET_INSTANTIATE(double)
#undef EKPNET_INSTANTIATE

}  // namespace ekpnet
