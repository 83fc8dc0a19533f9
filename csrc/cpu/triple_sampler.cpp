#include "cpu/triple_sampler.h"

#include "common/random.h"
#include "cpu/ripple_sampler.h"

namespace ekpnet {
namespace {

constexpr uint64_t kTripleStream = 3;  // of stream_key(seed, step, 0, .)

// A true triple and its corruption, which keeps the relation.
struct TriplePair {
  int32_t head, relation, tail, corrupt_head, corrupt_tail;
};

// The k-th triple of a stream, uniform over the graph, and one with its head or its tail (even
// chance) replaced by a uniform entity.
template <class Relation>
TriplePair draw_triple(int64_t num_entities, const int64_t* indptr, const Relation* relations,
                       const int32_t* tails, uint64_t key, int64_t k) {
  const int64_t at = static_cast<int64_t>(bounded(random_bits(key, 3 * k), indptr[num_entities]));
  int64_t head = 0, end = num_entities;  // indptr[head] <= at < indptr[end]
  while (end - head > 1) {
    const int64_t middle = head + (end - head) / 2;
    if (indptr[middle] <= at)
      head = middle;
    else
      end = middle;
  }
  const auto other = static_cast<int32_t>(bounded(random_bits(key, 3 * k + 1), num_entities));
  const bool change_head = random_bits(key, 3 * k + 2) >> 63;
  const auto first = static_cast<int32_t>(head);
  if (static_cast<uint32_t>(tails[at]) >= num_entities) [[unlikely]]
    refuse_tail(tails[at], num_entities);
  return {first, static_cast<int32_t>(relations[at]), tails[at], change_head ? other : first,
          change_head ? tails[at] : other};
}

}  // namespace

template <class Relation>
void sample_triples(int64_t num_entities, const int64_t* indptr, const Relation* graph_relations,
                    const int32_t* graph_tails, int64_t count, uint64_t seed, uint64_t step,
                    int64_t begin, int64_t end, int32_t* heads, int32_t* relations,
                    int32_t* tails) {
  const uint64_t key = stream_key(seed, step, 0, kTripleStream);
  for (int64_t k = begin; k < end; ++k) {
    const TriplePair drawn =
        draw_triple(num_entities, indptr, graph_relations, graph_tails, key, k);
    heads[k] = drawn.head;
    tails[k] = drawn.tail;
    relations[k] = relations[count + k] = drawn.relation;
    heads[count + k] = drawn.corrupt_head;
    tails[count + k] = drawn.corrupt_tail;
  }
}

template void sample_triples(int64_t, const int64_t*, const uint8_t*, const int32_t*, int64_t,
                             uint64_t, uint64_t, int64_t, int64_t, int32_t*, int32_t*, int32_t*);
template void sample_triples(int64_t, const int64_t*, const int16_t*, const int32_t*, int64_t,
                             uint64_t, uint64_t, int64_t, int64_t, int32_t*, int32_t*, int32_t*);
template void sample_triples(int64_t, const int64_t*, const int32_t*, const int32_t*, int64_t,
                             uint64_t, uint64_t, int64_t, int64_t, int32_t*, int32_t*, int32_t*);

}  // namespace ekpnet
