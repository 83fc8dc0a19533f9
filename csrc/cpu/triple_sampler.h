// True triples and their corruptions, for the translation loss.
#pragma once

#include <cstdint>

namespace ekpnet {

// `count` triples drawn uniformly with replacement, then as many corrupted ones, each with its head
// or its tail (even chance) replaced by a uniform entity. Outputs [2 count]; those from begin to
// end are written, of which number k is draw first + k of (seed, step).
template <class Relation>
void sample_triples(int64_t num_entities, const int64_t* indptr, const Relation* graph_relations,
                    const int32_t* graph_tails, int64_t count, int64_t first, uint64_t seed,
                    uint64_t step, int64_t begin, int64_t end, int32_t* heads, int32_t* relations,
                    int32_t* tails);

}  // namespace ekpnet
