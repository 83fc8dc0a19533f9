#include "cpu/isa/list_loss.h"

#include "cpu/isa/isa_kernels.h"
#include "cpu/isa/pair_losses.h"

namespace ekpnet {
namespace {

template <class T>
double list_loss(PairLoss loss, int64_t num_lists, const int64_t* lists, const T* labels, T weight,
                 T* logit) {
  double total = 0;
  for (int64_t i = 0; i < num_lists; ++i) {
    const int64_t begin = lists[i];
    total += pair_loss<T>(loss, lists[i + 1] - begin, labels + begin, nullptr, nullptr, weight,
                          logit + begin);
  }
  return total;
}

}  // namespace

namespace EKPNET_ISA {
ListLossKernel<float> list_loss_f32() { return list_loss<float>; }
}  // namespace EKPNET_ISA

#if defined(EKPNET_FLOAT64)
namespace float64 {
ListLossKernel<double> list_loss() { return ekpnet::list_loss<double>; }
}  // namespace float64
#endif

}  // namespace ekpnet
