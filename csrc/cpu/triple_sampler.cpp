#include "cpu/triple_sampler.h"

#include <algorithm>

#include "common/random.h"
#include "cpu/ripple_sampler.h"

namespace ekpnet {
namespace {

constexpr uint64_t kTripleStream = 3;  // of stream_key(seed, step, 0, .)

constexpr int64_t kInFlight = 16;  // draws side by side, whose cache misses overlap

// The head of each of n triples: the last entity whose row starts at or before it.
void find_heads(int64_t num_entities, const int64_t* indptr, const int64_t* triples, int64_t n,
                int64_t* heads) {
  std::fill_n(heads, n, 0);
  for (int64_t left = num_entities; left > 1;) {
    const int64_t half = left / 2;
    for (int64_t i = 0; i < n; ++i) heads[i] += indptr[heads[i] + half] <= triples[i] ? half : 0;
    left -= half;
  }
}

}  // namespace

template <class Relation>
void sample_triples(int64_t num_entities, const int64_t* indptr, const Relation* graph_relations,
                    const int32_t* graph_tails, int64_t count, int64_t first, uint64_t seed,
                    uint64_t step, int64_t begin, int64_t end, int32_t* heads, int32_t* relations,
                    int32_t* tails) {
  const uint64_t key = stream_key(seed, step, 0, kTripleStream);
  int64_t at[kInFlight], head_of[kInFlight];
  for (int64_t start = begin; start < end; start += kInFlight) {
    const int64_t n = std::min(kInFlight, end - start);
    for (int64_t i = 0; i < n; ++i) {
      at[i] = static_cast<int64_t>(
          bounded(random_bits(key, 3 * (first + start + i)), indptr[num_entities]));
      prefetch(graph_tails + at[i]);
      prefetch(graph_relations + at[i]);
    }
    find_heads(num_entities, indptr, at, n, head_of);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t k = start + i, draw = first + k;
      const auto other =
          static_cast<int32_t>(bounded(random_bits(key, 3 * draw + 1), num_entities));
      const bool change_head = random_bits(key, 3 * draw + 2) >> 63;
      const auto head = static_cast<int32_t>(head_of[i]);
      const int32_t tail = graph_tails[at[i]];
      if (static_cast<uint32_t>(tail) >= num_entities) [[unlikely]]
        refuse_tail(tail, num_entities);
      heads[k] = head;
      tails[k] = tail;
      relations[k] = relations[count + k] = static_cast<int32_t>(graph_relations[at[i]]);
      heads[count + k] = change_head ? other : head;
      tails[count + k] = change_head ? tail : other;
    }
  }
}

template void sample_triples(int64_t, const int64_t*, const uint8_t*, const int32_t*, int64_t,
                             int64_t, uint64_t, uint64_t, int64_t, int64_t, int32_t*, int32_t*,
                             int32_t*);
template void sample_triples(int64_t, const int64_t*, const int16_t*, const int32_t*, int64_t,
                             int64_t, uint64_t, uint64_t, int64_t, int64_t, int32_t*, int32_t*,
                             int32_t*);
template void sample_triples(int64_t, const int64_t*, const int32_t*, const int32_t*, int64_t,
                             int64_t, uint64_t, uint64_t, int64_t, int64_t, int32_t*, int32_t*,
                             int32_t*);

}  // namespace ekpnet
