// Triples of the translation loss, drawn on the GPU.
#pragma once

#include "cuda/types.h"

namespace ekpnet {

template <class Relation>
struct DrawTriplesArgs {
  int64_t num_entities;       // E
  int64_t count;              // K / 2
  uint64_t key;               // of the random stream
  const int64_t* indptr;      // [E + 1]
  const Relation* relations;  // [T]
  const int32_t* tails;       // [T]
  int32_t* out_heads;         // [2 count], true then corrupted
  int32_t* out_relations;     // [2 count]
  int32_t* out_tails;         // [2 count]
};

template <class Relation>
void launch_draw_triples(const DrawTriplesArgs<Relation>& args, cudaStream_t stream);

}  // namespace ekpnet
