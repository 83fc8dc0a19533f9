// CPU binding of triple_loss and its gradient.
#include <tuple>

#include "bindings/cpu_checks.h"
#include "bindings/cpu_launch.h"

namespace ekpnet {
namespace {

template <class T>
const TripleLossKernels<T>& triple_loss_kernels() {
  if constexpr (sizeof(T) == 4)
    return isa_kernels().triple_loss_f32;
  else
    return isa_kernels().triple_loss_f64;
}

Tensor triple_loss_cpu(const Tensor& entity, const Tensor& relation, const Tensor& heads,
                       const Tensor& relations, const Tensor& tails, const Tensor& labels) {
  return dispatch_float(entity, "entity", [&](auto zero) {
    using T = decltype(zero);
    const auto args = checked_triples<T>(entity, relation, heads, relations, tails, labels);
    Tensor loss = empty({}, entity.scalar_type());
    *mutable_data<T>(loss) =
        static_cast<T>(triple_loss_kernels<T>().forward(args, 0, args.num_triples));
    return loss;
  });
}

std::tuple<Tensor, Tensor> triple_loss_backward_cpu(const Tensor& grad, const Tensor& entity,
                                                    const Tensor& relation, const Tensor& heads,
                                                    const Tensor& relations, const Tensor& tails,
                                                    const Tensor& labels) {
  return dispatch_float(entity, "entity", [&](auto zero) {
    using T = decltype(zero);
    const auto args = checked_triples<T>(entity, relation, heads, relations, tails, labels);
    check_tensor(grad, "grad", entity.scalar_type(), {});
    Tensor dentity = torch::stable::empty(entity.sizes(), entity.scalar_type());
    Tensor drelation = torch::stable::empty(relation.sizes(), entity.scalar_type());
    triple_loss_kernels<T>().backward(args, *data<T>(grad), zeroed<T>(dentity),
                                      zeroed<T>(drelation));
    return std::tuple(dentity, drelation);
  });
}

}  // namespace
}  // namespace ekpnet

STABLE_TORCH_LIBRARY_IMPL(ekpnet, CPU, m) {
  m.impl("triple_loss", TORCH_BOX(&ekpnet::triple_loss_cpu));
  m.impl("triple_loss_backward", TORCH_BOX(&ekpnet::triple_loss_backward_cpu));
}
