// Argument checks of what propagates user groups on a GPU.
#pragma once

#include "bindings/cuda_launch.h"
#include "bindings/ripple_attention.h"
#include "cuda/ripple_attention.h"

namespace ekpnet {

template <class S>
AttentionArgs<S> attention_on_device(const AttentionTensors& t) {
  check_same_device(t.entity, "entity",
                    {{&t.relation, "relation"},
                     {&t.W_e, "W_e"},
                     {&t.b_e, "b_e"},
                     {&t.heads, "heads"},
                     {&t.relations, "relations"},
                     {&t.tails, "tails"},
                     {&t.counts, "counts"},
                     {&t.group_indptr, "group_indptr"},
                     {&t.items, "items"}});
  const auto args = attention_args<S>(t, t.entity.scalar_type());
  STD_TORCH_CHECK(args.num_pairs == 0 || args.num_groups > 0, "items has ", args.num_pairs,
                  " pairs, expected none because there are no groups");
  STD_TORCH_CHECK(2 * args.num_groups * args.hops * args.slots + args.num_pairs < INT32_MAX,
                  "the batch has ", args.num_groups, " groups of ", args.hops, " x ", args.slots,
                  " slots and ", args.num_pairs, " pairs, expected below 2^31 references to rows");
  if (args.width % 4 == 0) {
    check_aligned<S>(t.entity, "entity");
    check_aligned<S>(t.relation, "relation");
  }
  return args;
}

inline void check_plan(const AttentionPlan& plan, const Tensor& entity, const OnDevice& device) {
  STD_TORCH_CHECK(plan.shared_bytes <= device.most_shared_bytes(),
                  "the hops, slots and width need ", plan.shared_bytes,
                  " bytes of shared memory in ", dtype_name(entity.scalar_type()),
                  ", expected at most ", device.most_shared_bytes(),
                  " on this GPU; use float32 or a smaller shape");
}

// What the gradient of the propagation leaves for its sums.
template <class S>
struct AttentionWorkspace {
  using A = Compute<S>;
  Tensor dkey_items, dvalue_items, dkey, dvalue, factors, ditem, dW_e_teams, db_e_teams;
  AttentionGradsCuda<S> grads;

  // dz [B, (H + 1) D] and dmatch [B] may be null for 0.
  AttentionWorkspace(const Tensor& beside, const AttentionArgs<S>& args, const AttentionPlan& plan,
                     const S* dz, const S* dmatch)
      : dkey_items(empty(beside, {plan.items, args.hops, args.slots, args.width})),
        dvalue_items(empty(beside, {plan.items, args.hops, args.slots, args.width})),
        dkey(empty(beside, {args.num_groups, args.hops, args.slots, args.width})),
        dvalue(empty(beside, {args.num_groups, args.hops, args.slots, args.width})),
        factors(empty(beside, {args.num_groups, args.hops, args.slots, 4})),
        ditem(empty(beside, {args.num_pairs, args.width})),
        dW_e_teams(empty(beside, {plan.teams, args.width, args.width})),
        db_e_teams(empty(beside, {plan.teams, args.width})),
        grads{dz,
              dmatch,
              mutable_data<A>(dkey_items),
              mutable_data<A>(dvalue_items),
              mutable_data<A>(dkey),
              mutable_data<A>(dvalue),
              mutable_data<A>(factors),
              mutable_data<A>(ditem),
              mutable_data<A>(dW_e_teams),
              mutable_data<A>(db_e_teams)} {}

 private:
  static Tensor empty(const Tensor& beside, std::initializer_list<int64_t> shape) {
    return empty_beside(beside, shape, kComputeDtype<S>);
  }
};

}  // namespace ekpnet
