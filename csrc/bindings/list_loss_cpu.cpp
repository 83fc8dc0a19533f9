// CPU binding of list_loss.
#include <algorithm>
#include <tuple>

#include "bindings/cpu_checks.h"
#include "bindings/list_loss.h"
#include "cpu/dispatch.h"

namespace ekpnet {
namespace {

template <class T>
ListLossKernel<T> list_loss_kernel() {
  if constexpr (sizeof(T) == 4)
    return isa_kernels().list_loss_f32;
  else
    return isa_kernels().list_loss_f64;
}

std::tuple<Tensor, Tensor> list_loss_cpu(const Tensor& logits, const Tensor& labels,
                                         const Tensor& lists, int64_t loss) {
  return dispatch_float(logits, "logits", [&](auto zero) {
    using T = decltype(zero);
    check_list_loss(logits, labels, lists, loss);
    const int64_t B = logits.size(0), L = lists.size(0) - 1;
    const int64_t* ends = data<int64_t>(lists);
    check_indptr(ends, L, B, "lists");
    check_labels(data<T>(labels), B, "labels");
    for (int64_t i = 0; i < L; ++i)
      STD_TORCH_CHECK(ends[i + 1] - ends[i] <= kListPairs, "lists has ", ends[i + 1] - ends[i],
                      " pairs in list ", i, ", expected at most ", kListPairs);
    Tensor sum = empty({}, logits.scalar_type()), dlogits = empty({B}, logits.scalar_type());
    T* gradient = mutable_data<T>(dlogits);
    std::copy_n(data<T>(logits), B, gradient);
    const T weight = T(1) / static_cast<T>(std::max<int64_t>(B, 1));
    const double total = list_loss_kernel<T>()(static_cast<PairLoss>(loss), L, ends,
                                               data<T>(labels), weight, gradient);
    *mutable_data<T>(sum) = static_cast<T>(total);
    return std::tuple(sum, dlogits);
  });
}

}  // namespace
}  // namespace ekpnet

STABLE_TORCH_LIBRARY_IMPL(ekpnet, CPU, m) {
  m.impl("list_loss", TORCH_BOX(&ekpnet::list_loss_cpu));
}
