// CPU binding of ripple_attention and its gradient.
#include <tuple>

#include "bindings/cpu_checks.h"
#include "bindings/cpu_launch.h"
#include "cpu/dispatch.h"

namespace ekpnet {
namespace {

template <class T>
const AttentionKernels<T>& attention_kernels() {
  if constexpr (sizeof(T) == 4)
    return isa_kernels().attention_f32;
  else
    return isa_kernels().attention_f64;
}

std::tuple<Tensor, Tensor> ripple_attention_cpu(const Tensor& entity, const Tensor& relation,
                                                const Tensor& W_e, const Tensor& b_e,
                                                const Tensor& heads, const Tensor& relations,
                                                const Tensor& tails, const Tensor& counts,
                                                const Tensor& group_indptr, const Tensor& items,
                                                bool replace) {
  return dispatch_float(entity, "entity", [&](auto zero) {
    using T = decltype(zero);
    const auto args = checked_attention<T>({entity, relation, W_e, b_e, heads, relations, tails,
                                            counts, group_indptr, items, replace});
    Tensor z = empty({args.num_pairs, (args.hops + 1) * args.width}, entity.scalar_type());
    Tensor match = empty({args.num_pairs}, entity.scalar_type());
    const auto& kernels = attention_kernels<T>();
    const int64_t workspace = kernels.workspace_size(args);
    T *z_data = mutable_data<T>(z), *match_data = mutable_data<T>(match);
    for_each_piece(args.num_pairs, 2 * kPairGrain, [&](int64_t begin, int64_t end) {
      kernels.forward(args, begin, end, z_data, match_data, thread_buffer<T>(workspace));
    });
    return std::tuple(z, match);
  });
}

Tensor ripple_attention_weights_cpu(const Tensor& entity, const Tensor& relation, const Tensor& W_e,
                                    const Tensor& b_e, const Tensor& heads, const Tensor& relations,
                                    const Tensor& tails, const Tensor& counts,
                                    const Tensor& group_indptr, const Tensor& items, bool replace) {
  return dispatch_float(entity, "entity", [&](auto zero) {
    using T = decltype(zero);
    const auto args = checked_attention<T>({entity, relation, W_e, b_e, heads, relations, tails,
                                            counts, group_indptr, items, replace});
    Tensor alpha = empty({args.num_pairs, args.hops, args.slots}, entity.scalar_type());
    const auto& kernels = attention_kernels<T>();
    const int64_t workspace = kernels.workspace_size(args);
    T* alpha_data = mutable_data<T>(alpha);
    for_each_piece(args.num_pairs, 2 * kPairGrain, [&](int64_t begin, int64_t end) {
      kernels.weights(args, begin, end, alpha_data, thread_buffer<T>(workspace));
    });
    return alpha;
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> ripple_attention_backward_cpu(
    const Tensor& dz, const Tensor& dmatch, const Tensor& entity, const Tensor& relation,
    const Tensor& W_e, const Tensor& b_e, const Tensor& heads, const Tensor& relations,
    const Tensor& tails, const Tensor& counts, const Tensor& group_indptr, const Tensor& items,
    bool replace) {
  return dispatch_float(entity, "entity", [&](auto zero) {
    using T = decltype(zero);
    const ScalarType dtype = entity.scalar_type();
    const auto args = checked_attention<T>({entity, relation, W_e, b_e, heads, relations, tails,
                                            counts, group_indptr, items, replace});
    const int64_t B = args.num_pairs, R = args.num_relations;
    const int64_t H = args.hops, D = args.width, C = args.channels;
    check_tensor(dz, "dz", dtype, {B, (H + 1) * D});
    check_tensor(dmatch, "dmatch", dtype, {B});
    const int64_t chunks =
        chunks_of_groups(args, (R * C * D + D * D + D) * static_cast<int64_t>(sizeof(T)));
    Tensor ditem = empty({B, D}, dtype);
    Tensor drelation_chunks = empty({chunks, R, C, D}, dtype);
    Tensor dW_e_chunks = empty({chunks, D, D}, dtype), db_e_chunks = empty({chunks, D}, dtype);
    AttentionGrads<T> grads = {};
    grads.dz = data<T>(dz);
    grads.dmatch = data<T>(dmatch);
    grads.ditem = mutable_data<T>(ditem);
    grads.num_chunks = chunks;
    grads.drelation_chunks = zeroed<T>(drelation_chunks);
    grads.dW_e_chunks = mutable_data<T>(dW_e_chunks);
    grads.db_e_chunks = mutable_data<T>(db_e_chunks);
    place_parts(args, grads);
    const auto& kernels = attention_kernels<T>();
    const int64_t workspace = kernels.workspace_size(args);
    for_each_chunk(chunks, [&](int64_t chunk) {
      kernels.backward(args, grads, chunk, thread_buffer<T>(workspace));
    });
    Tensor dentity = empty({args.num_rows, C, D}, dtype), drelation = empty({R, C, D}, dtype);
    Tensor dW_e = empty({D, D}, dtype), db_e = empty({D}, dtype);
    T* dentity_data = mutable_data<T>(dentity);
    for_each_chunk(grads.references->num_ranges(),
                   [&](int64_t range) { kernels.scatter(args, grads, range, dentity_data); });
    sum_chunks(grads.drelation_chunks, chunks, R * C * D, mutable_data<T>(drelation));
    sum_chunks(grads.dW_e_chunks, chunks, D * D, mutable_data<T>(dW_e));
    sum_chunks(grads.db_e_chunks, chunks, D, mutable_data<T>(db_e));
    return std::tuple(dentity, drelation, dW_e, db_e);
  });
}

}  // namespace
}  // namespace ekpnet

STABLE_TORCH_LIBRARY_IMPL(ekpnet, CPU, m) {
  m.impl("ripple_attention", TORCH_BOX(&ekpnet::ripple_attention_cpu));
  m.impl("ripple_attention_backward", TORCH_BOX(&ekpnet::ripple_attention_backward_cpu));
  m.impl("ripple_attention_weights", TORCH_BOX(&ekpnet::ripple_attention_weights_cpu));
}
