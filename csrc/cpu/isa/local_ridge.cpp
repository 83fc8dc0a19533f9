#include "cpu/isa/local_ridge.h"

#include <algorithm>
#include <cmath>

#include "cpu/isa/arena.h"
#include "cpu/isa/isa_kernels.h"
#include "cpu/isa/vectors.h"

namespace ekpnet {
namespace {

using V = Vector<float>;
constexpr int64_t kBlock = 16;  // rows that are eliminated together, whole vectors

int64_t workspace_size(int64_t num_items, int64_t most) {
  const int64_t n = round_up(most, kBlock);
  return round_up(num_items, kBlock) + n * n + kBlock * n;
}

// f(place, value) for the entries of a Gram row that are neighbours from place `first` on, zeros
// among them or not; `place` holds -1 elsewhere.
template <class F>
void each_entry(const LocalRidgeArgs& args, int64_t row, const int32_t* neighbours, int64_t first,
                int64_t n, const int32_t* place, F f) {
  if (args.gram) {
    const float* values = args.gram + row * args.num_items;
    for (int64_t k = first; k < n; ++k) f(k, values[neighbours[k]]);
    return;
  }
  const int32_t* begin = args.gram_items + args.gram_indptr[row];
  const int32_t* end = args.gram_items + args.gram_indptr[row + 1];
  constexpr int64_t kStepsOfSearch = 12;
  if (first < n) begin = std::lower_bound(begin, end, neighbours[first]);
  if ((n - first) * kStepsOfSearch < end - begin) {
    for (int64_t k = first; k < n; ++k) {
      const int32_t* at = std::lower_bound(begin, end, neighbours[k]);
      if (at != end && *at == neighbours[k]) f(k, args.gram_values[at - args.gram_items]);
    }
    return;
  }
  for (const int32_t* at = begin; at != end; ++at)
    if (place[*at] >= 0) f(place[*at], args.gram_values[at - args.gram_items]);
}

// The upper triangle U of A = U^T U in place of that of A [n, n], n a multiple of kBlock; `negated`
// has room for kBlock rows. No pivot of a whole Gram matrix is below the weight of the norm; one
// that is, because entries are missing, counts as that.
void factorize(float* a, int64_t n, float weight, float* negated) {
  for (int64_t k = 0; k < n; k += kBlock) {
    for (int64_t i = k; i < k + kBlock; ++i) {
      float* row = a + i * n;
      for (int64_t j = k; j < i; ++j) axpy<V>(n - k, -a[j * n + i], a + j * n + k, row + k);
      const float scale = 1 / std::sqrt(std::max(row[i], weight));
      row[i] = std::max(row[i], weight);
      for (int64_t d = k; d < n; ++d) {
        row[d] = d < i ? 0.0f : row[d] * scale;
        negated[(i - k) * n + d] = -row[d];
      }
    }
    for (int64_t i = k + kBlock; i < n; i += kBlock)
      gemm<V>(kBlock, n - i, kBlock, negated + i, 1, n, a + k * n + i, n, a + i * n + i, n, true);
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

void fit(const LocalRidgeArgs& args, int64_t begin, int64_t end, float* coefficients,
         float* workspace) {
  int64_t most = 0;
  for (int64_t i = begin; i < end; ++i) most = std::max(most, args.indptr[i + 1] - args.indptr[i]);
  Arena<float> arena(workspace);
  int32_t* place = reinterpret_cast<int32_t*>(arena.take(args.num_items));
  float* gram = arena.take(round_up(most, kBlock) * round_up(most, kBlock));
  float* negated = arena.take(kBlock * round_up(most, kBlock));
  std::fill(place, place + args.num_items, -1);
  for (int64_t i = begin; i < end; ++i) {
    const int32_t* neighbours = args.neighbours + args.indptr[i];
    const int64_t n = args.indptr[i + 1] - args.indptr[i], stride = round_up(n, kBlock);
    float* x = coefficients + args.indptr[i];
    for (int64_t k = 0; k < n; ++k) place[neighbours[k]] = static_cast<int32_t>(k);
    std::fill(x, x + n, 0.0f);
    each_entry(args, i, neighbours, 0, n, place, [&](int64_t k, float value) { x[k] = value; });
    std::fill(gram, gram + stride * stride, 0.0f);
    for (int64_t k = n; k < stride; ++k)
      gram[k * stride + k] = static_cast<float>(args.weight);  // of no neighbour
    for (int64_t k = 0; k < n; ++k) {
      float* row = gram + k * stride;
      each_entry(args, neighbours[k], neighbours, k, n, place,
                 [&](int64_t j, float value) { row[j] = value; });
      row[k] += static_cast<float>(args.weight);
    }
    factorize(gram, stride, static_cast<float>(args.weight), negated);
    solve(gram, n, stride, x);
    for (int64_t k = 0; k < n; ++k) place[neighbours[k]] = -1;
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
