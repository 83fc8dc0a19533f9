// CUDA binding of deep_score and its gradient.
#include "bindings/deep_score_cuda.h"

#include <tuple>

#include "cuda/sum_parts.h"

namespace ekpnet {
namespace {

template <class S>
DeepScoreArgs<S> device_args(const Tensor& z, const Tensor& weights, const Tensor& biases,
                             const Tensor& w_out, const Tensor& b_out, int64_t activation) {
  check_same_device(
      z, "z", {{&weights, "weights"}, {&biases, "biases"}, {&w_out, "w_out"}, {&b_out, "b_out"}});
  return deep_score_args<S>(z, weights, biases, w_out, b_out, activation);
}

// Keeps nothing: the activations of a block never leave the chip.
std::tuple<Tensor, Tensor> deep_score_cuda(const Tensor& z, const Tensor& weights,
                                           const Tensor& biases, const Tensor& w_out,
                                           const Tensor& b_out, int64_t activation, bool /*keep*/) {
  return dispatch_storage(z, "z", [&](auto zero) {
    using S = decltype(zero);
    using A = Compute<S>;
    const auto args = device_args<S>(z, weights, biases, w_out, b_out, activation);
    Tensor logit = empty_beside(z, {args.num_pairs}, z.scalar_type());
    Tensor hidden = empty_beside(z, {0, args.hidden, args.width}, z.scalar_type());
    if (args.num_pairs == 0) return std::tuple(logit, hidden);
    const auto plan = plan_deep_score(args.num_pairs, args.width, args.hidden, sizeof(A), false);
    const OnDevice device(z);
    const DeepWorkspace<S> workspace(z, args, plan, device.stream);
    launch_deep_score_forward(args, plan, workspace.weights, mutable_data<A>(workspace.activations),
                              mutable_data<S>(logit), device.stream);
    check_launch();
    return std::tuple(logit, hidden);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deep_score_backward_cuda(
    const Tensor& dlogit, const Tensor& /*hidden*/, const Tensor& z, const Tensor& weights,
    const Tensor& biases, const Tensor& w_out, const Tensor& b_out, int64_t activation) {
  return dispatch_storage(z, "z", [&](auto zero) {
    using S = decltype(zero);
    using A = Compute<S>;
    const ScalarType dtype = z.scalar_type();
    const auto args = device_args<S>(z, weights, biases, w_out, b_out, activation);
    check_same_device(z, "z", {{&dlogit, "dlogit"}});
    const int64_t B = args.num_pairs, K = args.width, hidden = args.hidden;
    check_tensor(dlogit, "dlogit", dtype, {B});
    Tensor dz = empty_beside(z, {B, K}, dtype);
    Tensor dweights = zeros_beside(z, {hidden, K, K}, dtype);
    Tensor dbiases = zeros_beside(z, {hidden, K}, dtype);
    Tensor dw_out = zeros_beside(z, {K}, dtype), db_out = zeros_beside(z, {1}, dtype);
    if (B == 0) return std::tuple(dz, dweights, dbiases, dw_out, db_out);
    const auto plan = plan_deep_score(B, K, args.hidden, sizeof(A), true);
    constexpr ScalarType kCompute = kComputeDtype<S>;
    Tensor dweights_blocks = empty_beside(z, {plan.blocks, hidden, K, K}, kCompute);
    Tensor dbiases_blocks = empty_beside(z, {plan.blocks, hidden, K}, kCompute);
    Tensor dw_out_blocks = empty_beside(z, {plan.blocks, K}, kCompute);
    Tensor db_out_blocks = empty_beside(z, {plan.blocks, 1}, kCompute);
    const DeepScoreGradsCuda<S> grads = {data<S>(dlogit),
                                         mutable_data<S>(dz),
                                         mutable_data<A>(dweights_blocks),
                                         mutable_data<A>(dbiases_blocks),
                                         mutable_data<A>(dw_out_blocks),
                                         mutable_data<A>(db_out_blocks)};
    const OnDevice device(z);
    const DeepWorkspace<S> workspace(z, args, plan, device.stream);
    launch_deep_score_backward(args, plan, workspace.weights,
                               mutable_data<A>(workspace.activations), grads, device.stream);
    check_launch();
    const auto sum = [&](const A* blocks, int64_t n, const Tensor& out) {
      launch_sum_parts(blocks, plan.blocks, n, mutable_data<S>(out), device.stream);
    };
    sum(grads.dweights, hidden * K * K, dweights);
    sum(grads.dbiases, hidden * K, dbiases);
    sum(grads.dw_out, K, dw_out);
    sum(grads.db_out, 1, db_out);
    check_launch();
    return std::tuple(dz, dweights, dbiases, dw_out, db_out);
  });
}

}  // namespace
}  // namespace ekpnet

EKPNET_CUDA_OPS(m) {
  m.impl("deep_score", TORCH_BOX(&ekpnet::deep_score_cuda));
  m.impl("deep_score_backward", TORCH_BOX(&ekpnet::deep_score_backward_cuda));
}
