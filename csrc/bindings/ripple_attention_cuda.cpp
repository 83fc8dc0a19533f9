// CUDA binding of ripple_attention and its gradient.
#include "bindings/ripple_attention_cuda.h"

#include <tuple>

#include "bindings/cuda_sorting.h"
#include "cuda/attention_sums.h"
#include "cuda/sum_parts.h"

namespace ekpnet {
namespace {

// Any of z, match, alpha may be null.
template <class S>
void run_forward(const AttentionTensors& t, const AttentionArgs<S>& args, S* z, S* match,
                 S* alpha) {
  const AttentionPlan plan = plan_attention_forward(args.num_groups, args.num_pairs, args.hops,
                                                    args.slots, args.width, sizeof(Compute<S>));
  const OnDevice device(t.entity);
  check_plan(plan, t.entity, device);
  launch_ripple_attention_forward(args, {}, plan, z, match, alpha, device.stream);
  check_launch();
}

std::tuple<Tensor, Tensor> ripple_attention_cuda(const Tensor& entity, const Tensor& relation,
                                                 const Tensor& W_e, const Tensor& b_e,
                                                 const Tensor& heads, const Tensor& relations,
                                                 const Tensor& tails, const Tensor& counts,
                                                 const Tensor& group_indptr, const Tensor& items,
                                                 bool replace) {
  return dispatch_storage(entity, "entity", [&](auto zero) {
    using S = decltype(zero);
    const AttentionTensors t = {entity, relation, W_e,          b_e,   heads,  relations,
                                tails,  counts,   group_indptr, items, replace};
    const auto args = attention_on_device<S>(t);
    Tensor z =
        empty_beside(entity, {args.num_pairs, (args.hops + 1) * args.width}, entity.scalar_type());
    Tensor match = empty_beside(entity, {args.num_pairs}, entity.scalar_type());
    run_forward<S>(t, args, mutable_data<S>(z), mutable_data<S>(match), nullptr);
    return std::tuple(z, match);
  });
}

Tensor ripple_attention_weights_cuda(const Tensor& entity, const Tensor& relation,
                                     const Tensor& W_e, const Tensor& b_e, const Tensor& heads,
                                     const Tensor& relations, const Tensor& tails,
                                     const Tensor& counts, const Tensor& group_indptr,
                                     const Tensor& items, bool replace) {
  return dispatch_storage(entity, "entity", [&](auto zero) {
    using S = decltype(zero);
    const AttentionTensors t = {entity, relation, W_e,          b_e,   heads,  relations,
                                tails,  counts,   group_indptr, items, replace};
    const auto args = attention_on_device<S>(t);
    Tensor alpha =
        empty_beside(entity, {args.num_pairs, args.hops, args.slots}, entity.scalar_type());
    run_forward<S>(t, args, nullptr, nullptr, mutable_data<S>(alpha));
    return alpha;
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> ripple_attention_backward_cuda(
    const Tensor& dz, const Tensor& dmatch, const Tensor& entity, const Tensor& relation,
    const Tensor& W_e, const Tensor& b_e, const Tensor& heads, const Tensor& relations,
    const Tensor& tails, const Tensor& counts, const Tensor& group_indptr, const Tensor& items,
    bool replace) {
  return dispatch_storage(entity, "entity", [&](auto zero) {
    using S = decltype(zero);
    using A = Compute<S>;
    const AttentionTensors t = {entity, relation, W_e,          b_e,   heads,  relations,
                                tails,  counts,   group_indptr, items, replace};
    const auto args = attention_on_device<S>(t);
    check_same_device(entity, "entity", {{&dz, "dz"}, {&dmatch, "dmatch"}});
    const ScalarType dtype = entity.scalar_type();
    const int64_t G = args.num_groups, B = args.num_pairs, R = args.num_relations;
    const int64_t H = args.hops, M = args.slots, D = args.width, C = args.channels;
    check_tensor(dz, "dz", dtype, {B, (H + 1) * D});
    check_tensor(dmatch, "dmatch", dtype, {B});
    if (D % 4 == 0) check_aligned<S>(dz, "dz");
    Tensor dentity = zeros_beside(entity, {args.num_rows, C, D}, dtype);
    Tensor drelation = zeros_beside(entity, {R, C, D}, dtype);
    Tensor dW_e = zeros_beside(entity, {D, D}, dtype), db_e = zeros_beside(entity, {D}, dtype);
    if (B == 0) return std::tuple(dentity, drelation, dW_e, db_e);
    const AttentionPlan plan =
        plan_attention_backward(G, B, args.hops, args.slots, args.width, sizeof(A));
    const OnDevice device(entity);
    check_plan(plan, entity, device);

    const AttentionWorkspace<S> workspace(entity, args, plan, data<S>(dz), data<S>(dmatch));
    const AttentionGradsCuda<S>& grads = workspace.grads;
    launch_ripple_attention_backward(args, {}, plan, grads, device.stream);
    check_launch();
    launch_sum_parts(grads.dW_e_teams, plan.teams, D * D, mutable_data<S>(dW_e), device.stream);
    launch_sum_parts(grads.db_e_teams, plan.teams, D, mutable_data<S>(db_e), device.stream);
    check_launch();

    const int64_t slots = G * H * M;
    Tensor entity_keys = empty_beside(entity, {2 * slots + B}, ScalarType::Int);
    Tensor entity_references = empty_beside(entity, {2 * slots + B}, ScalarType::Int);
    Tensor relation_keys = empty_beside(entity, {slots}, ScalarType::Int);
    Tensor relation_references = empty_beside(entity, {slots}, ScalarType::Int);
    launch_attention_references(args, mutable_data<int32_t>(entity_keys),
                                mutable_data<int32_t>(entity_references),
                                mutable_data<int32_t>(relation_keys),
                                mutable_data<int32_t>(relation_references), device.stream);
    check_launch();
    with_sorted<S>(entity_keys, entity_references, args.num_rows, C * D, device.stream,
                   [&](const SortedReferences<S>& sorted) {
                     launch_entity_sum(args, grads, sorted, mutable_data<S>(dentity),
                                       device.stream);
                   });
    with_sorted<S>(relation_keys, relation_references, R, C * D, device.stream,
                   [&](const SortedReferences<S>& sorted) {
                     launch_relation_sum(args, grads, sorted, mutable_data<S>(drelation),
                                         device.stream);
                   });
    check_launch();
    return std::tuple(dentity, drelation, dW_e, db_e);
  });
}

}  // namespace
}  // namespace ekpnet

EKPNET_CUDA_OPS(m) {
  m.impl("ripple_attention", TORCH_BOX(&ekpnet::ripple_attention_cuda));
  m.impl("ripple_attention_backward", TORCH_BOX(&ekpnet::ripple_attention_backward_cuda));
  m.impl("ripple_attention_weights", TORCH_BOX(&ekpnet::ripple_attention_weights_cuda));
}
