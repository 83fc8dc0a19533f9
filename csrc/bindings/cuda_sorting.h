// Sorting references to table rows before a segmented sum, with workspace from torch.
#pragma once

#include "bindings/cuda_launch.h"
#include "cuda/segment_chunks.h"
#include "cuda/sort_references.h"
#include "cuda/sorted_references.h"

namespace ekpnet {

// Stops where CUB returned an error.
inline void check_sort(const char* error) {
  STD_TORCH_CHECK(error == nullptr, "CUB's radix sort failed: ", error);
}

// Sorts references by key, keys in [0, limit], into tensors of the same shape.
inline void sort_references(const Tensor& keys, const Tensor& references, int64_t limit,
                            const Tensor& sorted_keys, const Tensor& sorted, cudaStream_t stream) {
  const int64_t n = keys.size(0);
  size_t bytes = 0;
  check_sort(sort_references_bytes(n, bytes));
  Tensor workspace = empty_beside(keys, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
  check_sort(launch_sort_references(
      n, limit, data<int32_t>(keys), data<int32_t>(references), mutable_data<int32_t>(sorted_keys),
      mutable_data<int32_t>(sorted), workspace.mutable_data_ptr(), bytes, stream));
}

// Sorts references by key, keys in [0, limit], and calls f with them and with room for the parts
// of sums of `row` values.
template <class S, class F>
void with_sorted(const Tensor& keys, const Tensor& references, int64_t limit, int64_t row,
                 cudaStream_t stream, F f) {
  const int64_t n = keys.size(0);
  if (n == 0) return;
  Tensor sorted_keys = empty_beside(keys, {n}, ScalarType::Int);
  Tensor sorted = empty_beside(keys, {n}, ScalarType::Int);
  sort_references(keys, references, limit, sorted_keys, sorted, stream);
  Tensor parts = empty_beside(keys, {2, segment_chunks(n), row}, kComputeDtype<S>);
  f(SortedReferences<S>{n, data<int32_t>(sorted_keys), data<int32_t>(sorted),
                        mutable_data<Compute<S>>(parts)});
}

}  // namespace ekpnet
