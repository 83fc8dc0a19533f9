// CUDA binding of triple_loss and its gradient.
#include <tuple>

#include "bindings/cuda_launch.h"
#include "bindings/cuda_sorting.h"
#include "bindings/triple_loss.h"
#include "cuda/sum_parts.h"
#include "cuda/triple_loss.h"

namespace ekpnet {
namespace {

template <class S>
TripleLossArgs<S> device_args(const Tensor& entity, const Tensor& relation, const Tensor& heads,
                              const Tensor& relations, const Tensor& tails, const Tensor& labels) {
  check_same_device(entity, "entity",
                    {{&relation, "relation"},
                     {&heads, "heads"},
                     {&relations, "relations"},
                     {&tails, "tails"},
                     {&labels, "labels"}});
  check_channels(entity);
  if (entity.size(2) % 4 == 0) {
    check_aligned<S>(entity, "entity");
    check_aligned<S>(relation, "relation");
  }
  return triple_loss_args<S>(entity, relation, heads, relations, tails, labels);
}

Tensor triple_loss_cuda(const Tensor& entity, const Tensor& relation, const Tensor& heads,
                        const Tensor& relations, const Tensor& tails, const Tensor& labels) {
  return dispatch_storage(entity, "entity", [&](auto zero) {
    using S = decltype(zero);
    const auto args = device_args<S>(entity, relation, heads, relations, tails, labels);
    Tensor loss = zeros_beside(entity, {}, entity.scalar_type());
    const int64_t blocks = triple_loss_blocks(args.num_triples, args.width);
    if (blocks == 0) return loss;
    Tensor parts = empty_beside(entity, {blocks}, ScalarType::Double);
    const OnDevice device(entity);
    launch_triple_loss_forward(args, mutable_data<double>(parts), device.stream);
    launch_sum_parts(data<double>(parts), blocks, 1, mutable_data<S>(loss), device.stream);
    check_launch();
    return loss;
  });
}

std::tuple<Tensor, Tensor> triple_loss_backward_cuda(const Tensor& grad, const Tensor& entity,
                                                     const Tensor& relation, const Tensor& heads,
                                                     const Tensor& relations, const Tensor& tails,
                                                     const Tensor& labels) {
  return dispatch_storage(entity, "entity", [&](auto zero) {
    using S = decltype(zero);
    const ScalarType dtype = entity.scalar_type();
    const auto args = device_args<S>(entity, relation, heads, relations, tails, labels);
    check_same_device(entity, "entity", {{&grad, "grad"}});
    check_tensor(grad, "grad", dtype, {});
    const int64_t K = args.num_triples, C = args.channels, D = args.width;
    STD_TORCH_CHECK(2 * K < INT32_MAX, "heads has ", K, " triples, expected below 2^30");
    Tensor dentity = zeros_beside(entity, {args.num_rows, C, D}, dtype);
    Tensor drelation = zeros_beside(entity, {args.num_relations, C, D}, dtype);
    if (K == 0) return std::tuple(dentity, drelation);
    Tensor entity_keys = empty_beside(entity, {2 * K}, ScalarType::Int);
    Tensor entity_references = empty_beside(entity, {2 * K}, ScalarType::Int);
    Tensor relation_references = empty_beside(entity, {K}, ScalarType::Int);
    const OnDevice device(entity);
    launch_triple_references(args, mutable_data<int32_t>(entity_keys),
                             mutable_data<int32_t>(entity_references),
                             mutable_data<int32_t>(relation_references), device.stream);
    check_launch();
    with_sorted<S>(entity_keys, entity_references, args.num_rows, C * D, device.stream,
                   [&](const SortedReferences<S>& sorted) {
                     launch_triple_entity_sum(args, data<S>(grad), sorted, mutable_data<S>(dentity),
                                              device.stream);
                   });
    with_sorted<S>(relations, relation_references, args.num_relations, C * D, device.stream,
                   [&](const SortedReferences<S>& sorted) {
                     launch_triple_relation_sum(args, data<S>(grad), sorted,
                                                mutable_data<S>(drelation), device.stream);
                   });
    check_launch();
    return std::tuple(dentity, drelation);
  });
}

}  // namespace
}  // namespace ekpnet

EKPNET_CUDA_OPS(m) {
  m.impl("triple_loss", TORCH_BOX(&ekpnet::triple_loss_cuda));
  m.impl("triple_loss_backward", TORCH_BOX(&ekpnet::triple_loss_backward_cuda));
}
