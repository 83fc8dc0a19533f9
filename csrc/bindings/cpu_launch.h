// What the CPU bindings of the model's ops share.
#pragma once

#include <algorithm>
#include <atomic>

#include "bindings/checks.h"
#include "common/ripple_attention_args.h"
#include "cpu/dispatch.h"

namespace ekpnet {

using torch::stable::parallel_for;

// Pairs per task below which threads cost more than they bring.
constexpr int64_t kPairGrain = 256;

// Calls f(chunk) for chunks 0 .. n - 1. A thread takes the next one when it is done, so that one
// that other load holds up leaves its share to the rest.
template <class F>
void for_each_chunk(int64_t n, F f) {
  std::atomic<int64_t> next{0};
  const int64_t threads = torch::stable::get_num_threads();
  parallel_for(0, std::min(n, threads), 1, [&](int64_t, int64_t) {
    for (int64_t chunk; (chunk = next.fetch_add(1)) < n;) f(chunk);
  });
}

// Calls f(begin, end) for pieces of 0 .. n - 1 that do not depend on the threads.
template <class F>
void for_each_piece(int64_t n, int64_t grain, F f) {
  for_each_chunk((n + grain - 1) / grain,
                 [&](int64_t piece) { f(piece * grain, std::min(n, (piece + 1) * grain)); });
}

// Chunks of groups, whose shared gradients, of so many bytes, are summed apart: their number
// depends on the shapes alone, so the order of summation does not depend on the threads.
template <class T>
int64_t chunks_of_groups(const AttentionArgs<T>& args, int64_t bytes) {
  constexpr int64_t kMaxChunks = 64, kMaxBytes = int64_t{1} << 26;
  return std::max<int64_t>(1, std::min({kMaxChunks, kMaxBytes / bytes, args.num_groups}));
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
  parallel_for(0, n, 4096, [&](int64_t begin, int64_t end) {
    std::copy(parts + begin, parts + end, out + begin);
    for (int64_t c = 1; c < chunks; ++c)
      for (int64_t i = begin; i < end; ++i) out[i] += parts[c * n + i];
  });
}

}  // namespace ekpnet
