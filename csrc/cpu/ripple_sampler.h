// Ripple sets (eq. 3-5): what a user's clicks reach in the knowledge graph.
#pragma once

#include <cstdint>

namespace ekpnet {

// Relation is uint8_t, int16_t or int32_t, the smallest that holds R.
// Throws: a sampler met row pointers that fall or run out, or a tail that is no entity.
[[noreturn]] void refuse_row(int64_t entity, int64_t first, int64_t last, int64_t num_triples);
[[noreturn]] void refuse_tail(int64_t tail, int64_t num_entities);

// The number of an entity's triples, whose first one is `first`.
inline int64_t checked_degree(const int64_t* indptr, int64_t num_triples, int64_t entity) {
  const int64_t first = indptr[entity], last = indptr[entity + 1];
  if (first < 0 || first > last || last > num_triples) [[unlikely]]
    refuse_row(entity, first, last, num_triples);
  return last - first;
}

// Asks for a cache line that is read once and soon: into the second level, because the first has
// too few lines for all that is under way.
inline void prefetch(const void* address) { __builtin_prefetch(address, 0, 2); }

// Asks for the row pointers of an entity. Of every eighth the second one is in another cache line,
// which without asking is waited for.
inline void prefetch_row(const int64_t* indptr, int64_t entity) {
  prefetch(indptr + entity);
  prefetch(indptr + entity + 1);
}

template <class Relation>
struct RippleGraph {
  int64_t num_entities;       // E
  const int64_t* indptr;      // [E + 1]
  const Relation* relations;  // [T]
  const int32_t* tails;       // [T]
};

struct RippleRequest {
  int64_t num_users;           // U
  const int64_t* seed_indptr;  // [U + 1]
  const int32_t* seeds;        // history entities
  const int32_t* users;        // [U] ids that key the draw, or null for 0 .. U - 1
  int hops;                    // H
  int slots;                   // M
  uint64_t seed;
  uint64_t epoch;
  // false: M triples without replacement among those whose head is in the previous set; an entity
  // stays in the set where it first appeared; missing slots are masked out by `counts`.
  // true: RippleNet's rule: heads are the previous tails with their multiplicity, a short hop is
  // filled by drawing with replacement, an empty one copies the hop before.
  bool repeat;
  // Above 0 for as many folds, at most 64, and without `repeat` only: all are drawn at once, and
  // each sees what is reached without its own part of the history.
  int folds = 0;
  const int32_t* seed_folds = nullptr;  // [history], fold of each entity of a history
};

struct RippleSets {
  int32_t* heads;                 // [U, H, M], 0 in masked slots, as relations and tails
  int32_t* relations;             // [U, H, M]
  int32_t* tails;                 // [U, H, M]
  int32_t* counts;                // [U, H]
  int64_t* slot_folds = nullptr;  // [U, H, M], bit k where fold k sees the slot; with seed_folds
};

// Users [begin, end). With folds the triples that a hop draws from are those that any fold could
// draw, so that, given their number, the slots that a fold sees are as if drawn for it alone.
// Cost per user: its history, plus per hop M draws located in the summed
// degrees of the heads; candidate triples are never enumerated.
template <class Relation>
void sample_ripple_sets(const RippleGraph<Relation>& graph, const RippleRequest& request,
                        const RippleSets& sets, int64_t begin, int64_t end);

}  // namespace ekpnet
