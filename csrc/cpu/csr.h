// Triples to compressed sparse rows by head.
#pragma once

#include <cstdint>

namespace ekpnet {

// Stable counting sort: row e of the result holds the triples of head e in input order.
// indptr [E + 1]; out_relations and out_tails [T]. Relation is the type the graph stores.
template <class Relation>
void build_csr(int64_t num_triples, int64_t num_entities, const int32_t* heads,
               const int32_t* relations, const int32_t* tails, int64_t* indptr,
               Relation* out_relations, int32_t* out_tails);

}  // namespace ekpnet
