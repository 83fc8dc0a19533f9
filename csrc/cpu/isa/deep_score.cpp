// Entry points of the prediction layers (cpu/isa/layer_stack.h). Where a gradient is wanted the
// forward pass also writes the activations out, because computing them again would cost more than
// reading them.
#include "cpu/isa/deep_score.h"

#include "cpu/isa/isa_kernels.h"
#include "cpu/isa/layer_stack.h"

namespace ekpnet {
namespace {

template <class T>
int64_t workspace_size(const DeepScoreArgs<T>& args) {
  int64_t size = 0;
  LayerStack<T>(args, nullptr, &size);
  return size;
}

template <class T>
void forward(const DeepScoreArgs<T>& args, int64_t begin, int64_t end, T* logit, T* hidden,
             T* workspace) {
  LayerStack<T> stack(args, workspace, nullptr);
  stack.load_parameters(true, false);
  for (; begin < end; begin += kLayerBlock) {
    const int64_t P = end - begin < kLayerBlock ? end - begin : kLayerBlock;
    stack.read_input(begin, P);
    stack.propagate(P);
    stack.write_logits(P, logit + begin);
    if (hidden) stack.write_hidden(begin, P, hidden);
  }
}

template <class T>
void backward(const DeepScoreArgs<T>& args, const DeepScoreGrads<T>& grads, int64_t chunk,
              T* workspace) {
  LayerStack<T> stack(args, workspace, nullptr);
  stack.load_parameters(false, true);
  stack.clear_gradients();
  const int64_t end = args.num_pairs * (chunk + 1) / grads.num_chunks;
  for (int64_t begin = args.num_pairs * chunk / grads.num_chunks; begin < end;
       begin += kLayerBlock) {
    const int64_t P = end - begin < kLayerBlock ? end - begin : kLayerBlock;
    stack.read_activations(begin, P, grads.hidden);
    const T* dz = stack.propagate_backward(P, grads.dlogit + begin);
    stack.write_rows(dz, P, grads.dz + begin * args.width);
  }
  stack.write_gradients(grads, chunk);
}

template <class T>
constexpr DeepScoreKernels<T> kKernels = {workspace_size<T>, forward<T>, backward<T>};

}  // namespace

namespace EKPNET_ISA {
const DeepScoreKernels<float>& deep_score_f32() { return kKernels<float>; }
}  // namespace EKPNET_ISA

#if defined(EKPNET_FLOAT64)
namespace float64 {
const DeepScoreKernels<double>& deep_score() { return kKernels<double>; }
}  // namespace float64
#endif

}  // namespace ekpnet
