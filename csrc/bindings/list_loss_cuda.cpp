// CUDA binding of list_loss: every list is a group of its own to the kernel.
#include <tuple>

#include "bindings/cuda_launch.h"
#include "bindings/list_loss.h"
#include "cuda/list_loss.h"
#include "cuda/sum_parts.h"

namespace ekpnet {
namespace {

template <class S>
std::tuple<Tensor, Tensor> list_loss_of(const Tensor& logits, const Tensor& labels,
                                        const Tensor& lists, int64_t loss) {
  const int64_t B = logits.size(0), L = lists.size(0) - 1;
  Tensor sum = zeros_beside(logits, {}, logits.scalar_type());
  Tensor dlogits = zeros_beside(logits, {B}, logits.scalar_type());
  if (B == 0 || L == 0) return std::tuple(sum, dlogits);
  const int64_t blocks = list_loss_blocks(L);
  Tensor parts = empty_beside(logits, {blocks}, ScalarType::Double);
  const PairLossArgs<S> pairs = {B, data<S>(labels), nullptr, nullptr, nullptr};
  const OnDevice device(logits);
  launch_list_loss(pairs, static_cast<ListLoss>(loss), data<int64_t>(lists), L, data<S>(logits),
                   mutable_data<S>(dlogits), mutable_data<double>(parts), device.stream);
  launch_sum_parts(data<double>(parts), blocks, 1, mutable_data<S>(sum), device.stream);
  check_launch();
  return std::tuple(sum, dlogits);
}

std::tuple<Tensor, Tensor> list_loss_cuda(const Tensor& logits, const Tensor& labels,
                                          const Tensor& lists, int64_t loss) {
  return dispatch_float(logits, "logits", [&](auto zero) {
    check_list_loss(logits, labels, lists, loss);
    check_same_device(logits, "logits", {{&labels, "labels"}, {&lists, "lists"}});
    return list_loss_of<decltype(zero)>(logits, labels, lists, loss);
  });
}

}  // namespace
}  // namespace ekpnet

EKPNET_CUDA_OPS(m) { m.impl("list_loss", TORCH_BOX(&ekpnet::list_loss_cuda)); }
