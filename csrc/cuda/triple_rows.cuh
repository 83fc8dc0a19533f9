// What triples give to the gradients of table rows.
#pragma once

#include <cmath>

#include "cuda/segment_sum.cuh"
#include "cuda/triple_loss.h"

namespace ekpnet {

template <class A>
__device__ A sigmoid(A x) {
  return A(1) / (A(1) + std::exp(-x));
}

// The gradient of one triple's term with respect to v_h and v_r, times weight grad / size; that of
// v_t is its negative.
template <int kD, class S>
struct TripleRows {
  using A = Compute<S>;
  using F = Fragment<kD, A>;
  TripleLossArgs<S> args;
  const S* grad;  // [], null for 1
  const S* size;  // [], divisor; null for 1
  double weight;

  // References from num_triples on are tails.
  __device__ RowSum<kD, A> operator()(int64_t reference, int lane) const {
    const int D = kD > 0 ? kD : args.width;
    const int64_t row = static_cast<int64_t>(args.channels) * D;
    const bool tail = reference >= args.num_triples;
    const int64_t k = tail ? reference - args.num_triples : reference;
    // Nobody may have checked them: without a weight there is no loss before the gradient, and
    // references may come sorted with the batch.
    const F h = F::load(args.entity + checked_id(args.heads[k], args.num_rows) * row, lane, D);
    const F r =
        F::load(args.relation + checked_id(args.relations[k], args.num_relations) * row, lane, D);
    const F t = F::load(args.entity + checked_id(args.tails[k], args.num_rows) * row, lane, D);
    A scale = A(tail ? -2 * weight : 2 * weight);
    if (grad != nullptr) scale *= to_compute(*grad);
    if (size != nullptr) scale /= to_compute(*size);
    RowSum<kD, A> sum = RowSum<kD, A>::zero();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const A x = sigmoid(h.x[j] + r.x[j] - t.x[j]);
      sum.channel[0].x[j] = scale * (x - A(args.labels[k])) * x * (A(1) - x);
    }
    return sum;
  }
};

}  // namespace ekpnet
