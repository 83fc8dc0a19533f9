#include "cpu/ripple_sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/random.h"

namespace ekpnet {
namespace {

// Open-addressing set of entity ids. It is at most an eighth full, so that the first probe nearly
// always decides and its branch is seldom mispredicted.
class EntitySet {
 public:
  // Empties the set and makes room for n ids.
  void reset(size_t n) {
    const size_t size = std::bit_ceil(8 * n + 8);
    if (size > slots_.size()) slots_.resize(size);
    std::fill_n(slots_.begin(), size, kFree);
    shift_ = 64 - std::countr_zero(size);
    mask_ = size - 1;
  }

  // True if the id was not in the set before.
  bool insert(int32_t id) {
    size_t i = static_cast<uint64_t>(id) * kGoldenGamma >> shift_;
    while (slots_[i] != kFree) {
      if (slots_[i] == id) return false;
      i = (i + 1) & mask_;
    }
    slots_[i] = id;
    return true;
  }

 private:
  static constexpr int32_t kFree = -1;
  std::vector<int32_t> slots_;
  size_t mask_ = 0;
  int shift_ = 0;
};

// Entities that were reached, each with the folds in which it was. At most a quarter full.
class FoldedSet {
 public:
  struct Entity {
    int32_t id = -1, hop = -1;
    int64_t candidate = 0;  // its number among the heads of that hop
    uint64_t folds = 0;
  };

  // Empties the set and makes room for n entities.
  void reset(size_t n) {
    const size_t size = std::bit_ceil(4 * n + 4);
    if (size > slots_.size()) slots_.resize(size);
    std::fill_n(slots_.begin(), size, Entity());
    shift_ = 64 - std::countr_zero(size);
    mask_ = size - 1;
  }

  // The entity of an id, in no fold yet if it is new.
  Entity& at(int32_t id) {
    size_t i = static_cast<uint64_t>(id) * kGoldenGamma >> shift_;
    while (slots_[i].id != -1 && slots_[i].id != id) i = (i + 1) & mask_;
    slots_[i].id = id;
    return slots_[i];
  }

 private:
  std::vector<Entity> slots_;
  size_t mask_ = 0;
  int shift_ = 0;
};

// Set of positions for Floyd's algorithm: a bitmap where it is short, else a hash table.
class PositionSet {
 public:
  // Empties the set and makes room for n positions below `limit`.
  void reset(int64_t n, int64_t limit) {
    is_bitmap_ = limit <= 64 * 64;
    if (is_bitmap_) {
      std::fill_n(bitmap_.begin(), (limit + 63) / 64, 0);
    } else {
      mask_ = std::bit_ceil(static_cast<size_t>(4 * n)) - 1;
      table_.assign(mask_ + 1, -1);
    }
  }

  // Adds x if it is not in the set, otherwise `other`, which is not; returns what it added.
  int64_t insert(int64_t x, int64_t other) {
    if (is_bitmap_) {
      x = bitmap_[x / 64] >> (x % 64) & 1 ? other : x;
      bitmap_[x / 64] |= uint64_t{1} << (x % 64);
      return x;
    }
    size_t i = slot(x);
    while (table_[i] != -1) {
      if (table_[i] == x) return insert(other, x);
      i = (i + 1) & mask_;
    }
    return table_[i] = x;
  }

 private:
  size_t slot(int64_t x) const { return (static_cast<uint64_t>(x) * kGoldenGamma >> 32) & mask_; }

  bool is_bitmap_ = true;
  std::array<uint64_t, 64> bitmap_;
  std::vector<int64_t> table_;
  size_t mask_ = 0;
};

// The triples that a hop chooses from: a run of the CSR arrays per head.
class Candidates {
 public:
  // The triples of those of n entities that `keep` accepts.
  template <class Keep>
  void collect(const int64_t* indptr, int64_t num_triples, const int32_t* entities, int64_t n,
               Keep keep) {
    reserve(n);
    int64_t count = 0, total = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int32_t entity = entities[i];
      if (!keep(entity)) continue;
      const int64_t first = indptr[entity], degree = checked_degree(indptr, num_triples, entity);
      heads_[count] = entity;
      start_[count] = total;
      offset_[count] = first - total;
      count += degree > 0;
      total += degree;
    }
    start_[count] = total;
    num_heads_ = count;
    total_ = total;
  }

  // The triples of n entities, entity i reached by the folds of folds_of(i), as far as a fold had
  // not reached it before.
  template <class FoldsOf>
  void collect_folded(const int64_t* indptr, int64_t num_triples, const int32_t* entities,
                      int64_t n, int32_t hop, FoldsOf folds_of, FoldedSet& reached) {
    reserve(n);
    if (static_cast<int64_t>(folds_.size()) < n) folds_.resize(n);
    int64_t count = 0, total = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int32_t entity = entities[i];
      const int64_t first = indptr[entity], degree = checked_degree(indptr, num_triples, entity);
      if (degree == 0) continue;
      FoldedSet::Entity& known = reached.at(entity);
      const uint64_t fresh = folds_of(i) & ~known.folds;
      if (fresh == 0) continue;
      known.folds |= fresh;
      if (known.hop == hop) {
        folds_[known.candidate] |= fresh;
        continue;
      }
      known.hop = hop;
      known.candidate = count;
      heads_[count] = entity;
      start_[count] = total;
      offset_[count] = first - total;
      folds_[count++] = fresh;
      total += degree;
    }
    start_[count] = total;
    num_heads_ = count;
    total_ = total;
  }

  // Prepares `find`. The positions are cut into equal buckets, at least twice as many as heads, and
  // for each the head of its first position is noted.
  void make_index() {
    const size_t buckets = std::bit_ceil(static_cast<size_t>(2 * num_heads_));
    const int bits = static_cast<int>(std::bit_width(static_cast<uint64_t>(total_ - 1)));
    shift_ = std::max(0, bits - std::countr_zero(buckets));
    const int64_t last = (total_ - 1) >> shift_, round_up = (int64_t{1} << shift_) - 1;
    if (bucket_head_.size() < buckets + 1) bucket_head_.resize(buckets + 1);
    std::fill_n(bucket_head_.begin(), last + 1, 0);
    for (int64_t i = 1; i < num_heads_; ++i)
      bucket_head_[(start_[i] + round_up) >> shift_] = static_cast<int32_t>(i);
    int32_t head = 0;
    for (int64_t b = 0; b <= last; ++b) bucket_head_[b] = head = std::max(head, bucket_head_[b]);
  }

  // Which head holds a position.
  int64_t find(int64_t position) const {
    int64_t i = bucket_head_[position >> shift_];
    i += start_[i + 1] <= position;
    while (start_[i + 1] <= position) [[unlikely]]
      ++i;
    return i;
  }

  int64_t total() const { return total_; }
  int32_t head(int64_t i) const { return heads_[i]; }
  uint64_t folds(int64_t i) const { return folds_[i]; }
  int64_t triple(int64_t i, int64_t position) const { return offset_[i] + position; }

 private:
  void reserve(int64_t n) {
    if (static_cast<int64_t>(heads_.size()) > n) return;
    heads_.resize(n + 1);
    start_.resize(n + 1);
    offset_.resize(n + 1);
  }

  std::vector<int32_t> heads_;
  std::vector<int64_t> start_;   // [heads + 1], candidates before each head
  std::vector<int64_t> offset_;  // [heads], first triple of each head, less `start`
  std::vector<uint64_t> folds_;  // [heads], that reach each head
  std::vector<int32_t> bucket_head_;
  int64_t num_heads_ = 0, total_ = 0;
  int shift_ = 0;
};

// What a user in flight keeps from stage to stage.
struct User {
  EntitySet seen;
  FoldedSet reached;             // instead, where there are folds
  std::vector<int64_t> triples;  // [M], drawn in this hop
};

template <class Relation, bool kFolds>
class Sampler {
 public:
  Sampler(const RippleGraph<Relation>& graph, const RippleRequest& request, const RippleSets& sets)
      : graph_(graph), request_(request), sets_(sets), H(request.hops), M(request.slots) {
    for (User& user : users_) user.triples.resize(M);
  }

  // Users [begin, end), a few side by side: the cache misses of one are under way while the others
  // compute.
  void sample(int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += kUsersInFlight) {
      const int64_t last = std::min(first + kUsersInFlight, end);
      for (int64_t u = first; u < last; ++u) open(u, users_[u - first]);
      for (int64_t p = 0; p < H; ++p) {
        for (int64_t u = first; u < last; ++u) draw(u, p, users_[u - first]);
        for (int64_t u = first; u < last; ++u) gather(u, p, users_[u - first]);
      }
    }
  }

 private:
  static constexpr int64_t kUsersInFlight = 8;

  const int32_t* history(int64_t u) const { return request_.seeds + request_.seed_indptr[u]; }
  int64_t history_size(int64_t u) const {
    return request_.seed_indptr[u + 1] - request_.seed_indptr[u];
  }

  // Asks for what the next hop starts from.
  void prefetch_degrees(const int32_t* entities, int64_t n) const {
    for (int64_t i = 0; i < n; ++i) prefetch_row(graph_.indptr, entities[i]);
  }

  void open(int64_t u, User& user) const {
    const int64_t most = history_size(u) + (H - 1) * M;
    if constexpr (kFolds)
      user.reached.reset(most);
    else if (!request_.repeat)
      user.seen.reset(most);
    prefetch_degrees(history(u), history_size(u));
  }

  void collect(int64_t u, int64_t p, User& user) {
    const int64_t hop = u * H + p;
    const int32_t* entities = p == 0 ? history(u) : sets_.tails + (hop - 1) * M;
    const int64_t n = p == 0 ? history_size(u) : sets_.counts[hop - 1];
    const int64_t T = graph_.indptr[graph_.num_entities];
    if constexpr (kFolds) {
      const int32_t* own = request_.seed_folds + request_.seed_indptr[u];
      const uint64_t all = ~uint64_t{0} >> (64 - request_.folds);
      const int64_t* from = sets_.slot_folds + (hop - 1) * M;
      const auto reach = [&](auto folds_of) {
        candidates_.collect_folded(graph_.indptr, T, entities, n, static_cast<int32_t>(p), folds_of,
                                   user.reached);
      };
      if (p == 0)
        reach([&](int64_t i) { return all & ~(uint64_t{1} << own[i]); });
      else
        reach([&](int64_t i) { return static_cast<uint64_t>(from[i]); });
    } else if (request_.repeat)
      candidates_.collect(graph_.indptr, T, entities, n, [](int32_t) { return true; });
    else
      candidates_.collect(graph_.indptr, T, entities, n,
                          [&](int32_t entity) { return user.seen.insert(entity); });
  }

  // Chooses the triples of hop p and asks for them.
  void draw(int64_t u, int64_t p, User& user) {
    collect(u, p, user);
    const uint64_t id = request_.users ? request_.users[u] : u;
    const uint64_t key = stream_key(request_.seed, request_.epoch, id, 0);
    const int64_t total = candidates_.total();
    const uint64_t counter = static_cast<uint64_t>(p) << 32;
    const auto random_below = [&](int64_t m, int64_t limit) {
      return static_cast<int64_t>(bounded(random_bits(key, counter + m), limit));
    };
    if (total > M) {
      // Floyd's algorithm (Bentley & Floyd 1987): one draw per slot, each M-subset equally likely.
      drawn_.reset(M, total);
      take(user, u * H + p, M, [&](int64_t m) {
        const int64_t top = total - M + m, position = random_below(m, top + 1);
        return drawn_.insert(position, top);
      });
    } else if (request_.repeat && 0 < total && total < M) {
      take(user, u * H + p, M, [&](int64_t m) { return random_below(m, total); });
    } else {
      take(user, u * H + p, total, [](int64_t m) { return m; });
    }
  }

  // Puts the candidate at position(m) into each slot m < count, as far as it is known without
  // waiting for its triple.
  template <class Position>
  void take(User& user, int64_t hop, int64_t count, Position position) {
    sets_.counts[hop] = static_cast<int32_t>(count);
    if (count == 0) return;
    candidates_.make_index();
    int32_t* heads = sets_.heads + hop * M;
    for (int64_t m = 0; m < count; ++m) {
      const int64_t at = position(m), i = candidates_.find(at), triple = candidates_.triple(i, at);
      prefetch(graph_.relations + triple);
      prefetch(graph_.tails + triple);
      heads[m] = candidates_.head(i);
      if constexpr (kFolds)
        sets_.slot_folds[hop * M + m] = static_cast<int64_t>(candidates_.folds(i));
      user.triples[m] = triple;
    }
  }

  // Writes the triples of hop p and asks for what the next hop starts from.
  void gather(int64_t u, int64_t p, const User& user) {
    const int64_t hop = u * H + p;
    int32_t* heads = sets_.heads + hop * M;
    int32_t* relations = sets_.relations + hop * M;
    int32_t* tails = sets_.tails + hop * M;
    int64_t count = sets_.counts[hop];
    if (count == 0 && request_.repeat && p > 0) {
      count = sets_.counts[hop] = sets_.counts[hop - 1];
      std::copy(heads - M, heads, heads);
      std::copy(relations - M, relations, relations);
      std::copy(tails - M, tails, tails);
      return;
    }
    const int64_t* triples = user.triples.data();
    uint32_t top = 0;  // as unsigned, which catches negative ids too
    for (int64_t m = 0; m < count; ++m) {
      relations[m] = static_cast<int32_t>(graph_.relations[triples[m]]);
      tails[m] = graph_.tails[triples[m]];
      top = std::max(top, static_cast<uint32_t>(tails[m]));
    }
    if (count > 0 && top >= graph_.num_entities) [[unlikely]]
      refuse_tail(static_cast<int32_t>(top), graph_.num_entities);
    if (p + 1 < H) prefetch_degrees(tails, count);
    for (int64_t m = count; m < M; ++m) heads[m] = relations[m] = tails[m] = 0;
    if constexpr (kFolds)
      for (int64_t m = count; m < M; ++m) sets_.slot_folds[hop * M + m] = 0;
  }

  const RippleGraph<Relation>& graph_;
  const RippleRequest& request_;
  const RippleSets& sets_;
  const int64_t H, M;
  std::array<User, kUsersInFlight> users_;
  Candidates candidates_;
  PositionSet drawn_;
};

}  // namespace

void refuse_row(int64_t entity, int64_t first, int64_t last, int64_t num_triples) {
  throw std::runtime_error("indptr has " + std::to_string(first) + " and " + std::to_string(last) +
                           " at positions " + std::to_string(entity) + " and " +
                           std::to_string(entity + 1) + ", expected rising values up to " +
                           std::to_string(num_triples) + " (triples)");
}

void refuse_tail(int64_t tail, int64_t num_entities) {
  throw std::runtime_error("tails holds id " + std::to_string(tail) + ", expected 0 <= id < " +
                           std::to_string(num_entities) + " (entities)");
}

template <class Relation>
void sample_ripple_sets(const RippleGraph<Relation>& graph, const RippleRequest& request,
                        const RippleSets& sets, int64_t begin, int64_t end) {
  if (request.folds > 0)
    Sampler<Relation, true>(graph, request, sets).sample(begin, end);
  else
    Sampler<Relation, false>(graph, request, sets).sample(begin, end);
}

template void sample_ripple_sets(const RippleGraph<uint8_t>&, const RippleRequest&,
                                 const RippleSets&, int64_t, int64_t);
template void sample_ripple_sets(const RippleGraph<int16_t>&, const RippleRequest&,
                                 const RippleSets&, int64_t, int64_t);
template void sample_ripple_sets(const RippleGraph<int32_t>&, const RippleRequest&,
                                 const RippleSets&, int64_t, int64_t);

}  // namespace ekpnet
