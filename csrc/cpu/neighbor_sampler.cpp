#include "cpu/neighbor_sampler.h"

#include <algorithm>
#include <vector>

#include "common/random.h"

namespace ekpnet {
namespace {

constexpr uint64_t kNeighborStream = 4;  // of stream_key(seed, epoch, node, .)

// How many nodes ahead row pointers, and then triples, are asked for.
constexpr int64_t kRowsAhead = 16, kTriplesAhead = 8;

}  // namespace

template <class Relation>
void sample_neighbors(const RippleGraph<Relation>& graph, const NeighborRequest& request,
                      const Neighbors& out, int64_t begin, int64_t end) {
  const int64_t K = request.count, T = graph.indptr[graph.num_entities];
  std::vector<int64_t> drawn(K);
  for (int64_t i = begin; i < end; ++i) {
    if (i + kRowsAhead < end) prefetch_row(graph.indptr, request.nodes[i + kRowsAhead]);
    if (i + kTriplesAhead < end) {
      const int64_t triple = graph.indptr[request.nodes[i + kTriplesAhead]];
      if (0 <= triple && triple < T) {
        prefetch(graph.relations + triple);
        prefetch(graph.tails + triple);
      }
    }
    const int32_t node = request.nodes[i];
    const int64_t first = graph.indptr[node];
    const int64_t degree = checked_degree(graph.indptr, T, node);
    const uint64_t key = stream_key(request.seed, request.epoch, node, kNeighborStream);
    const auto random_below = [&](int64_t k, int64_t limit) {
      return static_cast<int64_t>(bounded(random_bits(key, k), limit));
    };
    int64_t count = K;
    if (degree > K) {
      // Floyd's algorithm (Bentley & Floyd 1987): one draw per slot, each K-subset equally likely.
      for (int64_t k = 0; k < K; ++k) {
        const int64_t top = degree - K + k, at = random_below(k, top + 1);
        const bool taken = std::find(drawn.begin(), drawn.begin() + k, at) != drawn.begin() + k;
        drawn[k] = taken ? top : at;
      }
    } else if (request.repeat && 0 < degree && degree < K) {
      for (int64_t k = 0; k < K; ++k) drawn[k] = random_below(k, degree);
    } else {
      count = degree;
      for (int64_t k = 0; k < count; ++k) drawn[k] = k;
    }
    out.counts[i] = static_cast<int32_t>(count);
    int32_t *relations = out.relations + i * K, *tails = out.tails + i * K;
    for (int64_t k = 0; k < count; ++k) {
      relations[k] = static_cast<int32_t>(graph.relations[first + drawn[k]]);
      tails[k] = graph.tails[first + drawn[k]];
    }
    for (int64_t k = count; k < K; ++k) relations[k] = tails[k] = 0;
  }
}

template void sample_neighbors(const RippleGraph<uint8_t>&, const NeighborRequest&,
                               const Neighbors&, int64_t, int64_t);
template void sample_neighbors(const RippleGraph<int16_t>&, const NeighborRequest&,
                               const Neighbors&, int64_t, int64_t);
template void sample_neighbors(const RippleGraph<int32_t>&, const NeighborRequest&,
                               const Neighbors&, int64_t, int64_t);

}  // namespace ekpnet
