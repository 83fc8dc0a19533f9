// Argument checks that ripple_attention shares between devices: dtypes and shapes, not values.
#pragma once

#include "bindings/checks.h"
#include "common/ripple_attention_args.h"

namespace ekpnet {

struct AttentionTensors {
  const Tensor &entity, &relation, &W_e, &b_e, &heads, &relations, &tails, &counts, &group_indptr,
      &items;
  bool replace;
};

// `dtype` is that of all reals, stored as T.
template <class T>
AttentionArgs<T> attention_args(const AttentionTensors& t, ScalarType dtype) {
  check_channels(t.entity);
  const int64_t n = t.entity.size(0), C = t.entity.size(1), D = t.entity.size(2);
  check_range("width D", D, 1, kMaxWidth);
  check_tensor(t.entity, "entity", dtype, {n, C, D});
  check_tensor(t.relation, "relation", dtype, {-1, C, D});
  check_tensor(t.W_e, "W_e", dtype, {D, D});
  check_tensor(t.b_e, "b_e", dtype, {D});
  check_tensor(t.heads, "heads", ScalarType::Int, {-1, -1, -1});
  const int64_t G = t.heads.size(0), H = t.heads.size(1), M = t.heads.size(2);
  check_range("hops H", H, 1, kMaxHops);
  check_range("slots M", M, 1, kMaxSlots);
  check_tensor(t.relations, "relations", ScalarType::Int, {G, H, M});
  check_tensor(t.tails, "tails", ScalarType::Int, {G, H, M});
  check_tensor(t.counts, "counts", ScalarType::Int, {G, H});
  check_tensor(t.group_indptr, "group_indptr", ScalarType::Long, {G + 1});
  check_tensor(t.items, "items", ScalarType::Int, {-1});
  return {G,
          t.items.size(0),
          n,
          t.relation.size(0),
          static_cast<int>(H),
          static_cast<int>(M),
          static_cast<int>(D),
          static_cast<int>(C),
          data<T>(t.entity),
          data<T>(t.relation),
          data<T>(t.W_e),
          data<T>(t.b_e),
          data<int32_t>(t.heads),
          data<int32_t>(t.relations),
          data<int32_t>(t.tails),
          data<int32_t>(t.counts),
          data<int64_t>(t.group_indptr),
          data<int32_t>(t.items),
          t.replace};
}

}  // namespace ekpnet
