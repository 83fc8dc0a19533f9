// CPU binding of the ranking ops.
#include "bindings/checks.h"
#include "bindings/parallel.h"
#include "cpu/top_items.h"

namespace ekpnet {
namespace {

// An id out of order would not be met by the scan over items, and would be recommended silently.
void check_sorted(const int64_t* indptr, const int32_t* seen, int64_t n) {
  for (int64_t u = 0; u < n; ++u)
    for (int64_t i = indptr[u] + 1; i < indptr[u + 1]; ++i)
      STD_TORCH_CHECK(seen[i - 1] <= seen[i], "seen falls from ", seen[i - 1], " to ", seen[i],
                      " at position ", i, ", expected ids sorted within a user");
}

Tensor top_items_cpu(const Tensor& scores, const Tensor& seen_indptr, const Tensor& seen,
                     int64_t k) {
  check_tensor(scores, "scores", ScalarType::Float, {-1, -1});
  const int64_t n = scores.size(0), I = scores.size(1);
  check_tensor(seen_indptr, "seen_indptr", ScalarType::Long, {n + 1});
  check_tensor(seen, "seen", ScalarType::Int, {-1});
  check_indptr(data<int64_t>(seen_indptr), n, seen.size(0), "seen_indptr");
  check_ids(data<int32_t>(seen), seen.size(0), I, "seen", "items");
  check_sorted(data<int64_t>(seen_indptr), data<int32_t>(seen), n);
  STD_TORCH_CHECK(k >= 1, "k is ", k, ", expected at least 1");
  STD_TORCH_CHECK(k <= INT32_MAX, "k is ", k, ", expected at most ", INT32_MAX);
  Tensor items = empty({n, k}, ScalarType::Int);
  const TopItemsArgs args = {
      n, I, k, data<float>(scores), data<int64_t>(seen_indptr), data<int32_t>(seen)};
  int32_t* out = mutable_data<int32_t>(items);
  for_each_piece(n, 8, [&](int64_t begin, int64_t end) { top_items(args, begin, end, out); });
  return items;
}

}  // namespace
}  // namespace ekpnet

STABLE_TORCH_LIBRARY_IMPL(ekpnet, CPU, m) {
  m.impl("top_items", TORCH_BOX(&ekpnet::top_items_cpu));
}
