// Stable sort of references by key.
#pragma once

#include "cuda/types.h"

namespace ekpnet {

// Bytes of workspace for n references.
size_t sort_references_bytes(int64_t n);

// keys and references [n] sorted into sorted_keys and sorted_references; keys lie in [0, limit].
void launch_sort_references(int64_t n, int64_t limit, const int32_t* keys,
                            const int32_t* references, int32_t* sorted_keys,
                            int32_t* sorted_references, void* workspace, size_t bytes,
                            cudaStream_t stream);

}  // namespace ekpnet
