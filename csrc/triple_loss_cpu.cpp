// CPU binding of triple_loss and its gradient.
#include <tuple>

#include "checks.h"
#include "cpu_launch.h"

namespace ekpnet {
namespace {

template <class T>
const TripleLossKernels<T>& triple_loss_kernels() {
  if constexpr (sizeof(T) == 4)
    return isa_kernels().triple_loss_f32;
  else
    return isa_kernels().triple_loss_f64;
}

template <class T>
TripleLossArgs<T> triple_loss_args(const Tensor& entity, const Tensor& relation,
                                   const Tensor& heads, const Tensor& relations,
                                   const Tensor& tails, const Tensor& labels) {
  const ScalarType dtype = entity.scalar_type();
  check_channels(entity);
  const int64_t n = entity.size(0), C = entity.size(1), D = entity.size(2);
  check_range("width D", D, 1, kMaxWidth);
  check_tensor(entity, "entity", dtype, {n, C, D});
  check_tensor(relation, "relation", dtype, {-1, C, D});
  check_tensor(heads, "heads", ScalarType::Int, {-1});
  const int64_t K = heads.size(0);
  check_tensor(relations, "relations", ScalarType::Int, {K});
  check_tensor(tails, "tails", ScalarType::Int, {K});
  check_tensor(labels, "labels", ScalarType::Char, {K});
  check_ids(data<int32_t>(heads), K, n, "heads", "rows of entity");
  check_ids(data<int32_t>(relations), K, relation.size(0), "relations", "rows of relation");
  check_ids(data<int32_t>(tails), K, n, "tails", "rows of entity");
  return {K,
          static_cast<int>(D),
          static_cast<int>(C),
          data<T>(entity),
          data<T>(relation),
          data<int32_t>(heads),
          data<int32_t>(relations),
          data<int32_t>(tails),
          data<int8_t>(labels)};
}

Tensor triple_loss_cpu(const Tensor& entity, const Tensor& relation, const Tensor& heads,
                       const Tensor& relations, const Tensor& tails, const Tensor& labels) {
  return dispatch_float(entity, "entity", [&](auto zero) {
    using T = decltype(zero);
    const auto args = triple_loss_args<T>(entity, relation, heads, relations, tails, labels);
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
    const auto args = triple_loss_args<T>(entity, relation, heads, relations, tails, labels);
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
