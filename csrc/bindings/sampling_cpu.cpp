// CPU binding of the graph and of everything that is drawn from it.
#include <algorithm>
#include <tuple>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "bindings/checks.h"
#include "bindings/parallel.h"
#include "bindings/sampling.h"
#include "cpu/csr.h"
#include "cpu/neighbor_sampler.h"
#include "cpu/ripple_sampler.h"
#include "cpu/triple_sampler.h"

namespace ekpnet {
namespace {

ScalarType relation_dtype(int64_t num_relations) {
  if (num_relations <= 1 << 8) return ScalarType::Byte;
  return num_relations <= 1 << 15 ? ScalarType::Short : ScalarType::Int;
}

// Asks for huge pages behind a large array that is not written yet, as NumPy does for its own: the
// sampler reads a large graph at random, where most of the time goes into page-table walks.
void advise_huge_pages(const Tensor& tensor) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 4096, kLarge = 1 << 22;
  const uintptr_t first =
      (reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr()) + kPage - 1) / kPage * kPage;
  const uintptr_t bytes = tensor.numel() * tensor.element_size();
  // The kernel may decline; then pages stay small and nothing else changes.
  if (bytes >= kLarge)
    madvise(reinterpret_cast<void*>(first), (bytes - kPage) / kPage * kPage, MADV_HUGEPAGE);
#else
  (void)tensor;
#endif
}

std::tuple<Tensor, Tensor, Tensor> build_csr_cpu(const Tensor& heads, const Tensor& relations,
                                                 const Tensor& tails, int64_t num_entities,
                                                 int64_t num_relations) {
  check_tensor(heads, "heads", ScalarType::Int, {-1});
  const int64_t T = heads.size(0);
  check_tensor(relations, "relations", ScalarType::Int, {T});
  check_tensor(tails, "tails", ScalarType::Int, {T});
  STD_TORCH_CHECK(num_entities >= 0 && num_entities < INT32_MAX - 1, "num_entities is ",
                  num_entities, ", expected 0 to ", INT32_MAX - 2);
  STD_TORCH_CHECK(num_relations >= 0 && num_relations < INT32_MAX, "num_relations is ",
                  num_relations, ", expected 0 to ", INT32_MAX - 1);
  check_ids(data<int32_t>(heads), T, num_entities, "heads", "entities");
  check_ids(data<int32_t>(tails), T, num_entities, "tails", "entities");
  check_ids(data<int32_t>(relations), T, num_relations, "relations", "relations");
  const ScalarType dtype = relation_dtype(num_relations);
  Tensor indptr = empty({num_entities + 1}, ScalarType::Long);
  Tensor out_relations = empty({T}, dtype), out_tails = empty({T}, ScalarType::Int);
  for (const Tensor* tensor : {&indptr, &out_relations, &out_tails}) advise_huge_pages(*tensor);
  dispatch_relation(dtype, [&](auto zero) {
    build_csr(T, num_entities, data<int32_t>(heads), data<int32_t>(relations), data<int32_t>(tails),
              mutable_data<int64_t>(indptr), mutable_data<decltype(zero)>(out_relations),
              mutable_data<int32_t>(out_tails));
  });
  return {indptr, out_relations, out_tails};
}

// A graph is checked by its ends only: reading all of it would cost more than sampling from it. The
// samplers check what they read of it.
GraphShape check_graph(const Tensor& indptr, const Tensor& relations, const Tensor& tails) {
  const GraphShape graph = graph_shape(indptr, relations, tails);
  const int64_t first = data<int64_t>(indptr)[0];
  const int64_t last = data<int64_t>(indptr)[graph.num_entities];
  STD_TORCH_CHECK(first == 0 && last == graph.num_triples, "indptr runs from ", first, " to ", last,
                  ", expected 0 to ", graph.num_triples, " (triples)");
  return graph;
}

// A request for the sets of `seed_indptr`'s users, checked.
RippleRequest checked_request(int64_t num_entities, const Tensor& seed_indptr, const Tensor& seeds,
                              int64_t hops, int64_t slots, int64_t seed, int64_t epoch) {
  check_tensor(seed_indptr, "seed_indptr", ScalarType::Long, {-1});
  STD_TORCH_CHECK(seed_indptr.size(0) >= 1, "seed_indptr is empty, expected U + 1 row pointers");
  const int64_t U = seed_indptr.size(0) - 1;
  check_tensor(seeds, "seeds", ScalarType::Int, {-1});
  check_indptr(data<int64_t>(seed_indptr), U, seeds.size(0), "seed_indptr");
  check_ids(data<int32_t>(seeds), seeds.size(0), num_entities, "seeds", "entities");
  check_range("hops", hops, 1, 64);
  check_range("slots", slots, 1, 1 << 16);
  return {U,
          data<int64_t>(seed_indptr),
          data<int32_t>(seeds),
          nullptr,
          static_cast<int>(hops),
          static_cast<int>(slots),
          static_cast<uint64_t>(seed),
          static_cast<uint64_t>(epoch),
          false};
}

// Empty sets of a request, and a view of them; `slot_folds` only if the request has folds.
struct NewSets {
  Tensor heads, relations, tails, counts, slot_folds;
  RippleSets view;

  explicit NewSets(const RippleRequest& request)
      : NewSets(request.num_users, request.hops, request.slots, request.folds > 0) {}

 private:
  NewSets(int64_t U, int64_t H, int64_t M, bool folds)
      : heads(empty({U, H, M}, ScalarType::Int)),
        relations(empty({U, H, M}, ScalarType::Int)),
        tails(empty({U, H, M}, ScalarType::Int)),
        counts(empty({U, H}, ScalarType::Int)),
        slot_folds(empty({folds ? U : 0, H, M}, ScalarType::Long)),
        view{mutable_data<int32_t>(heads), mutable_data<int32_t>(relations),
             mutable_data<int32_t>(tails), mutable_data<int32_t>(counts),
             mutable_data<int64_t>(slot_folds)} {}
};

void fill_sets(const Tensor& indptr, const Tensor& relations, const Tensor& tails,
               const RippleRequest& request, const RippleSets& sets) {
  const int64_t num_entities = indptr.size(0) - 1;
  dispatch_relation(relations.scalar_type(), [&](auto zero) {
    using Relation = decltype(zero);
    const RippleGraph<Relation> graph = {num_entities, data<int64_t>(indptr),
                                         data<Relation>(relations), data<int32_t>(tails)};
    // Chunks of users are taken on demand, because histories differ in length by orders of
    // magnitude.
    for_each_piece(request.num_users, 256, [&](int64_t begin, int64_t end) {
      sample_ripple_sets(graph, request, sets, begin, end);
    });
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sample_ripple_sets_cpu(
    const Tensor& indptr, const Tensor& relations, const Tensor& tails, const Tensor& seed_indptr,
    const Tensor& seeds, std::optional<Tensor> users, int64_t hops, int64_t slots, int64_t seed,
    int64_t epoch, bool repeat) {
  const int64_t E = check_graph(indptr, relations, tails).num_entities;
  RippleRequest request = checked_request(E, seed_indptr, seeds, hops, slots, seed, epoch);
  if (users) check_tensor(*users, "users", ScalarType::Int, {request.num_users});
  request.users = users ? data<int32_t>(*users) : nullptr;
  request.repeat = repeat;
  const NewSets sets(request);
  fill_sets(indptr, relations, tails, request, sets.view);
  return {sets.heads, sets.relations, sets.tails, sets.counts};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> sample_fold_ripple_sets_cpu(
    const Tensor& indptr, const Tensor& relations, const Tensor& tails, const Tensor& seed_indptr,
    const Tensor& seeds, const Tensor& seed_folds, std::optional<Tensor> users, int64_t folds,
    int64_t hops, int64_t slots, int64_t seed, int64_t epoch) {
  const int64_t E = check_graph(indptr, relations, tails).num_entities;
  RippleRequest request = checked_request(E, seed_indptr, seeds, hops, slots, seed, epoch);
  check_range("folds F", folds, 1, 64);
  check_tensor(seed_folds, "seed_folds", ScalarType::Int, {seeds.size(0)});
  check_ids(data<int32_t>(seed_folds), seeds.size(0), folds, "seed_folds", "folds");
  if (users) check_tensor(*users, "users", ScalarType::Int, {request.num_users});
  request.users = users ? data<int32_t>(*users) : nullptr;
  request.seed_folds = data<int32_t>(seed_folds);
  request.folds = static_cast<int>(folds);
  const NewSets sets(request);
  fill_sets(indptr, relations, tails, request, sets.view);
  return {sets.heads, sets.relations, sets.tails, sets.counts, sets.slot_folds};
}

std::tuple<Tensor, Tensor, Tensor> sample_neighbors_cpu(const Tensor& indptr,
                                                        const Tensor& relations,
                                                        const Tensor& tails, const Tensor& nodes,
                                                        int64_t count, int64_t seed, int64_t epoch,
                                                        bool repeat) {
  const int64_t E = check_graph(indptr, relations, tails).num_entities;
  check_tensor(nodes, "nodes", ScalarType::Int, {-1});
  const int64_t n = nodes.size(0);
  check_ids(data<int32_t>(nodes), n, E, "nodes", "entities");
  check_range("count K", count, 1, 1024);
  Tensor out_relations = empty({n, count}, ScalarType::Int),
         out_tails = empty({n, count}, ScalarType::Int);
  Tensor counts = empty({n}, ScalarType::Int);
  const NeighborRequest request = {data<int32_t>(nodes), count, static_cast<uint64_t>(seed),
                                   static_cast<uint64_t>(epoch), repeat};
  const Neighbors out = {mutable_data<int32_t>(out_relations), mutable_data<int32_t>(out_tails),
                         mutable_data<int32_t>(counts)};
  dispatch_relation(relations.scalar_type(), [&](auto zero) {
    using Relation = decltype(zero);
    const RippleGraph<Relation> graph = {E, data<int64_t>(indptr), data<Relation>(relations),
                                         data<int32_t>(tails)};
    for_each_piece(n, 256, [&](int64_t begin, int64_t end) {
      sample_neighbors(graph, request, out, begin, end);
    });
  });
  return {out_relations, out_tails, counts};
}

std::tuple<Tensor, Tensor, Tensor> sample_triples_cpu(const Tensor& indptr, const Tensor& relations,
                                                      const Tensor& tails, int64_t count,
                                                      int64_t first, int64_t seed, int64_t step) {
  const GraphShape graph = check_graph(indptr, relations, tails);
  check_draw(graph, count);
  check_range("first", first, 0, 1 << 30);
  Tensor heads = empty({2 * count}, ScalarType::Int),
         out_relations = empty({2 * count}, ScalarType::Int);
  Tensor out_tails = empty({2 * count}, ScalarType::Int);
  dispatch_relation(relations.scalar_type(), [&](auto zero) {
    // A draw waits for memory some twenty times.
    for_each_piece(count, 64, [&](int64_t begin, int64_t end) {
      sample_triples(graph.num_entities, data<int64_t>(indptr), data<decltype(zero)>(relations),
                     data<int32_t>(tails), count, first, static_cast<uint64_t>(seed),
                     static_cast<uint64_t>(step), begin, end, mutable_data<int32_t>(heads),
                     mutable_data<int32_t>(out_relations), mutable_data<int32_t>(out_tails));
    });
  });
  return {heads, out_relations, out_tails};
}

}  // namespace
}  // namespace ekpnet

STABLE_TORCH_LIBRARY_IMPL(ekpnet, CPU, m) {
  m.impl("build_csr", TORCH_BOX(&ekpnet::build_csr_cpu));
  m.impl("sample_ripple_sets", TORCH_BOX(&ekpnet::sample_ripple_sets_cpu));
  m.impl("sample_fold_ripple_sets", TORCH_BOX(&ekpnet::sample_fold_ripple_sets_cpu));
  m.impl("sample_neighbors", TORCH_BOX(&ekpnet::sample_neighbors_cpu));
  m.impl("sample_triples", TORCH_BOX(&ekpnet::sample_triples_cpu));
}
