// CUDA binding of the ranking ops.
#include "bindings/cuda_launch.h"
#include "cuda/top_items.h"

namespace ekpnet {
namespace {

Tensor top_items_cuda(const Tensor& scores, const Tensor& seen_indptr, const Tensor& seen,
                      int64_t k) {
  check_same_device(scores, "scores", {{&seen_indptr, "seen_indptr"}, {&seen, "seen"}});
  check_tensor(scores, "scores", ScalarType::Float, {-1, -1});
  const int64_t n = scores.size(0), I = scores.size(1);
  check_tensor(seen_indptr, "seen_indptr", ScalarType::Long, {n + 1});
  check_tensor(seen, "seen", ScalarType::Int, {-1});
  STD_TORCH_CHECK(k >= 1, "k is ", k, ", expected at least 1");
  STD_TORCH_CHECK(k <= kMostTopItems, "k is ", k, ", expected at most ", kMostTopItems,
                  " on a GPU; rank longer lists on the CPU");
  Tensor items = empty_beside(scores, {n, k}, ScalarType::Int);
  const int64_t parts = top_items_parts(I);
  Tensor keys = empty_beside(scores, {parts > 1 ? n : 0, parts, k}, ScalarType::Long);
  const OnDevice device(scores);
  launch_top_items(
      {n, I, seen.size(0), k, data<float>(scores), data<int64_t>(seen_indptr), data<int32_t>(seen),
       mutable_data<int32_t>(items), mutable_data<uint64_t>(keys)},
      device.stream);
  check_launch();
  return items;
}

}  // namespace
}  // namespace ekpnet

EKPNET_CUDA_OPS(m) { m.impl("top_items", TORCH_BOX(&ekpnet::top_items_cuda)); }
