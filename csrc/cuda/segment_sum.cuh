// Sums of rows that share a key, in the order of the references, so that results repeat.
//
// References are sorted by key (stably, so that within a key they rise). They are cut into chunks
// of equal length, so that one key with thousands of references is the work of many. A chunk
// writes the sums of keys that lie within it; a key that crosses a border leaves one part per
// chunk, and the chunk where it begins adds up the parts in order.
#pragma once

#include "cuda/device.cuh"
#include "cuda/segment_chunks.h"

namespace ekpnet {

constexpr int kSegmentAhead = 4;  // of them, whose rows are fetched before they are added
constexpr int kSegmentThreads = 128;

template <class S>
struct SegmentSumArgs {
  using A = Compute<S>;
  int64_t num_references;     // N
  int64_t num_rows;           // n; references with key n are left out
  int width;                  // D
  int channels;               // C of the sums
  const int32_t* keys;        // [N], sorted
  const int32_t* references;  // [N]
  S* sums;                    // [n, C, D], zeroed by the caller
  A* parts;                   // [2, chunks, C, D]: of keys that began before the chunk, in it
};

// A row of one or two channels in a lane's share.
template <int kD, class A>
struct RowSum {
  using F = Fragment<kD, A>;
  F channel[2];

  static __device__ RowSum zero() { return {{F::zero(), F::zero()}}; }

  __device__ void add(const RowSum& other) {
    channel[0].add(A(1), other.channel[0]);
    channel[1].add(A(1), other.channel[1]);
  }

  template <class To>
  __device__ void store(To* row, int lane, int D, int C) const {
    channel[0].store(row, lane, D);
    if (C == 2) channel[1].store(row + D, lane, D);
  }

  template <class From>
  static __device__ RowSum load(const From* row, int lane, int D, int C) {
    return {{F::load(row, lane, D), C == 2 ? F::load(row + D, lane, D) : F::zero()}};
  }
};

// Sums within chunks. The lanes of a fragment own a chunk. `rows(reference, lane)` is the
// RowSum of a reference.
template <int kD, class S, class Rows>
__global__ void __launch_bounds__(kSegmentThreads, sizeof(S) == 8 ? 2 : 4)
    segment_sum_kernel(const SegmentSumArgs<S> args, const Rows rows) {
  using A = Compute<S>;
  using Sum = RowSum<kD, A>;
  constexpr int kLanes = Sum::F::kLanes;
  const int D = kD > 0 ? kD : args.width, C = args.channels, lane = threadIdx.x % kLanes;
  const int64_t chunks = ceil_div(args.num_references, kSegmentChunk);
  const int64_t chunk = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kLanes;
  if (chunk >= chunks) return;
  const int64_t begin = chunk * kSegmentChunk;
  const int64_t end =
      begin + kSegmentChunk < args.num_references ? begin + kSegmentChunk : args.num_references;
  const int32_t before = begin > 0 ? args.keys[begin - 1] : -1;
  const int32_t after = end < args.num_references ? args.keys[end] : -1;
  int32_t key = args.keys[begin];
  bool inside = key != before;
  Sum sum = Sum::zero();
  const auto finish = [&](bool last) {
    if (key >= args.num_rows) return;
    const bool goes_on = last && key == after;
    if (inside && !goes_on)
      sum.store(args.sums + key * static_cast<int64_t>(C) * D, lane, D, C);
    else
      sum.store(args.parts + ((inside ? chunks : 0) + chunk) * C * D, lane, D, C);
  };
  for (int64_t at = begin; at < end; at += kSegmentAhead) {
    int32_t keys[kSegmentAhead];
    Sum ahead[kSegmentAhead];
#pragma unroll
    for (int j = 0; j < kSegmentAhead; ++j) {
      keys[j] = at + j < end ? args.keys[at + j] : -1;
      ahead[j] = keys[j] >= 0 && keys[j] < args.num_rows ? rows(args.references[at + j], lane)
                                                         : Sum::zero();
    }
#pragma unroll
    for (int j = 0; j < kSegmentAhead; ++j) {
      if (keys[j] < 0) continue;
      if (keys[j] != key) {
        finish(false);
        key = keys[j];
        inside = true;
        sum = Sum::zero();
      }
      sum.add(ahead[j]);
    }
  }
  finish(true);
}

// The last chunk that begins with the key that begins in a chunk and goes on after it; 0 without
// one.
template <class S>
__device__ int64_t last_chunk(const SegmentSumArgs<S>& args, int64_t chunks, int64_t chunk) {
  const int64_t begin = chunk * kSegmentChunk, end = begin + kSegmentChunk;
  if (end >= args.num_references) return 0;  // nothing follows
  const int32_t key = args.keys[end - 1];
  if (key >= args.num_rows || args.keys[end] != key) return 0;
  if (args.keys[begin] == key && begin > 0 && args.keys[begin - 1] == key)
    return 0;  // began before
  int64_t last = chunk + 1, high = chunks - 1;
  while (last < high) {
    const int64_t middle = (last + high + 1) / 2;
    if (args.keys[middle * kSegmentChunk] == key)
      last = middle;
    else
      high = middle - 1;
  }
  return last;
}

// Sums of keys that cross a border between chunks. A warp looks at a chunk, whether a key begins in
// it and goes on; the block adds up those of its chunks one after the other, because a key may go
// on over most of the chunks: each fragment's lanes every kRuns-th part, then the runs in a tree.
template <int kD, class S>
__global__ void __launch_bounds__(kSegmentThreads, 4)
    segment_parts_kernel(const SegmentSumArgs<S> args) {
  using A = Compute<S>;
  using Sum = RowSum<kD, A>;
  constexpr int kLanes = Sum::F::kLanes, kRuns = kSegmentThreads / kLanes;
  constexpr int kWarps = kSegmentThreads / kWarp;
  __shared__ int64_t lasts[kWarps];  // the last chunk that begins with the key, 0 without one
  __shared__ A sums[kWarps][2][4 * kLanes];
  const int D = kD > 0 ? kD : args.width, C = args.channels;
  const int lane = threadIdx.x % kLanes, run = threadIdx.x / kLanes, warp = threadIdx.x / kWarp;
  const int64_t N = args.num_references, chunks = ceil_div(N, kSegmentChunk);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kWarps;
  if (threadIdx.x % kWarp == 0) lasts[warp] = last_chunk(args, chunks, first + warp);
  __syncthreads();
  for (int at = 0; at < kWarps; ++at) {
    const int64_t chunk = first + at, last = lasts[at];
    if (last == 0) continue;
    Sum sum = run == 0 ? Sum::load(args.parts + (chunks + chunk) * C * D, lane, D, C) : Sum::zero();
#pragma unroll 4
    for (int64_t next = chunk + 1 + run; next <= last; next += kRuns)
      sum.add(Sum::load(args.parts + next * C * D, lane, D, C));
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int step = kLanes; step < kWarp; step *= 2)
          sum.channel[c].x[j] += __shfl_xor_sync(kAllLanes, sum.channel[c].x[j], step);
        if (threadIdx.x % kWarp < kLanes) sums[warp][c][4 * lane + j] = sum.channel[c].x[j];
      }
    __syncthreads();
    if (run == 0) {
#pragma unroll
      for (int c = 0; c < 2; ++c)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
          for (int w = 1; w < kWarps; ++w) sum.channel[c].x[j] += sums[w][c][4 * lane + j];
      const int64_t key = args.keys[(chunk + 1) * kSegmentChunk];
      sum.store(args.sums + key * C * D, lane, D, C);
    }
    __syncthreads();
  }
}

template <int kD, class S, class Rows>
void launch_segment_sum(const SegmentSumArgs<S>& args, const Rows& rows, cudaStream_t stream) {
  constexpr int kLanes = Fragment<kD, Compute<S>>::kLanes;
  const int64_t blocks = ceil_div(segment_chunks(args.num_references) * kLanes, kSegmentThreads);
  launch(segment_sum_kernel<kD, S, Rows>, blocks, kSegmentThreads, 0, stream, args, rows);
  launch(segment_parts_kernel<kD, S>,
         ceil_div(segment_chunks(args.num_references) * kWarp, kSegmentThreads), kSegmentThreads, 0,
         stream, args);
}

}  // namespace ekpnet
