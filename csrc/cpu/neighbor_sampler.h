// Neighbours of entities in the knowledge graph, for models that aggregate neighbourhoods.
#pragma once

#include <cstdint>

#include "cpu/ripple_sampler.h"

namespace ekpnet {

struct NeighborRequest {
  const int32_t* nodes;  // [n] entities; equal ones get equal neighbours
  int64_t count;         // K
  uint64_t seed;
  uint64_t epoch;
  // What happens to a node of degree below K: false: each triple is kept once and `counts` masks
  // the rest; true: K are drawn with replacement, as KGCN does. Without triples all are masked.
  bool repeat;
};

struct Neighbors {
  int32_t* relations;  // [n, K], 0 in masked slots, as tails
  int32_t* tails;      // [n, K]
  int32_t* counts;     // [n]
};

// Nodes [begin, end). K triples without replacement where the degree is at least K; a draw is a
// hash of (seed, epoch, node, slot). Cost per node: K^2 comparisons at worst, whatever the degree.
template <class Relation>
void sample_neighbors(const RippleGraph<Relation>& graph, const NeighborRequest& request,
                      const Neighbors& out, int64_t begin, int64_t end);

}  // namespace ekpnet
