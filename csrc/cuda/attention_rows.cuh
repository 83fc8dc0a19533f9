// What slots and pairs give to the gradients of table rows.
#pragma once

#include "cuda/ripple_attention.h"
#include "cuda/segment_sum.cuh"

namespace ekpnet {

// What a slot's head or tail, or a pair's item, gives to its row of dentity (references as in
// launch_attention_references).
template <int kD, class S>
struct EntityRows {
  using A = Compute<S>;
  using F = Fragment<kD, A>;
  AttentionArgs<S> args;
  AttentionGradsCuda<S> grads;

  __device__ RowSum<kD, A> operator()(int64_t reference, int lane) const {
    const int64_t slots = args.num_groups * args.hops * args.slots;
    const int D = kD > 0 ? kD : args.width;
    RowSum<kD, A> row = RowSum<kD, A>::zero();
    if (reference >= 2 * slots) {
      row.channel[0] = F::load(grads.ditem + (reference - 2 * slots) * D, lane, D);
      return row;
    }
    const bool head = reference < slots;
    const int64_t slot = head ? reference : reference - slots;
    const F d = F::load((head ? grads.dkey : grads.dvalue) + slot * D, lane, D);
    if (args.channels == 1) {
      row.channel[0] = d;
      return row;
    }
    const A* factors = grads.factors + slot * 4 + (head ? 0 : 2);
    const S* relation = args.relation + static_cast<int64_t>(args.relations[slot]) * 2 * D;
    row.channel[0].add(factors[0], F::load(relation + D, lane, D));
    row.channel[1].add(factors[1], d);
    return row;
  }
};

// What a slot gives to its row of drelation.
template <int kD, class S>
struct RelationRows {
  using A = Compute<S>;
  using F = Fragment<kD, A>;
  AttentionArgs<S> args;
  AttentionGradsCuda<S> grads;

  __device__ RowSum<kD, A> operator()(int64_t slot, int lane) const {
    const int D = kD > 0 ? kD : args.width;
    RowSum<kD, A> row = RowSum<kD, A>::zero();
    row.channel[0] = F::load(grads.dkey + slot * D, lane, D);
    if (args.channels == 2) {
      const S* head = args.entity + static_cast<int64_t>(args.heads[slot]) * 2 * D;
      const S* tail = args.entity + static_cast<int64_t>(args.tails[slot]) * 2 * D;
      row.channel[1].add(grads.factors[slot * 4], F::load(head, lane, D));
      row.channel[1].add(grads.factors[slot * 4 + 2], F::load(tail, lane, D));
    }
    return row;
  }
};

}  // namespace ekpnet
