// Small matrix products of a team over tiles in shared memory.
//
// A thread owns tiles of kRows x 4 results in registers: rows t, t + n, t + 2n, .. (n tiles of
// rows) and four neighbouring columns, so that a warp's 16-byte reads fall into different banks
// where row strides are 4 more than a multiple of 8. Rows are a multiple of kRows; columns, depth
// and strides are multiples of 4; what pads them is 0. Every result is summed over k in order.
//
// `init(r, c)` gives the four values that a tile row starts from, `store(r, c, value)` takes them.
#pragma once

#include "cuda/device.cuh"

namespace ekpnet {

// Steps of a product's loop whose values are fetched together.
template <int kRows>
constexpr int kUnrolled = kRows == 1 ? 2 : 4;

template <class T>
struct Zero {
  __device__ Vec4<T> operator()(int, int) const { return {{T(0), T(0), T(0), T(0)}}; }
};

// Runs `accumulate(r, c, step, sums)` for every tile of the team, where row j is r + j * step.
template <int kRows, class T, class Accumulate, class Init, class Store>
__device__ void for_tiles(const Team& team, int rows, int cols, Accumulate accumulate, Init init,
                          Store store) {
  const int row_tiles = rows / kRows, tiles = row_tiles * (cols / 4);
  for (int t = team.rank; t < tiles; t += team.size) {
    const int r = t % row_tiles, c = 4 * (t / row_tiles);
    Vec4<T> sums[kRows];
#pragma unroll
    for (int j = 0; j < kRows; ++j) sums[j] = init(r + j * row_tiles, c);
    accumulate(r, c, row_tiles, sums);
#pragma unroll
    for (int j = 0; j < kRows; ++j) store(r + j * row_tiles, c, sums[j]);
  }
}

// C[r][c] = init + sum over k < depth of A[r][k] B[c][k]. kDepth is the depth if known, else 0.
template <int kRows, int kDepth, class T, class Init, class Store>
__device__ void product_rows_rows(const Team& team, int rows, int cols, int depth, const T* A,
                                  int stride_a, const T* B, int stride_b, Init init, Store store) {
  const int n = kDepth > 0 ? kDepth : depth;
  for_tiles<kRows, T>(
      team, rows, cols,
      [&](int r, int c, int step, Vec4<T>(&sums)[kRows]) {
#pragma unroll kUnrolled < kRows>
        for (int k = 0; k < n; k += 4) {
          Vec4<T> b[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) b[i] = load4(B + (c + i) * stride_b + k);
#pragma unroll
          for (int j = 0; j < kRows; ++j) {
            const Vec4<T> a = load4(A + (r + j * step) * stride_a + k);
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
              for (int q = 0; q < 4; ++q) sums[j].x[i] += a.x[q] * b[i].x[q];
          }
        }
      },
      init, store);
}

// C[r][c] = init + sum over k < depth of A[r][k] B[k][c].
template <int kRows, int kDepth, class T, class Init, class Store>
__device__ void product_rows_cols(const Team& team, int rows, int cols, int depth, const T* A,
                                  int stride_a, const T* B, int stride_b, Init init, Store store) {
  const int n = kDepth > 0 ? kDepth : depth;
  for_tiles<kRows, T>(
      team, rows, cols,
      [&](int r, int c, int step, Vec4<T>(&sums)[kRows]) {
#pragma unroll kUnrolled < kRows>
        for (int k = 0; k < n; k += 4) {
          Vec4<T> b[4];
#pragma unroll
          for (int q = 0; q < 4; ++q) b[q] = load4(B + (k + q) * stride_b + c);
#pragma unroll
          for (int j = 0; j < kRows; ++j) {
            const Vec4<T> a = load4(A + (r + j * step) * stride_a + k);
#pragma unroll
            for (int q = 0; q < 4; ++q)
#pragma unroll
              for (int i = 0; i < 4; ++i) sums[j].x[i] += a.x[q] * b[q].x[i];
          }
        }
      },
      init, store);
}

// C[r][c] = init + sum over k < depth of A[k][r] B[k][c]; the rows of a tile are neighbours.
template <int kRows, class T, class Init, class Store>
__device__ void product_cols_cols(const Team& team, int rows, int cols, int depth, const T* A,
                                  int stride_a, const T* B, int stride_b, Init init, Store store) {
  static_assert(kRows == 1 || kRows == 4);
  const int col_tiles = cols / 4, tiles = rows / kRows * col_tiles;
  for (int t = team.rank; t < tiles; t += team.size) {
    const int r = kRows * (t / col_tiles), c = 4 * (t % col_tiles);
    Vec4<T> sums[kRows];
#pragma unroll
    for (int j = 0; j < kRows; ++j) sums[j] = init(r + j, c);
#pragma unroll kUnrolled < kRows>
    for (int k = 0; k < depth; ++k) {
      Vec4<T> a;
      if constexpr (kRows == 4)
        a = load4(A + k * stride_a + r);
      else
        a.x[0] = A[k * stride_a + r];
      const Vec4<T> b = load4(B + k * stride_b + c);
#pragma unroll
      for (int j = 0; j < kRows; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[j].x[i] += a.x[j] * b.x[i];
    }
#pragma unroll
    for (int j = 0; j < kRows; ++j) store(r + j, c, sums[j]);
  }
}

}  // namespace ekpnet
