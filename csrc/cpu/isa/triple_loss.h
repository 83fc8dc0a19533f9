// The translation loss over true and corrupted triples (eq. 22).
#pragma once

#include <cstdint>

#include "common/triple_loss_args.h"

namespace ekpnet {

template <class T>
struct TripleLossKernels {
  // Sum over triples [begin, end) of || I - sigmoid(v_h + v_r - v_t) ||^2.
  double (*forward)(const TripleLossArgs<T>& args, int64_t begin, int64_t end);
  // Adds `grad` times the gradient of that sum to dentity [n, C, D] and drelation [R, C, D],
  // triple after triple.
  void (*backward)(const TripleLossArgs<T>& args, T grad, T* dentity, T* drelation);
};

}  // namespace ekpnet
