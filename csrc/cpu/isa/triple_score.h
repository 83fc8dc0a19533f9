// The score of a triple in the translation loss (22).
#pragma once

#include "cpu/isa/triple_loss.h"
#include "cpu/isa/vectors.h"

namespace ekpnet {
namespace {

constexpr int kMaxPadded = 256;  // D and its padding to whole vectors

// sigmoid(v_h + v_r - v_t) of one triple into x [D], padded to whole vectors.
template <class T>
void triple_score(const TripleLossArgs<T>& args, int64_t k, T* x) {
  using V = Vector<T>;
  constexpr int kLanes = EKPNET_VECTOR_BYTES / sizeof(T);
  const int64_t D = args.width, row = static_cast<int64_t>(args.channels) * D;
  const T* h = args.entity + args.heads[k] * row;
  const T* r = args.relation + args.relations[k] * row;
  const T* t = args.entity + args.tails[k] * row;
  for (int64_t d = 0; d < D; ++d) x[d] = h[d] + r[d] - t[d];
  for (int64_t d = D; d % kLanes != 0; ++d) x[d] = T(0);
  for (int64_t d = 0; d < D; d += kLanes) store(x + d, sigmoid<T>(load<V>(x + d)));
}

}  // namespace
}  // namespace ekpnet
