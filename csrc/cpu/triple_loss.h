// The translation loss over true and corrupted triples (eq. 22).
#pragma once

#include <cstdint>

namespace ekpnet {

template <class T>
struct TripleLossArgs {
  int64_t num_triples;       // K
  int width;                 // D
  int channels;              // C, only channel 0 (v) takes part
  const T* entity;           // [n, C, D]
  const T* relation;         // [R, C, D]
  const int32_t* heads;      // [K], rows of `entity`
  const int32_t* relations;  // [K]
  const int32_t* tails;      // [K], rows of `entity`
  const int8_t* labels;      // [K], 1 = true, 0 = corrupted
};

template <class T>
struct TripleLossKernels {
  // Sum over triples [begin, end) of || I - sigmoid(v_h + v_r - v_t) ||^2.
  double (*forward)(const TripleLossArgs<T>& args, int64_t begin, int64_t end);
  // Adds `grad` times the gradient of that sum to dentity [n, C, D] and drelation [R, C, D],
  // triple after triple.
  void (*backward)(const TripleLossArgs<T>& args, T grad, T* dentity, T* drelation);
};

}  // namespace ekpnet
