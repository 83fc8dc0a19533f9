// Argument checks that triple_loss shares between devices: dtypes and shapes, not values.
#pragma once

#include "bindings/checks.h"
#include "common/ripple_attention_args.h"
#include "common/triple_loss_args.h"

namespace ekpnet {

template <class T>
TripleLossArgs<T> triple_loss_args(const Tensor& entity, const Tensor& relation,
                                   const Tensor& heads, const Tensor& relations,
                                   const Tensor& tails, const Tensor& labels) {
  const ScalarType dtype = entity.scalar_type();
  check_channels(entity);
  const int64_t n = entity.size(0), C = entity.size(1), D = entity.size(2);
  check_range("width D", D, 1, kMaxWidth);
  check_tensor(entity, "entity", dtype, {n, C, D});
  check_tensor(relation, "relation", dtype, {-1, C, D});
  check_tensor(heads, "heads", ScalarType::Int, {-1});
  const int64_t K = heads.size(0);
  check_tensor(relations, "relations", ScalarType::Int, {K});
  check_tensor(tails, "tails", ScalarType::Int, {K});
  check_tensor(labels, "labels", ScalarType::Char, {K});
  return {K,
          n,
          relation.size(0),
          static_cast<int>(D),
          static_cast<int>(C),
          data<T>(entity),
          data<T>(relation),
          data<int32_t>(heads),
          data<int32_t>(relations),
          data<int32_t>(tails),
          data<int8_t>(labels)};
}

}  // namespace ekpnet
