// CPU binding of the mini-batches.
#include <algorithm>
#include <tuple>

#include "bindings/checks.h"
#include "bindings/parallel.h"
#include "cpu/batching.h"

namespace ekpnet {
namespace {

// Groups are cut user after user, then their order is shuffled, so that a batch, a run of groups,
// is a random sample of groups.
std::tuple<Tensor, Tensor, Tensor> group_pairs_cpu(const Tensor& user_indptr, int64_t group_size,
                                                   int64_t seed, int64_t epoch) {
  check_tensor(user_indptr, "user_indptr", ScalarType::Long, {-1});
  STD_TORCH_CHECK(user_indptr.size(0) >= 1, "user_indptr is empty, expected U + 1 row pointers");
  STD_TORCH_CHECK(group_size >= 1, "group_size is ", group_size, ", expected at least 1");
  const int64_t U = user_indptr.size(0) - 1;
  const int64_t* indptr = data<int64_t>(user_indptr);
  const int64_t N = indptr[U];
  check_indptr(indptr, U, N, "user_indptr");
  STD_TORCH_CHECK(N <= INT32_MAX, "user_indptr ends with ", N, ", expected at most ", INT32_MAX,
                  " pairs");
  group_size = std::min(group_size, std::max<int64_t>(N, 1));  // what is beyond could overflow

  std::vector<int64_t> by_user(N);
  for_each_piece(U, 256, [&](int64_t begin, int64_t end) {
    shuffle_user_pairs(indptr, static_cast<uint64_t>(seed), static_cast<uint64_t>(epoch), begin,
                       end, by_user.data());
  });
  std::vector<int64_t> group_first;
  std::vector<int32_t> group_user;
  for (int64_t u = 0; u < U; ++u)
    for (int64_t first = indptr[u]; first < indptr[u + 1]; first += group_size) {
      group_first.push_back(first);
      group_user.push_back(static_cast<int32_t>(u));
    }
  const int64_t G = static_cast<int64_t>(group_first.size());
  std::vector<int64_t> group_order(G);
  shuffle(static_cast<uint64_t>(seed), static_cast<uint64_t>(epoch), G, group_order.data());

  Tensor order = empty({N}, ScalarType::Long), group_indptr = empty({G + 1}, ScalarType::Long);
  Tensor group_users = empty({G}, ScalarType::Int);
  int64_t* out = mutable_data<int64_t>(order);
  int64_t* out_indptr = mutable_data<int64_t>(group_indptr);
  int64_t at = 0;
  out_indptr[0] = 0;
  for (int64_t i = 0; i < G; ++i) {
    const int64_t g = group_order[i], u = group_user[g];
    const int64_t last = std::min(group_first[g] + group_size, indptr[u + 1]);
    for (int64_t k = group_first[g]; k < last; ++k) out[at++] = by_user[k];
    out_indptr[i + 1] = at;
    mutable_data<int32_t>(group_users)[i] = group_user[g];
  }
  return {order, group_indptr, group_users};
}

// Of sets that folds share.
struct FoldTensors {
  const Tensor &slot_folds, &group_indptr, &pair_folds;
};

struct LocalBatch {
  Tensor rows, heads, relations, tails, counts, items, extra, slot_folds;
};

LocalBatch localized(const Tensor& heads, const Tensor& relations, const Tensor& tails,
                     const Tensor& counts, const Tensor& group_users, const Tensor& items,
                     const Tensor& extra, const FoldTensors* folds) {
  check_tensor(heads, "heads", ScalarType::Int, {-1, -1, -1});
  const int64_t U = heads.size(0), H = heads.size(1), M = heads.size(2);
  check_tensor(relations, "relations", ScalarType::Int, {U, H, M});
  check_tensor(tails, "tails", ScalarType::Int, {U, H, M});
  check_tensor(counts, "counts", ScalarType::Int, {U, H});
  check_tensor(group_users, "group_users", ScalarType::Int, {-1});
  check_tensor(items, "items", ScalarType::Int, {-1});
  check_tensor(extra, "extra", ScalarType::Int, {-1});
  const int64_t G = group_users.size(0), B = items.size(0), X = extra.size(0);
  check_ids(data<int32_t>(group_users), G, U, "group_users", "users");
  // Only the users of the batch are checked: reading the others would cost more than the batch.
  for (int64_t g = 0; g < G; ++g)
    check_ids(data<int32_t>(counts) + data<int32_t>(group_users)[g] * H, H, M + 1, "counts",
              "slots");
  check_ids(data<int32_t>(items), B, INT32_MAX, "items", "entities");
  check_ids(data<int32_t>(extra), X, INT32_MAX, "extra", "entities");
  if (folds != nullptr) {
    check_tensor(folds->slot_folds, "slot_folds", ScalarType::Long, {U, H, M});
    check_tensor(folds->group_indptr, "group_indptr", ScalarType::Long, {G + 1});
    check_indptr(data<int64_t>(folds->group_indptr), G, B, "group_indptr");
    check_tensor(folds->pair_folds, "pair_folds", ScalarType::Int, {B});
    check_ids(data<int32_t>(folds->pair_folds), B, 64, "pair_folds", "folds");
  }
  Tensor rows = empty({2 * G * H * M + B + X}, ScalarType::Int);
  Tensor out_heads = empty({G, H, M}, ScalarType::Int),
         out_relations = empty({G, H, M}, ScalarType::Int);
  Tensor out_tails = empty({G, H, M}, ScalarType::Int), out_counts = empty({G, H}, ScalarType::Int);
  Tensor out_items = empty({B}, ScalarType::Int), out_extra = empty({X}, ScalarType::Int);
  Tensor out_folds = empty({folds != nullptr ? G : 0, H, M}, ScalarType::Long);
  const BatchArgs args = {G,
                          B,
                          X,
                          static_cast<int>(H),
                          static_cast<int>(M),
                          data<int32_t>(heads),
                          data<int32_t>(relations),
                          data<int32_t>(tails),
                          data<int32_t>(counts),
                          data<int32_t>(group_users),
                          data<int32_t>(items),
                          data<int32_t>(extra),
                          folds != nullptr ? data<int64_t>(folds->slot_folds) : nullptr,
                          folds != nullptr ? data<int64_t>(folds->group_indptr) : nullptr,
                          folds != nullptr ? data<int32_t>(folds->pair_folds) : nullptr};
  const BatchRows out = {mutable_data<int32_t>(rows),          mutable_data<int32_t>(out_heads),
                         mutable_data<int32_t>(out_relations), mutable_data<int32_t>(out_tails),
                         mutable_data<int32_t>(out_counts),    mutable_data<int32_t>(out_items),
                         mutable_data<int32_t>(out_extra),     mutable_data<int64_t>(out_folds)};
  const int64_t n = localize_batch(args, num_threads(), out);
  check_ids(data<int32_t>(rows), n, INT32_MAX, "heads or tails", "entities");
  return {torch::stable::clone(torch::stable::narrow(rows, 0, 0, n)),
          out_heads,
          out_relations,
          out_tails,
          out_counts,
          out_items,
          out_extra,
          out_folds};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> localize_batch_cpu(
    const Tensor& heads, const Tensor& relations, const Tensor& tails, const Tensor& counts,
    const Tensor& group_users, const Tensor& items, const Tensor& extra) {
  const LocalBatch found =
      localized(heads, relations, tails, counts, group_users, items, extra, nullptr);
  return {found.rows,   found.heads, found.relations, found.tails,
          found.counts, found.items, found.extra};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> localize_fold_batch_cpu(
    const Tensor& heads, const Tensor& relations, const Tensor& tails, const Tensor& counts,
    const Tensor& slot_folds, const Tensor& group_users, const Tensor& group_indptr,
    const Tensor& items, const Tensor& pair_folds, const Tensor& extra) {
  const FoldTensors folds = {slot_folds, group_indptr, pair_folds};
  const LocalBatch found =
      localized(heads, relations, tails, counts, group_users, items, extra, &folds);
  return {found.rows,   found.heads,      found.relations, found.tails,
          found.counts, found.slot_folds, found.items,     found.extra};
}

}  // namespace
}  // namespace ekpnet

STABLE_TORCH_LIBRARY_IMPL(ekpnet, CPU, m) {
  m.impl("group_pairs", TORCH_BOX(&ekpnet::group_pairs_cpu));
  m.impl("localize_batch", TORCH_BOX(&ekpnet::localize_batch_cpu));
  m.impl("localize_fold_batch", TORCH_BOX(&ekpnet::localize_fold_batch_cpu));
}
