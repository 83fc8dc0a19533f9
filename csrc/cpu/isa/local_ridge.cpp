#include "cpu/isa/local_ridge.h"

#include <algorithm>
#include <cmath>

#include "cpu/isa/arena.h"
#include "cpu/isa/isa_kernels.h"
#include "cpu/isa/vectors.h"

namespace ekpnet {
namespace {

using V = Vector<float>;
constexpr int kLanes = sizeof(V) / sizeof(float);
constexpr int64_t kBlock = 16;  // rows that are eliminated together, whole vectors
constexpr int64_t kRows = 4;    // rows that a product takes together
// Neighbours up to which elimination is as fast as iteration, and rounds for so many neighbours.
constexpr int64_t kFew = 32, kNeighboursARound = 4;
constexpr float kRest = 3e-7f;  // of the right side, which rounding leaves of it too

// Room for one item of so many neighbours at most as it was made for.
struct Room {
  int32_t* place;  // [I] of each item among the neighbours, `stride` - kBlock of others; or [n]
                   // where in a row of a Gram matrix with its zeros each neighbour is
  float* gram;     // [n, stride], the upper triangle
  float* negated;  // [kBlock, stride]
  float *diagonal, *right, *residual, *direction, *image;  // each [stride]
  int64_t stride;  // neighbours in whole blocks, and one that takes what is of no neighbour
};

int64_t stride_of(int64_t n) { return round_up(n, kBlock) + kBlock; }

int64_t workspace_size(int64_t num_items, int64_t most) {
  return round_up(num_items, kBlock) + stride_of(most) * (stride_of(most) + kBlock + 5);
}

// Puts the entries of a Gram row that are neighbours from place `first` on to `row`, zeros among
// them or not; what follows the neighbours there is overwritten.
void gather(const LocalRidgeArgs& args, int64_t item, const int32_t* neighbours, int64_t first,
            int64_t n, const int32_t* place, float* row) {
  if (args.gram) {
    const float* values = args.gram + args.rank[item] * args.num_items;
    for (int64_t k = first; k < n; ++k) row[k] = values[place[k]];
    return;
  }
  const int32_t* begin = args.gram_items + args.gram_indptr[item];
  const int32_t* end = args.gram_items + args.gram_indptr[item + 1];
  constexpr int64_t kStepsOfSearch = 24;
  if (first < n) begin = std::lower_bound(begin, end, neighbours[first]);
  if ((n - first) * kStepsOfSearch < end - begin) {
    for (int64_t k = first; k < n; ++k) {
      const int32_t* at = std::lower_bound(begin, end, neighbours[k]);
      if (at != end && *at == neighbours[k]) row[k] = args.gram_values[at - args.gram_items];
    }
    return;
  }
  const float* value = args.gram_values + (begin - args.gram_items);
  for (; begin != end; ++begin, ++value) row[place[*begin]] = *value;
}

// The upper triangle U of A = U^T U in place of that of A [n, n], n a multiple of kBlock; `negated`
// has room for kBlock rows. No pivot of a whole Gram matrix is below the weight of the norm; one
// that is, because entries are missing, counts as that.
void factorize(float* a, int64_t n, int64_t stride, float weight, float* negated) {
  for (int64_t k = 0; k < n; k += kBlock) {
    for (int64_t i = k; i < k + kBlock; ++i) {
      float* row = a + i * stride;
      for (int64_t j = k; j < i; ++j)
        axpy<V>(n - k, -a[j * stride + i], a + j * stride + k, row + k);
      const float scale = 1 / std::sqrt(std::max(row[i], weight));
      row[i] = std::max(row[i], weight);
      for (int64_t d = k; d < n; ++d) {
        row[d] = d < i ? 0.0f : row[d] * scale;
        negated[(i - k) * stride + d] = -row[d];
      }
    }
    for (int64_t i = k + kBlock; i < n; i += kBlock)
      gemm<V>(kBlock, n - i, kBlock, negated + i, 1, stride, a + k * stride + i, stride,
              a + i * stride + i, stride, true);
  }
}

// x = (U^T U)^-1 x.
void solve(const float* u, int64_t n, int64_t stride, float* x) {
  for (int64_t k = 0; k < n; ++k) {
    x[k] /= u[k * stride + k];
    axpy<V>(n - k - 1, -x[k], u + k * stride + k + 1, x + k + 1);
  }
  for (int64_t k = n - 1; k >= 0; --k) {
    x[k] -= dot<V>(n - k - 1, u + k * stride + k + 1, x + k + 1);
    x[k] /= u[k * stride + k];
  }
}

// image = (A + A^T + diagonal) x with the upper triangle A, whose diagonal is 0.
void multiply(const Room& room, int64_t n, const float* x, float* image) {
  const int64_t stride = room.stride, width = round_up(n, kBlock);
  for (int64_t d = 0; d < width; ++d) image[d] = room.diagonal[d] * x[d];
  for (int64_t k = 0; k < n; k += kRows) {
    const float* rows = room.gram + k * stride;
    V sums[kRows] = {};
    for (int64_t d = k / kBlock * kBlock; d < width; d += kLanes) {
      const V of_x = load<V>(x + d);
      V of_image = load<V>(image + d);
      unrolled<kRows>([&](auto r) {
        const V a = load<V>(rows + r * stride + d);
        sums[r] += a * of_x;
        of_image += a * x[k + r];
      });
      store(image + d, of_image);
    }
    unrolled<kRows>([&](auto r) { image[k + r] += reduce<float, kLanes>(sums[r], Sum()); });
  }
}

// Solves by conjugate gradients, preconditioned by the diagonal: with a weight that is not small
// next to the clicks, rounds are far fewer than neighbours. Returns whether that was so.
bool iterate(const Room& room, int64_t n, float* x) {
  const int64_t width = round_up(n, kBlock);
  std::fill(x, x + n, 0.0f);
  float *residual = room.residual, *direction = room.direction, *image = room.image;
  std::copy(room.right, room.right + width, residual);
  for (int64_t d = 0; d < width; ++d) direction[d] = residual[d] / room.diagonal[d];
  float size = dot<V>(width, residual, direction);
  const float enough = size * kRest * kRest;
  for (int64_t round = 0; size > enough && round < n / kNeighboursARound; ++round) {
    multiply(room, n, direction, image);
    const float curvature = dot<V>(width, direction, image);
    if (!(curvature > 0)) return false;  // of a Gram matrix with entries missing
    const float step = size / curvature;
    axpy<V>(n, step, direction, x);
    axpy<V>(width, -step, image, residual);
    for (int64_t d = 0; d < width; ++d) image[d] = residual[d] / room.diagonal[d];
    const float after = dot<V>(width, residual, image);
    for (int64_t d = 0; d < width; ++d) direction[d] = image[d] + after / size * direction[d];
    size = after;
  }
  return size >= 0 && size <= enough;
}

// Solves by elimination, in place of the Gram matrix.
void eliminate(const Room& room, int64_t n, float weight, float* x) {
  const int64_t width = round_up(n, kBlock);
  for (int64_t k = n; k < width; ++k)
    std::fill(room.gram + k * room.stride + k / kBlock * kBlock,
              room.gram + k * room.stride + width, 0.0f);
  for (int64_t k = 0; k < width; ++k) room.gram[k * room.stride + k] = room.diagonal[k];
  factorize(room.gram, width, room.stride, weight, room.negated);
  std::copy(room.right, room.right + n, x);
  solve(room.gram, n, room.stride, x);
}

void fit(const LocalRidgeArgs& args, int64_t begin, int64_t end, float* coefficients,
         float* workspace) {
  int64_t most = 0;
  for (int64_t i = begin; i < end; ++i) most = std::max(most, args.indptr[i + 1] - args.indptr[i]);
  const auto weight = static_cast<float>(args.weight);
  Arena<float> arena(workspace);
  Room room;
  room.place = reinterpret_cast<int32_t*>(arena.take(args.num_items));
  room.gram = arena.take(stride_of(most) * stride_of(most));
  room.negated = arena.take(kBlock * stride_of(most));
  for (float** x : {&room.diagonal, &room.right, &room.residual, &room.direction, &room.image})
    *x = arena.take(stride_of(most));
  room.stride = stride_of(most);
  const auto nowhere = static_cast<int32_t>(room.stride - kBlock);
  std::fill(room.place, room.place + args.num_items, nowhere);
  for (int64_t i = begin; i < end; ++i) {
    const int32_t* neighbours = args.neighbours + args.indptr[i];
    const int64_t n = args.indptr[i + 1] - args.indptr[i], width = round_up(n, kBlock);
    if (args.gram)
      for (int64_t k = 0; k < n; ++k) room.place[k] = args.rank[neighbours[k]];
    else
      for (int64_t k = 0; k < n; ++k) room.place[neighbours[k]] = static_cast<int32_t>(k);
    std::fill(room.right, room.right + width, 0.0f);
    gather(args, i, neighbours, 0, n, room.place, room.right);
    std::fill(room.diagonal, room.diagonal + width, weight);
    for (int64_t k = 0; k < round_up(n, kRows); ++k) {
      float* row = room.gram + k * room.stride;
      std::fill(row + k / kBlock * kBlock, row + width, 0.0f);
      if (k >= n) continue;
      gather(args, neighbours[k], neighbours, k, n, room.place, row);
      room.diagonal[k] += row[k];
      row[k] = 0.0f;
    }
    float* x = coefficients + args.indptr[i];
    if (n <= kFew || !iterate(room, n, x)) eliminate(room, n, weight, x);
    if (!args.gram)
      for (int64_t k = 0; k < n; ++k) room.place[neighbours[k]] = nowhere;
  }
}

}  // namespace

namespace EKPNET_ISA {
const LocalRidgeKernels& local_ridge() {
  static const LocalRidgeKernels kernels = {workspace_size, fit};
  return kernels;
}
}  // namespace EKPNET_ISA

}  // namespace ekpnet
