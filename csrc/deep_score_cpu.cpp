// CPU binding of deep_score and its gradient.
#include <tuple>

#include "checks.h"
#include "cpu_launch.h"
#include "deep_score.h"

namespace ekpnet {
namespace {

template <class T>
const DeepScoreKernels<T>& deep_score_kernels() {
  if constexpr (sizeof(T) == 4)
    return isa_kernels().deep_score_f32;
  else
    return isa_kernels().deep_score_f64;
}

Tensor deep_score_cpu(const Tensor& z, const Tensor& weights, const Tensor& biases,
                      const Tensor& w_out, const Tensor& b_out, int64_t activation) {
  return dispatch_float(z, "z", [&](auto zero) {
    using T = decltype(zero);
    const auto args = deep_score_args<T>(z, weights, biases, w_out, b_out, activation);
    Tensor logit = empty({args.num_pairs}, z.scalar_type());
    const auto& kernels = deep_score_kernels<T>();
    const int64_t workspace = kernels.workspace_size(args);
    T* out = mutable_data<T>(logit);
    parallel_for(0, args.num_pairs, kPairGrain, [&](int64_t begin, int64_t end) {
      kernels.forward(args, begin, end, out, thread_buffer<T>(workspace));
    });
    return logit;
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deep_score_backward_cpu(
    const Tensor& dlogit, const Tensor& z, const Tensor& weights, const Tensor& biases,
    const Tensor& w_out, const Tensor& b_out, int64_t activation) {
  return dispatch_float(z, "z", [&](auto zero) {
    using T = decltype(zero);
    const ScalarType dtype = z.scalar_type();
    const auto args = deep_score_args<T>(z, weights, biases, w_out, b_out, activation);
    const int64_t B = args.num_pairs, K = args.width, hidden = args.hidden;
    check_tensor(dlogit, "dlogit", dtype, {B});
    // A function of the shapes alone, so that the order of summation does not depend on threads.
    const int64_t chunks = std::clamp<int64_t>(B / kPairGrain, 1, 64);
    Tensor dz = empty({B, K}, dtype);
    Tensor dweights_chunks = empty({chunks, hidden, K, K}, dtype),
           dbiases_chunks = empty({chunks, hidden, K}, dtype);
    Tensor dw_out_chunks = empty({chunks, K}, dtype), db_out_chunks = empty({chunks, 1}, dtype);
    const DeepScoreGrads<T> grads = {data<T>(dlogit),
                                     mutable_data<T>(dz),
                                     chunks,
                                     mutable_data<T>(dweights_chunks),
                                     mutable_data<T>(dbiases_chunks),
                                     mutable_data<T>(dw_out_chunks),
                                     mutable_data<T>(db_out_chunks)};
    const auto& kernels = deep_score_kernels<T>();
    const int64_t workspace = kernels.workspace_size(args);
    parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk)
        kernels.backward(args, grads, chunk, thread_buffer<T>(workspace));
    });
    Tensor dweights = empty({hidden, K, K}, dtype), dbiases = empty({hidden, K}, dtype);
    Tensor dw_out = empty({K}, dtype), db_out = empty({1}, dtype);
    sum_chunks(grads.dweights_chunks, chunks, hidden * K * K, mutable_data<T>(dweights));
    sum_chunks(grads.dbiases_chunks, chunks, hidden * K, mutable_data<T>(dbiases));
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
