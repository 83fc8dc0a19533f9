// The graph and what is drawn from it: CSR, ripple sets, neighbours, triples.
#include <cstdlib>
#include <set>
#include <tuple>

#include "checks.h"
#include "cpu/csr.h"
#include "cpu/neighbor_sampler.h"
#include "cpu/ripple_sampler.h"
#include "cpu/triple_sampler.h"

namespace ekpnet::tests {
namespace {

// Published values of SplitMix64 with seed 0: draws are the same on every processor.
void test_random_bits() {
  check(random_bits(0, 0) == 0xe220a8397b1dcdafull && random_bits(0, 1) == 0x6e789e6aa1b965f4ull,
        "random_bits: not SplitMix64");
  check(
      bounded(~uint64_t{0}, 10) == 9 && bounded(0, 10) == 0 && bounded(uint64_t{1} << 63, 10) == 5,
      "bounded: not the high half of the product");
}

void test_build_csr() {
  const Ids heads = {2, 0, 2, 4, 0, 2}, relations = {1, 0, 0, 2, 1, 1}, tails = {5, 1, 1, 0, 3, 5};
  Offsets indptr(7, -1);
  std::vector<uint8_t> found_relations(6);
  Ids found_tails(6);
  build_csr<uint8_t>(6, 6, heads.data(), relations.data(), tails.data(), indptr.data(),
                     found_relations.data(), found_tails.data());
  check(indptr == Offsets{0, 2, 2, 5, 5, 6, 6}, "build_csr: indptr");
  check(found_relations == std::vector<uint8_t>{0, 1, 1, 0, 1, 2}, "build_csr: relations");
  check(found_tails == Ids{1, 3, 5, 1, 5, 0}, "build_csr: tails keep their order within a head");
}

struct Sampled {
  Ids heads, relations, tails, counts;
  bool operator==(const Sampled&) const = default;
};

// Users [0, cut) and then the rest.
template <class Relation>
Sampled sample(const RippleGraph<Relation>& graph, const RippleRequest& request, int64_t cut) {
  const size_t hops = request.num_users * request.hops, size = hops * request.slots;
  Sampled found = {Ids(size, -1), Ids(size, -1), Ids(size, -1), Ids(hops, -1)};
  const RippleSets sets = {found.heads.data(), found.relations.data(), found.tails.data(),
                           found.counts.data()};
  sample_ripple_sets(graph, request, sets, 0, cut);
  sample_ripple_sets(graph, request, sets, cut, request.num_users);
  return found;
}

// A ring of n entities, where each leads to the next by relation e % 3: what is reached is known.
template <class Relation>
void test_sampler_on_cycle() {
  constexpr int n = 6, kUsers = 3, H = 4, M = 4;
  Offsets indptr(n + 1);
  std::vector<Relation> relations(n);
  Ids tails(n);
  for (int e = 0; e < n; ++e) {
    indptr[e + 1] = e + 1;
    relations[e] = static_cast<Relation>(e % 3);
    tails[e] = (e + 1) % n;
  }
  const RippleGraph<Relation> graph = {n, indptr.data(), relations.data(), tails.data()};
  // Histories: entity 1; 0, 2 and 4; nothing.
  const Offsets seed_indptr = {0, 1, 4, 4};
  const Ids seeds = {1, 0, 2, 4};
  RippleRequest request = {kUsers, seed_indptr.data(), seeds.data(), nullptr, H, M, 7, 0, false};
  const Sampled found = sample(graph, request, 1);
  check(found == sample(graph, request, 2), "sampler: depends on how users are cut");
  // Entities 1, 3, 5 follow 0, 2, 4; what comes next was seen, so the third hop is empty.
  check(found.counts == Ids{1, 1, 1, 1, 3, 3, 0, 0, 0, 0, 0, 0}, "sampler: counts on a cycle");
  for (int u = 0; u < kUsers; ++u)
    for (int p = 0; p < H; ++p)
      for (int m = 0; m < M; ++m) {
        const int at = (u * H + p) * M + m, head = found.heads[at];
        const std::string place = "sampler: user " + std::to_string(u) + ", hop " +
                                  std::to_string(p) + ", slot " + std::to_string(m);
        if (m >= found.counts[u * H + p]) {
          check(head == 0 && found.relations[at] == 0 && found.tails[at] == 0,
                place + ": a masked slot is not 0");
          continue;
        }
        check(found.tails[at] == (head + 1) % n && found.relations[at] == head % 3,
              place + ": no triple of the graph");
        if (u == 0) check(head == 1 + p, place + ": head is not what the hop before reached");
        if (u == 1) check(head % 2 == p % 2, place + ": head is not what the hop before reached");
      }

  // RippleNet's rule fills short hops, and has no memory of what was seen.
  request.repeat = true;
  const Sampled repeated = sample(graph, request, 3);
  for (int p = 0; p < H; ++p) {
    for (int u = 0; u < 2; ++u)
      check(repeated.counts[u * H + p] == M, "sampler, repeat: a short hop is not filled");
    check(repeated.counts[2 * H + p] == 0, "sampler, repeat: no history, but a hop");
    for (int m = 0; m < M; ++m)
      check(repeated.heads[p * M + m] == (1 + p) % n, "sampler, repeat: another head");
  }
}

// The ring again, with the history 0, 2, 3 in the folds 0, 1, 1 of two.
void test_sampler_of_folds() {
  constexpr int n = 6, H = 4, M = 4;
  Offsets indptr(n + 1);
  const std::vector<uint8_t> relations(n, 0);
  Ids tails(n);
  for (int e = 0; e < n; ++e) {
    indptr[e + 1] = e + 1;
    tails[e] = (e + 1) % n;
  }
  const RippleGraph<uint8_t> graph = {n, indptr.data(), relations.data(), tails.data()};
  // The second user has no history.
  const Offsets seed_indptr = {0, 3, 3};
  const Ids seeds = {0, 2, 3}, seed_folds = {0, 1, 1};
  RippleRequest request = {2, seed_indptr.data(), seeds.data(), nullptr, H, M, 7, 0, false};
  request.folds = 2;
  request.seed_folds = seed_folds.data();
  const size_t size = 2 * H * M;
  Ids heads(size, -1), found_relations(size, -1), found_tails(size, -1), counts(2 * H, -1);
  Offsets slot_folds(size, -1);
  const RippleSets sets = {heads.data(), found_relations.data(), found_tails.data(), counts.data(),
                           slot_folds.data()};
  sample_ripple_sets(graph, request, sets, 0, 2);
  // Fold 0 starts from 2, and from 3, which 2 reaches too; fold 1 starts from 0 and goes round.
  check(counts == Ids{3, 2, 2, 2, 0, 0, 0, 0}, "sampler, folds: counts");
  Ids expected_heads = {0, 2, 3, 0, 1, 4, 0, 0, 2, 5, 0, 0, 3, 0, 0, 0};
  Offsets expected_folds = {2, 1, 1, 0, 2, 1, 0, 0, 2, 1, 0, 0, 2, 1, 0, 0};
  expected_heads.resize(size);
  expected_folds.resize(size);
  check(heads == expected_heads, "sampler, folds: heads");
  check(slot_folds == expected_folds, "sampler, folds: what is seen");
}

// More candidates than slots: distinct triples, each about equally often. Entity 0 has them all.
void test_sampler_draws_evenly(int degree) {
  constexpr int M = 5, kUsers = 3000, kParts = 12;
  const std::string name = "sampler, degree " + std::to_string(degree);
  Offsets indptr(degree + 2, degree);
  indptr[0] = 0;
  const std::vector<int16_t> relations(degree, 0);
  Ids tails(degree);
  for (int i = 0; i < degree; ++i) tails[i] = i + 1;
  const RippleGraph<int16_t> graph = {degree + 1, indptr.data(), relations.data(), tails.data()};
  Offsets seed_indptr(kUsers + 1);
  for (int u = 0; u <= kUsers; ++u) seed_indptr[u] = u;
  const Ids seeds(kUsers, 0);
  RippleRequest request = {kUsers, seed_indptr.data(), seeds.data(), nullptr, 1, M, 3, 0, false};
  const Sampled first = sample(graph, request, 1000);
  std::vector<int> times(kParts);
  for (int u = 0; u < kUsers; ++u) {
    const std::set<int32_t> drawn(&first.tails[u * M], &first.tails[u * M] + M);
    check(drawn.size() == M, name + ": a triple is drawn twice");
    for (int32_t tail : drawn) {
      check(0 < tail && tail <= degree, name + ": no triple of the graph");
      ++times[(tail - 1) * kParts / degree];
    }
  }
  // Each part is expected 1250 times with a standard deviation of at most 34.
  for (int count : times)
    check(std::abs(count - kUsers * M / kParts) < 150, name + ": the draw is uneven");
  request.epoch = 1;
  check(first.tails != sample(graph, request, 0).tails, name + ": another epoch, the same draw");
}

// Entities of no, two, three and many triples, where a slot is drawn for each of three.
void test_neighbors(bool repeat) {
  constexpr int K = 3, kMany = 12, kNodes = 1200;
  const std::string name = std::string("neighbors") + (repeat ? ", repeat" : "");
  const Offsets indptr = {0, 0, 2, 5, 5 + kMany};
  std::vector<uint8_t> relations(5 + kMany);
  Ids tails(5 + kMany);
  for (int i = 0; i < 5 + kMany; ++i) {
    relations[i] = static_cast<uint8_t>(i % 7);
    tails[i] = 1000 + i;
  }
  const RippleGraph<uint8_t> graph = {4, indptr.data(), relations.data(), tails.data()};
  Ids nodes(kNodes);
  for (int i = 0; i < kNodes; ++i) nodes[i] = i % 4;
  struct Found {
    Ids relations, tails, counts;
    bool operator==(const Found&) const = default;
  };
  const auto draw = [&](uint64_t epoch, int64_t cut) {
    Found found = {Ids(kNodes * K, -1), Ids(kNodes * K, -1), Ids(kNodes, -1)};
    const NeighborRequest request = {nodes.data(), K, 11, epoch, repeat};
    const Neighbors out = {found.relations.data(), found.tails.data(), found.counts.data()};
    sample_neighbors(graph, request, out, 0, cut);
    sample_neighbors(graph, request, out, cut, kNodes);
    return found;
  };
  const Found found = draw(0, 100);
  check(found == draw(0, 777), name + ": depends on how nodes are cut");
  check(found.tails != draw(1, 0).tails, name + ": another epoch, the same draw");
  const Ids counts = {0, repeat ? K : 2, 3, 3};
  for (int i = 0; i < kNodes; ++i) {
    const int node = nodes[i];
    check(found.counts[i] == counts[node], name + ": counts");
    const std::set<int32_t> drawn(&found.tails[i * K], &found.tails[i * K] + counts[node]);
    if (!(repeat && node == 1))
      check(static_cast<int>(drawn.size()) == counts[node], name + ": a triple is drawn twice");
    for (int k = 0; k < K; ++k) {
      const int at = found.tails[i * K + k] - 1000, relation = found.relations[i * K + k];
      if (k < counts[node])
        check(indptr[node] <= at && at < indptr[node + 1] && relation == at % 7,
              name + ": no triple of the node");
      else
        check(at == -1000 && relation == 0, name + ": a masked slot is not 0");
      check(at == found.tails[node * K + k] - 1000, name + ": equal nodes, other neighbours");
    }
  }
  // A draw is of the node, so many draws are many epochs.
  std::vector<int> times(kMany);
  for (int epoch = 0; epoch < 400; ++epoch) {
    const Found other = draw(epoch, 0);
    const std::set<int32_t> drawn(&other.tails[3 * K], &other.tails[3 * K] + K);
    check(drawn.size() == K, name + ": a triple is drawn twice");
    for (int32_t tail : drawn) ++times[tail - 1000 - indptr[3]];
  }
  // Each is expected 100 times with a standard deviation of 9.
  for (int count : times) check(std::abs(count - 100) < 45, name + ": the draw is uneven");
}

void test_sample_triples() {
  constexpr int kCount = 40, E = 6;
  const Offsets indptr = {0, 2, 2, 5, 5, 6, 6};
  const std::vector<uint8_t> relations = {0, 1, 1, 0, 1, 2};
  const Ids tails = {1, 3, 5, 1, 5, 0};
  std::set<std::tuple<int, int, int>> triples;
  for (int e = 0; e < E; ++e)
    for (int64_t i = indptr[e]; i < indptr[e + 1]; ++i) triples.emplace(e, relations[i], tails[i]);
  Ids h(2 * kCount, -1), r(2 * kCount, -1), t(2 * kCount, -1);
  sample_triples<uint8_t>(E, indptr.data(), relations.data(), tails.data(), kCount, 0, 1, 2, 0,
                          kCount, h.data(), r.data(), t.data());
  for (int k = 0; k < kCount; ++k) {
    check(triples.contains({h[k], r[k], t[k]}), "sample_triples: no triple of the graph");
    const int other = kCount + k;
    check(r[other] == r[k] && (h[other] == h[k] || t[other] == t[k]),
          "sample_triples: a corrupted triple differs in more than one end");
    check(0 <= h[other] && h[other] < E && 0 <= t[other] && t[other] < E,
          "sample_triples: an entity out of range");
  }
}

}  // namespace

void test_sampling() {
  test_random_bits();
  test_build_csr();
  test_sampler_on_cycle<uint8_t>();
  test_sampler_on_cycle<int16_t>();
  test_sampler_on_cycle<int32_t>();
  test_sampler_of_folds();
  // Positions that were drawn are kept in a bitmap, or in a table where there are many.
  for (int degree : {12, 60000}) test_sampler_draws_evenly(degree);
  for (bool repeat : {false, true}) test_neighbors(repeat);
  test_sample_triples();
}

}  // namespace ekpnet::tests
