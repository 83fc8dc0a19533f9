// The inputs of triple_loss as raw pointers, for every device.
#pragma once

#include <cstdint>

namespace ekpnet {

template <class T>
struct TripleLossArgs {
  int64_t num_triples;       // K
  int64_t num_rows;          // n, rows of `entity`
  int64_t num_relations;     // R
  int width;                 // D
  int channels;              // C, only channel 0 (v) takes part
  const T* entity;           // [n, C, D]
  const T* relation;         // [R, C, D]
  const int32_t* heads;      // [K], rows of `entity`
  const int32_t* relations;  // [K]
  const int32_t* tails;      // [K], rows of `entity`
  const int8_t* labels;      // [K], 1 = true, 0 = corrupted
};

}  // namespace ekpnet
