// What the bindings of the samplers share between devices.
#pragma once

#include "bindings/checks.h"

namespace ekpnet {

// Calls f with a value of the type that holds relation ids.
template <class F>
auto dispatch_relation(ScalarType dtype, F f) {
  switch (dtype) {
    case ScalarType::Byte:
      return f(uint8_t());
    case ScalarType::Short:
      return f(int16_t());
    case ScalarType::Int:
      return f(int32_t());
    default:
      STD_TORCH_CHECK(false, "relations is ", dtype_name(dtype),
                      ", expected uint8, int16 or int32");
  }
}

struct GraphShape {
  int64_t num_entities, num_triples;
};

// Dtypes and shapes of a graph, not its values.
inline GraphShape graph_shape(const Tensor& indptr, const Tensor& relations, const Tensor& tails) {
  check_tensor(tails, "tails", ScalarType::Int, {-1});
  const int64_t T = tails.size(0);
  check_tensor(relations, "relations", relations.scalar_type(), {T});
  check_tensor(indptr, "indptr", ScalarType::Long, {-1});
  STD_TORCH_CHECK(indptr.size(0) >= 1, "indptr is empty, expected E + 1 row pointers");
  return {indptr.size(0) - 1, T};
}

inline void check_draw(const GraphShape& graph, int64_t count) {
  check_range("count", count, 0, 1 << 30);
  STD_TORCH_CHECK(graph.num_triples > 0 || count == 0, "the graph has no triple to draw from");
}

}  // namespace ekpnet
