// CPU binding of deep_score and its gradient.
#include <tuple>

#include "bindings/checks.h"
#include "bindings/cpu_launch.h"
#include "bindings/deep_score.h"

namespace ekpnet {
namespace {

template <class T>
const DeepScoreKernels<T>& deep_score_kernels() {
  if constexpr (sizeof(T) == 4)
    return isa_kernels().deep_score_f32;
  else
    return isa_kernels().deep_score_f64;
}

std::tuple<Tensor, Tensor> deep_score_cpu(const Tensor& z, const Tensor& weights,
                                          const Tensor& biases, const Tensor& w_out,
                                          const Tensor& b_out, int64_t activation, bool keep) {
  return dispatch_float(z, "z", [&](auto zero) {
    using T = decltype(zero);
    const auto args = deep_score_args<T>(z, weights, biases, w_out, b_out, activation);
    Tensor logit = empty({args.num_pairs}, z.scalar_type());
    Tensor hidden = empty({keep ? args.num_pairs : 0, args.hidden, args.width}, z.scalar_type());
    const auto& kernels = deep_score_kernels<T>();
    const int64_t workspace = kernels.workspace_size(args);
    T *out = mutable_data<T>(logit), *kept = keep ? mutable_data<T>(hidden) : nullptr;
    for_each_piece(args.num_pairs, kPairGrain, [&](int64_t begin, int64_t end) {
      kernels.forward(args, begin, end, out, kept, thread_buffer<T>(workspace));
    });
    return std::tuple(logit, hidden);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deep_score_backward_cpu(
    const Tensor& dlogit, const Tensor& hidden, const Tensor& z, const Tensor& weights,
    const Tensor& biases, const Tensor& w_out, const Tensor& b_out, int64_t activation) {
  return dispatch_float(z, "z", [&](auto zero) {
    using T = decltype(zero);
    const ScalarType dtype = z.scalar_type();
    const auto args = deep_score_args<T>(z, weights, biases, w_out, b_out, activation);
    const int64_t B = args.num_pairs, K = args.width, layers = args.hidden;
    check_tensor(dlogit, "dlogit", dtype, {B});
    check_tensor(hidden, "hidden", dtype, {B, layers, K});
    // A function of the shapes alone, so that the order of summation does not depend on threads.
    const int64_t chunks = std::clamp<int64_t>(B / kPairGrain, 1, 64);
    Tensor dz = empty({B, K}, dtype);
    Tensor dweights_chunks = empty({chunks, layers, K, K}, dtype),
           dbiases_chunks = empty({chunks, layers, K}, dtype);
    Tensor dw_out_chunks = empty({chunks, K}, dtype), db_out_chunks = empty({chunks, 1}, dtype);
    const DeepScoreGrads<T> grads = {data<T>(dlogit),
                                     data<T>(hidden),
                                     mutable_data<T>(dz),
                                     chunks,
                                     mutable_data<T>(dweights_chunks),
                                     mutable_data<T>(dbiases_chunks),
                                     mutable_data<T>(dw_out_chunks),
                                     mutable_data<T>(db_out_chunks)};
    const auto& kernels = deep_score_kernels<T>();
    const int64_t workspace = kernels.workspace_size(args);
    for_each_chunk(chunks, [&](int64_t chunk) {
      kernels.backward(args, grads, chunk, thread_buffer<T>(workspace));
    });
    Tensor dweights = empty({layers, K, K}, dtype), dbiases = empty({layers, K}, dtype);
    Tensor dw_out = empty({K}, dtype), db_out = empty({1}, dtype);
    sum_chunks(grads.dweights_chunks, chunks, layers * K * K, mutable_data<T>(dweights));
    sum_chunks(grads.dbiases_chunks, chunks, layers * K, mutable_data<T>(dbiases));
    sum_chunks(grads.dw_out_chunks, chunks, K, mutable_data<T>(dw_out));
    sum_chunks(grads.db_out_chunks, chunks, 1, mutable_data<T>(db_out));
    return std::tuple(dz, dweights, dbiases, dw_out, db_out);
  });
}

}  // namespace
}  // namespace ekpnet

STABLE_TORCH_LIBRARY_IMPL(ekpnet, CPU, m) {
  m.impl("deep_score", TORCH_BOX(&ekpnet::deep_score_cpu));
  m.impl("deep_score_backward", TORCH_BOX(&ekpnet::deep_score_backward_cpu));
}
