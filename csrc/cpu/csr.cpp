#include "cpu/csr.h"

#include <algorithm>

namespace ekpnet {

template <class Relation>
void build_csr(int64_t num_triples, int64_t num_entities, const int32_t* heads,
               const int32_t* relations, const int32_t* tails, int64_t* indptr,
               Relation* out_relations, int32_t* out_tails) {
  // indptr[e + 1] is where the next triple of head e goes; at the end that is where e + 1 starts,
  // so no second array of E counters is needed.
  std::fill(indptr, indptr + num_entities + 1, 0);
  for (int64_t i = 0; i < num_triples; ++i)
    if (heads[i] + 2 <= num_entities) ++indptr[heads[i] + 2];
  for (int64_t e = 2; e <= num_entities; ++e) indptr[e] += indptr[e - 1];
  for (int64_t i = 0; i < num_triples; ++i) {
    const int64_t at = indptr[heads[i] + 1]++;
    out_relations[at] = static_cast<Relation>(relations[i]);
    out_tails[at] = tails[i];
  }
}

template void build_csr(int64_t, int64_t, const int32_t*, const int32_t*, const int32_t*, int64_t*,
                        uint8_t*, int32_t*);
template void build_csr(int64_t, int64_t, const int32_t*, const int32_t*, const int32_t*, int64_t*,
                        int16_t*, int32_t*);
template void build_csr(int64_t, int64_t, const int32_t*, const int32_t*, const int32_t*, int64_t*,
                        int32_t*, int32_t*);

}  // namespace ekpnet
