#include "cpu/isa/triple_loss.h"

#include "cpu/isa/isa_kernels.h"
#include "cpu/isa/triple_score.h"

namespace ekpnet {
namespace {

template <class T>
double forward(const TripleLossArgs<T>& args, int64_t begin, int64_t end) {
  T x[kMaxPadded];
  double total = 0;
  for (int64_t k = begin; k < end; ++k) {
    triple_score(args, k, x);
    T sum = 0;
    for (int d = 0; d < args.width; ++d) {
      const T miss = T(args.labels[k]) - x[d];
      sum += miss * miss;
    }
    total += sum;
  }
  return total;
}

template <class T>
void backward(const TripleLossArgs<T>& args, T grad, T* dentity, T* drelation) {
  T x[kMaxPadded];
  const int64_t D = args.width, row = static_cast<int64_t>(args.channels) * D;
  for (int64_t k = 0; k < args.num_triples; ++k) {
    triple_score(args, k, x);
    for (int64_t d = 0; d < D; ++d)
      x[d] = T(2) * grad * (x[d] - T(args.labels[k])) * x[d] * (T(1) - x[d]);
    axpy<Vector<T>>(D, T(1), x, dentity + args.heads[k] * row);
    axpy<Vector<T>>(D, T(-1), x, dentity + args.tails[k] * row);
    axpy<Vector<T>>(D, T(1), x, drelation + args.relations[k] * row);
  }
}

template <class T>
constexpr TripleLossKernels<T> kKernels = {forward<T>, backward<T>};

}  // namespace

namespace EKPNET_ISA {
const TripleLossKernels<float>& triple_loss_f32() { return kKernels<float>; }
}  // namespace EKPNET_ISA

#if defined(EKPNET_FLOAT64)
namespace float64 {
const TripleLossKernels<double>& triple_loss() { return kKernels<double>; }
}  // namespace float64
#endif

}  // namespace ekpnet
