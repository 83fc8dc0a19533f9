// The emulated GPU sorts by the standard library; the real one by CUB.
#include "cuda/sort_references.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace ekpnet {

const char* sort_references_bytes(int64_t, size_t& bytes) {
  bytes = 0;
  return nullptr;
}

const char* launch_sort_references(int64_t n, int64_t limit, const int32_t* keys,
                                   const int32_t* references, int32_t* sorted_keys,
                                   int32_t* sorted_references, void*, size_t, cudaStream_t) {
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return keys[a] < keys[b]; });
  for (int64_t i = 0; i < n; ++i) {
    if (keys[order[i]] < 0 || keys[order[i]] > limit) emulation::fail("a sort key out of range");
    sorted_keys[i] = keys[order[i]];
    sorted_references[i] = references[order[i]];
  }
  return nullptr;
}

}  // namespace ekpnet
