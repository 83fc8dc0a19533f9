// Stable sort of references by key.
#pragma once

#include "cuda/types.h"

namespace ekpnet {

// Sets the bytes of workspace for n references. Returns what went wrong, or null.
const char* sort_references_bytes(int64_t n, size_t& bytes);

// keys and references [n] sorted into sorted_keys and sorted_references; keys lie in [0, limit].
// Returns what went wrong, or null: an error of arguments is in no later check of the launch.
const char* launch_sort_references(int64_t n, int64_t limit, const int32_t* keys,
                                   const int32_t* references, int32_t* sorted_keys,
                                   int32_t* sorted_references, void* workspace, size_t bytes,
                                   cudaStream_t stream);

}  // namespace ekpnet
