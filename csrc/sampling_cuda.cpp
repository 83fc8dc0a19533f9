// CUDA binding of what is drawn during training on the GPU. Ripple sets are drawn by the CPU.
#include <tuple>

#include "cuda/draw_triples.h"
#include "cuda_launch.h"
#include "sampling.h"
#include "triple_draw.h"

namespace ekpnet {
namespace {

std::tuple<Tensor, Tensor, Tensor> sample_triples_cuda(const Tensor& indptr,
                                                       const Tensor& relations, const Tensor& tails,
                                                       int64_t count, int64_t seed, int64_t step) {
  check_same_device(indptr, "indptr", {{&relations, "relations"}, {&tails, "tails"}});
  const GraphShape graph = graph_shape(indptr, relations, tails);
  check_draw(graph, count);
  Tensor heads = empty_beside(tails, {2 * count}, ScalarType::Int);
  Tensor out_relations = empty_beside(tails, {2 * count}, ScalarType::Int);
  Tensor out_tails = empty_beside(tails, {2 * count}, ScalarType::Int);
  dispatch_relation(relations.scalar_type(), [&](auto zero) {
    using Relation = decltype(zero);
    const uint64_t key =
        stream_key(static_cast<uint64_t>(seed), static_cast<uint64_t>(step), 0, kTripleStream);
    const OnDevice device(tails);
    launch_draw_triples<Relation>(
        {graph.num_entities, count, key, data<int64_t>(indptr), data<Relation>(relations),
         data<int32_t>(tails), mutable_data<int32_t>(heads), mutable_data<int32_t>(out_relations),
         mutable_data<int32_t>(out_tails)},
        device.stream);
    check_launch();
  });
  return {heads, out_relations, out_tails};
}

}  // namespace
}  // namespace ekpnet

EKPNET_CUDA_OPS(m) { m.impl("sample_triples", TORCH_BOX(&ekpnet::sample_triples_cuda)); }
