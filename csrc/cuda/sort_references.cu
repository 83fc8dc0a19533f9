#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "cuda/sort_references.h"

namespace ekpnet {

namespace {

const char* what(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

const char* sort_references_bytes(int64_t n, size_t& bytes) {
  return what(cub::DeviceRadixSort::SortPairs(
      nullptr, bytes, static_cast<const int32_t*>(nullptr), static_cast<int32_t*>(nullptr),
      static_cast<const int32_t*>(nullptr), static_cast<int32_t*>(nullptr), n));
}

const char* launch_sort_references(int64_t n, int64_t limit, const int32_t* keys,
                                   const int32_t* references, int32_t* sorted_keys,
                                   int32_t* sorted_references, void* workspace, size_t bytes,
                                   cudaStream_t stream) {
  if (n == 0) return nullptr;
  // Only the bits that a key can have: half the passes for a mini-batch's rows.
  const int bits = std::bit_width(static_cast<uint64_t>(limit));
  return what(cub::DeviceRadixSort::SortPairs(workspace, bytes, keys, sorted_keys, references,
                                              sorted_references, n, 0, bits > 0 ? bits : 1,
                                              stream));
}

}  // namespace ekpnet
