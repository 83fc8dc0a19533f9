// CPU binding of the ranking ops.
#include "checks.h"
#include "cpu/top_items.h"

namespace ekpnet {
namespace {

Tensor top_items_cpu(const Tensor& scores, const Tensor& seen_indptr, const Tensor& seen, int64_t k) {
  check_tensor(scores, "scores", ScalarType::Float, {-1, -1});
  const int64_t n = scores.size(0), I = scores.size(1);
  check_tensor(seen_indptr, "seen_indptr", ScalarType::Long, {n + 1});
  check_tensor(seen, "seen", ScalarType::Int, {-1});
  check_indptr(data<int64_t>(seen_indptr), n, seen.size(0), "seen_indptr");
  STD_TORCH_CHECK(k >= 1, "k is ", k, ", expected at least 1");
  Tensor items = empty({n, k}, ScalarType::Int);
  const TopItemsArgs args = {n, I, k, data<float>(scores), data<int64_t>(seen_indptr), data<int32_t>(seen)};
  int32_t* out = mutable_data<int32_t>(items);
  torch::stable::parallel_for(0, n, 8, [&](int64_t begin, int64_t end) { top_items(args, begin, end, out); });
  return items;
}

}  // namespace
}  // namespace ekpnet

STABLE_TORCH_LIBRARY_IMPL(ekpnet, CPU, m) { m.impl("top_items", TORCH_BOX(&ekpnet::top_items_cpu)); }
