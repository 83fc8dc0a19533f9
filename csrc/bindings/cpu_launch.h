// What the CPU bindings of the model's ops share.
#pragma once

#include <algorithm>
#include <vector>

#include "bindings/checks.h"
#include "bindings/parallel.h"
#include "common/ripple_attention_args.h"
#include "cpu/dispatch.h"

namespace ekpnet {

// Pairs per task below which threads cost more than they bring.
constexpr int64_t kPairGrain = 256;

// Chunks of groups, whose shared gradients, of so many bytes, are summed apart: their number
// depends on the shapes alone, so the order of summation does not depend on the threads.
template <class T>
int64_t chunks_of_groups(const AttentionArgs<T>& args, int64_t bytes) {
  constexpr int64_t kMaxChunks = 64, kMaxBytes = int64_t{1} << 26;
  return std::max<int64_t>(1, std::min({kMaxChunks, kMaxBytes / bytes, args.num_groups}));
}

// References to the rows of a batch and room for their parts, in memory that the calling thread
// keeps.
template <class T>
void place_parts(const AttentionArgs<T>& args, AttentionGrads<T>& grads) {
  thread_local RowReferences references;
  thread_local std::vector<T> parts;
  references.sort({args.num_groups, args.num_rows, args.hops, args.slots, args.heads, args.tails,
                   args.counts, args.group_indptr, args.items},
                  grads.num_chunks, num_threads());
  const size_t most = 2 * args.num_groups * args.hops * args.slots;
  parts.resize(std::max(parts.size(), most * part_size<T>(args.width)));
  grads.references = &references;
  grads.parts = parts.data();
}

template <class T>
T* zeroed(const Tensor& tensor) {
  T* p = mutable_data<T>(tensor);
  std::fill(p, p + tensor.numel(), T(0));
  return p;
}

// out [n] = sum over chunks, in order, of parts [chunks, n].
template <class T>
void sum_chunks(const T* parts, int64_t chunks, int64_t n, T* out) {
  for_each_piece(n, 4096, [&](int64_t begin, int64_t end) {
    std::copy(parts + begin, parts + end, out + begin);
    for (int64_t c = 1; c < chunks; ++c)
      for (int64_t i = begin; i < end; ++i) out[i] += parts[c * n + i];
  });
}

}  // namespace ekpnet
