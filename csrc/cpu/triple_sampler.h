// True triples and their corruptions, for the translation loss.
#pragma once

#include <cstdint>

namespace ekpnet {

// `count` triples drawn uniformly with replacement, then as many corrupted ones, each with its head
// or its tail (even chance) replaced by a uniform entity. Outputs [2 count], keyed by (seed, step);
// those of draws [begin, end) are written.
template <class Relation>
void sample_triples(int64_t num_entities, const int64_t* indptr, const Relation* graph_relations,
                    const int32_t* graph_tails, int64_t count, uint64_t seed, uint64_t step,
                    int64_t begin, int64_t end, int32_t* heads, int32_t* relations, int32_t* tails);

}  // namespace ekpnet
