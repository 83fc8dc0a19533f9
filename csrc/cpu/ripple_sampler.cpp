#include "cpu/ripple_sampler.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "random.h"

namespace ekpnet {
namespace {

// Open-addressing set of entity ids that is emptied in O(1) by starting a new generation.
class EntitySet {
 public:
  // Empties the set and makes room for n ids.
  void reset(size_t n) {
    const size_t size = std::bit_ceil(2 * n + 2);
    if (size > slots_.size()) {
      slots_.assign(size, Slot{0, 0});
      generation_ = 0;
    }
    mask_ = size - 1;
    if (++generation_ == 0) {
      std::fill(slots_.begin(), slots_.end(), Slot{0, 0});
      generation_ = 1;
    }
  }

  // True if the id was not in the set before.
  bool insert(uint32_t id) {
    size_t i = (id * 0x9e3779b1u) >> 7 & mask_;
    while (slots_[i].generation == generation_) {
      if (slots_[i].id == id) return false;
      i = (i + 1) & mask_;
    }
    slots_[i] = {id, generation_};
    return true;
  }

 private:
  struct Slot {
    uint32_t id, generation;
  };
  std::vector<Slot> slots_;
  size_t mask_ = 0;
  uint32_t generation_ = 0;
};

// What one thread reuses from user to user.
struct Scratch {
  EntitySet seen;
  std::vector<int32_t> heads;       // heads of the hop that have triples
  std::vector<int64_t> first;       // [heads], first triple of each head in the CSR arrays
  std::vector<int64_t> cumulative;  // [heads + 1], candidates before each head
  std::vector<int64_t> positions;   // [M], drawn candidates
  std::vector<int64_t> table;       // hash set behind Floyd's algorithm
};

// M distinct positions in [0, n), n > M, by Floyd's algorithm (Bentley & Floyd 1987): one draw
// per slot, and each M-subset is equally likely.
void draw_distinct(uint64_t key, uint64_t counter, int64_t n, Scratch& scratch) {
  const int64_t M = static_cast<int64_t>(scratch.positions.size());
  const size_t mask = std::bit_ceil(static_cast<size_t>(4 * M)) - 1;
  scratch.table.assign(mask + 1, -1);
  const auto insert = [&](int64_t x) {
    size_t i = (static_cast<uint64_t>(x) * kGoldenGamma >> 32) & mask;
    while (scratch.table[i] != -1) {
      if (scratch.table[i] == x) return false;
      i = (i + 1) & mask;
    }
    scratch.table[i] = x;
    return true;
  };
  for (int64_t m = 0; m < M; ++m) {
    const int64_t top = n - M + m;
    int64_t x = static_cast<int64_t>(bounded(random_bits(key, counter + m), top + 1));
    if (!insert(x)) {
      x = top;
      insert(x);
    }
    scratch.positions[m] = x;
  }
}

template <class Relation>
class UserSampler {
 public:
  UserSampler(const RippleGraph<Relation>& graph, const RippleRequest& request, const RippleSets& sets,
              Scratch& scratch)
      : graph_(graph), request_(request), sets_(sets), scratch_(scratch), H(request.hops), M(request.slots) {}

  void sample(int64_t u) {
    const int32_t* history = request_.seeds + request_.seed_indptr[u];
    const int64_t size = request_.seed_indptr[u + 1] - request_.seed_indptr[u];
    const uint64_t id = request_.users ? request_.users[u] : u;
    const uint64_t key = stream_key(request_.seed, request_.epoch, id, 0);
    if (!request_.repeat) scratch_.seen.reset(size + H * M);
    start_hop();
    for (int64_t i = 0; i < size; ++i) add_head(history[i]);
    for (int64_t p = 0; p < H; ++p) {
      const int64_t hop = u * H + p;
      const int64_t count = draw_hop(key, p, hop);
      sets_.counts[hop] = static_cast<int32_t>(count);
      if (p + 1 < H) {
        start_hop();
        for (int64_t m = 0; m < count; ++m) add_head(sets_.tails[hop * M + m]);
      }
    }
  }

 private:
  void start_hop() {
    scratch_.heads.clear();
    scratch_.first.clear();
    scratch_.cumulative.assign(1, 0);
  }

  void add_head(int32_t entity) {
    if (!request_.repeat && !scratch_.seen.insert(static_cast<uint32_t>(entity))) return;
    const int64_t first = graph_.indptr[entity], degree = graph_.indptr[entity + 1] - first;
    if (degree == 0) return;
    scratch_.heads.push_back(entity);
    scratch_.first.push_back(first);
    scratch_.cumulative.push_back(scratch_.cumulative.back() + degree);
  }

  // Draws the slots of hop p and returns how many are valid.
  int64_t draw_hop(uint64_t key, int64_t p, int64_t hop) {
    const int64_t candidates = scratch_.cumulative.back();
    int32_t* heads = sets_.heads + hop * M;
    int32_t* relations = sets_.relations + hop * M;
    int32_t* tails = sets_.tails + hop * M;
    const uint64_t counter = static_cast<uint64_t>(p) << 32;
    scratch_.positions.resize(M);
    int64_t count = M;
    if (candidates == 0) {
      if (request_.repeat && p > 0) {
        std::copy(heads - M, heads, heads);
        std::copy(relations - M, relations, relations);
        std::copy(tails - M, tails, tails);
        return sets_.counts[hop - 1];
      }
      count = 0;
    } else if (candidates > M) {
      draw_distinct(key, counter, candidates, scratch_);
    } else if (request_.repeat && candidates < M) {
      for (int64_t m = 0; m < M; ++m)
        scratch_.positions[m] = static_cast<int64_t>(bounded(random_bits(key, counter + m), candidates));
    } else {
      count = candidates;
      for (int64_t m = 0; m < count; ++m) scratch_.positions[m] = m;
    }
    // Two passes, because the reads of the second are cache misses in a large graph: all of them
    // are under way before the first is needed.
    for (int64_t m = 0; m < count; ++m) {
      const int64_t position = scratch_.positions[m];
      const auto& cumulative = scratch_.cumulative;
      const int64_t i = std::upper_bound(cumulative.begin(), cumulative.end(), position) - cumulative.begin() - 1;
      const int64_t triple = scratch_.first[i] + position - cumulative[i];
      __builtin_prefetch(graph_.relations + triple);
      __builtin_prefetch(graph_.tails + triple);
      scratch_.positions[m] = triple;
      heads[m] = scratch_.heads[i];
    }
    for (int64_t m = 0; m < count; ++m) {
      relations[m] = static_cast<int32_t>(graph_.relations[scratch_.positions[m]]);
      tails[m] = graph_.tails[scratch_.positions[m]];
    }
    if (p + 1 < H)
      for (int64_t m = 0; m < count; ++m) __builtin_prefetch(graph_.indptr + tails[m]);
    for (int64_t m = count; m < M; ++m) heads[m] = relations[m] = tails[m] = 0;
    return count;
  }

  const RippleGraph<Relation>& graph_;
  const RippleRequest& request_;
  const RippleSets& sets_;
  Scratch& scratch_;
  const int64_t H, M;
};

}  // namespace

template <class Relation>
void sample_ripple_sets(const RippleGraph<Relation>& graph, const RippleRequest& request,
                        const RippleSets& sets, int64_t begin, int64_t end) {
  Scratch scratch;
  UserSampler<Relation> sampler(graph, request, sets, scratch);
  for (int64_t u = begin; u < end; ++u) sampler.sample(u);
}

template void sample_ripple_sets(const RippleGraph<uint8_t>&, const RippleRequest&, const RippleSets&,
                                 int64_t, int64_t);
template void sample_ripple_sets(const RippleGraph<int16_t>&, const RippleRequest&, const RippleSets&,
                                 int64_t, int64_t);
template void sample_ripple_sets(const RippleGraph<int32_t>&, const RippleRequest&, const RippleSets&,
                                 int64_t, int64_t);

}  // namespace ekpnet
