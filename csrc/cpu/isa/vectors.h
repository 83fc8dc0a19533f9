// Vectors of the instruction set that is being compiled, by the compiler's vector extension.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace ekpnet {
namespace {

// Registers that hold vectors.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kVectorRegisters = 32;
#else
constexpr int kVectorRegisters = 16;
#endif

template <class T, int kBytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(kBytes)));
};
template <class T, int kBytes = EKPNET_VECTOR_BYTES>
using Vector = typename VectorOf<T, kBytes>::type;

template <class V, class T>
inline V load(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}

template <class V, class T>
inline void store(T* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}

// Asks for n elements, which are needed soon.
template <class T>
inline void prefetch(const T* p, int64_t n) {
  for (int64_t i = 0; i < n; i += 64 / sizeof(T)) __builtin_prefetch(p + i);
}

// Calls f(0) .. f(n - 1) with constants. The compiler unrolls such a loop by itself too, but only
// after it has put an array that the loop indexes into memory.
template <int n, class F>
__attribute__((always_inline)) inline void unrolled(F f) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, i>()), ...);
  }(std::make_integer_sequence<int, n>());
}

// Lower or upper half of a vector.
template <class V, class T, int kLanes, int kFirst, int... kI>
inline auto half_of(V v, std::integer_sequence<int, kI...>) {
  return __builtin_shufflevector(v, v, (kFirst + kI)...);
}

// Four lanes from the sums of halves, as in reduce.
template <class T, int kLanes, class V>
inline auto folded(V v) {
  if constexpr (kLanes == 4) {
    return v;
  } else {
    constexpr auto half = std::make_integer_sequence<int, kLanes / 2>();
    return folded<T, kLanes / 2>(half_of<V, T, kLanes, 0>(v, half) +
                                 half_of<V, T, kLanes, kLanes / 2>(v, half));
  }
}

template <class T, int kLanes, class V, class F>
inline T reduce(V v, F f) {
  if constexpr (kLanes * sizeof(T) <= 16) {
    T r = v[0];
    for (int i = 1; i < kLanes; ++i) r = f(r, static_cast<T>(v[i]));
    return r;
  } else {
    constexpr auto half = std::make_integer_sequence<int, kLanes / 2>();
    return reduce<T, kLanes / 2>(
        f(half_of<V, T, kLanes, 0>(v, half), half_of<V, T, kLanes, kLanes / 2>(v, half)), f);
  }
}

// f over all lanes, in every lane.
template <class T, int kLanes, class V, class F, int... kI>
inline V reduce_lanes(V v, F f, std::integer_sequence<int, kI...>) {
  if constexpr (kLanes == 1) {
    return v;
  } else {
    v = f(v, __builtin_shufflevector(v, v, (kI ^ (kLanes / 2))...));
    return reduce_lanes<T, kLanes / 2>(v, f, std::integer_sequence<int, kI...>());
  }
}
template <class T, class V, class F>
inline V reduce_lanes(V v, F f) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  return reduce_lanes<T, kLanes>(v, f, std::make_integer_sequence<int, kLanes>());
}

// Rows that reduce_rows takes at once: four, or one where a vector has no four lanes.
template <class V, class T>
constexpr int kReducedRows = sizeof(V) / sizeof(T) >= 4 ? 4 : 1;

// f over all lanes of each of kRows vectors: of row i in every lane of block i, a run of 1 / kRows
// of the lanes. Rows share the operations of a step as soon as its half of the lanes is free, but
// their values meet in the order of reduce_lanes.
template <class T, int kRows, class V, class F, int... kI>
inline V reduce_rows(const V* x, F f, std::integer_sequence<int, kI...>) {
  constexpr int kLanes = sizeof(V) / sizeof(T), kHalf = kLanes / 2, kQuarter = kLanes / 4;
  if constexpr (kRows == 1) {
    return reduce_lanes<T>(x[0], f);
  } else {
    static_assert(kRows == 4 && kLanes >= 4);
    const auto halves = [&](V a, V b) {
      return f(__builtin_shufflevector(a, b, (kI < kHalf ? kI : kI + kHalf)...),
               __builtin_shufflevector(a, b, (kI < kHalf ? kI + kHalf : kI + kLanes)...));
    };
    const V ab = halves(x[0], x[1]), cd = halves(x[2], x[3]);
    const V all =
        f(__builtin_shufflevector(ab, cd, (kI / kQuarter * kHalf + kI % kQuarter)...),
          __builtin_shufflevector(ab, cd, (kI / kQuarter * kHalf + kQuarter + kI % kQuarter)...));
    return reduce_lanes<T, kQuarter>(all, f, std::integer_sequence<int, kI...>());
  }
}
template <class T, int kRows, class V, class F>
inline V reduce_rows(const V* x, F f) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  return reduce_rows<T, kRows>(x, f, std::make_integer_sequence<int, kLanes>());
}

// Block kRow of kRows blocks, in every one.
template <class T, int kRows, int kRow, class V, int... kI>
inline V spread_row(V v, std::integer_sequence<int, kI...>) {
  constexpr int kBlock = sizeof(V) / sizeof(T) / kRows;
  return __builtin_shufflevector(v, v, (kRow * kBlock + kI % kBlock)...);
}
template <class T, int kRows, int kRow, class V>
inline V spread_row(V v) {
  if constexpr (kRows == 1)
    return v;
  else
    return spread_row<T, kRows, kRow>(v, std::make_integer_sequence<int, sizeof(V) / sizeof(T)>());
}

struct Max {
  template <class X>
  X operator()(X a, X b) const {
    return a > b ? a : b;
  }
};
struct Sum {
  template <class X>
  X operator()(X a, X b) const {
    return a + b;
  }
};

// exp(x) = 2^n (1 + p) for -87.3 < x < 88.
template <class V>
struct Exponential {
  V p, scale;  // scale = 2^n
};

// Range reduction to |r| <= ln 2 / 2 and the minimax polynomial of Cephes' expf; p is about as
// exact as a float can be, near 0 too.
template <class V>
inline Exponential<V> exponential_f32(V x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: the sum's low mantissa bits are the integer
  typedef int32_t I __attribute__((vector_size(sizeof(V))));
  const V shifted = x * 1.44269504088896341f + kMagic;
  const V n = shifted - kMagic;
  V r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r;
  I bits;
  __builtin_memcpy(&bits, &shifted, sizeof(V));
  bits = (bits - 0x4b400000 + 127) << 23;
  V scale;
  __builtin_memcpy(&scale, &bits, sizeof(V));
  return {p, scale};
}

// exp(x) for x <= 0; below 2^-126 the result is clamped there. Relative error about 1 ulp.
template <class V>
inline V exp_nonpositive_f32(V x) {
  const V low = V{} - 87.33654f;
  const auto e = exponential_f32(x < low ? low : x);
  return e.p * e.scale + e.scale;
}

template <class T, class V>
inline V exp_nonpositive(V x) {
  if constexpr (sizeof(T) == 4) {
    return exp_nonpositive_f32(x);
  } else {
    V y{};
    for (unsigned i = 0; i < sizeof(V) / sizeof(T); ++i) y[i] = __builtin_exp(x[i]);
    return y;
  }
}

// log(x) of normal x > 0, by Cephes' logf: within about 1 ulp.
template <class V>
inline V logarithm_f32(V x) {
  typedef int32_t I __attribute__((vector_size(sizeof(V))));
  I bits;
  __builtin_memcpy(&bits, &x, sizeof(V));
  V e = __builtin_convertvector((bits >> 23) - 126, V);
  bits = (bits & 0x007fffff) | 0x3f000000;
  V m;  // x = m 2^e, 1/2 <= m < 1
  __builtin_memcpy(&m, &bits, sizeof(V));
  const V one = V{} + 1.0f, half = V{} + 0.707106781186547524f;
  e = m < half ? e - one : e;
  m = m < half ? m + m - one : m - one;
  V p = m * 7.0376836292e-2f - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const V z = m * m;
  V y = p * m * z - e * 2.12194440e-4f;
  y = y - z * 0.5f;
  return m + y + e * 0.693359375f;
}

template <class T, class V>
inline V sigmoid(V x) {
  const V e = exp_nonpositive<T>(x < V{} ? x : -x);
  const V one = V{} + T(1);
  return (x < V{} ? e : one) / (one + e);
}

// tanh(x) = t / (t + 2) with t = exp(2 x) - 1, which keeps its digits near 0.
template <class T, class V>
inline V hyperbolic_tangent(V x) {
  if constexpr (sizeof(T) == 4) {
    const V high = V{} + 20.0f;  // from where on the result is 1
    V twice = x + x;
    twice = twice > high ? high : twice;
    twice = twice < -high ? -high : twice;
    const auto e = exponential_f32(twice);
    const V t = e.p * e.scale + (e.scale - 1.0f);
    return t / (t + 2.0f);
  } else {
    V y{};
    for (unsigned i = 0; i < sizeof(V) / sizeof(T); ++i) y[i] = __builtin_tanh(x[i]);
    return y;
  }
}

// C [P, N] (+)= A [P, K] B [K, N]; N is a multiple of V's lanes, rows of B and C may be read and
// written up to there. A is addressed by two strides, so a transposed A costs nothing. Each
// element is one chain of multiply-adds over k: the result does not depend on the blocking.
template <class V, class T, int kRows, int kVectors>
inline void gemm_block(int64_t K, const T* a, int64_t a_row, int64_t a_col, const T* b, int64_t ldb,
                       T* c, int64_t ldc, bool accumulate) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  V acc[kRows][kVectors];
  unrolled<kRows>([&](auto p) {
    unrolled<kVectors>(
        [&](auto n) { acc[p][n] = accumulate ? load<V>(c + p * ldc + n * kLanes) : V{}; });
  });
  for (int64_t k = 0; k < K; ++k) {
    V bv[kVectors];
    unrolled<kVectors>([&](auto n) { bv[n] = load<V>(b + k * ldb + n * kLanes); });
    unrolled<kRows>([&](auto p) {
      const T x = a[p * a_row + k * a_col];
      unrolled<kVectors>([&](auto n) { acc[p][n] += bv[n] * x; });
    });
  }
  unrolled<kRows>([&](auto p) {
    unrolled<kVectors>([&](auto n) { store(c + p * ldc + n * kLanes, acc[p][n]); });
  });
}

// At most kRows rows.
template <class V, class T, int kRows, int kVectors>
inline void gemm_rest(int64_t P, int64_t K, const T* a, int64_t a_row, int64_t a_col, const T* b,
                      int64_t ldb, T* c, int64_t ldc, bool accumulate) {
  if constexpr (kRows > 0) {
    if (P == kRows)
      gemm_block<V, T, kRows, kVectors>(K, a, a_row, a_col, b, ldb, c, ldc, accumulate);
    else
      gemm_rest<V, T, kRows - 1, kVectors>(P, K, a, a_row, a_col, b, ldb, c, ldc, accumulate);
  }
}

template <class V, class T, int kVectors>
inline void gemm_columns(int64_t P, int64_t K, const T* a, int64_t a_row, int64_t a_col, const T* b,
                         int64_t ldb, T* c, int64_t ldc, bool accumulate) {
  constexpr int kRows = kVectors == 1 || kVectorRegisters == 32 ? 8 : 4;
  int64_t p = 0;
  for (; p + kRows <= P; p += kRows)
    gemm_block<V, T, kRows, kVectors>(K, a + p * a_row, a_row, a_col, b, ldb, c + p * ldc, ldc,
                                      accumulate);
  // The rest is one block: several short ones would wait for their chains of sums one by one.
  gemm_rest<V, T, kRows - 1, kVectors>(P - p, K, a + p * a_row, a_row, a_col, b, ldb, c + p * ldc,
                                       ldc, accumulate);
}

template <class V, class T>
inline void gemm(int64_t P, int64_t N, int64_t K, const T* a, int64_t a_row, int64_t a_col,
                 const T* b, int64_t ldb, T* c, int64_t ldc, bool accumulate) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  int64_t n = 0;
  // Three vectors fill the registers best, but not where one would be left over. SSE, whose
  // products need a register of their own, has too few for it.
  if constexpr (EKPNET_VECTOR_BYTES > 16 || kVectorRegisters == 32)
    for (; n + 3 * kLanes <= N && n + 4 * kLanes != N; n += 3 * kLanes)
      gemm_columns<V, T, 3>(P, K, a, a_row, a_col, b + n, ldb, c + n, ldc, accumulate);
  for (; n + 2 * kLanes <= N; n += 2 * kLanes)
    gemm_columns<V, T, 2>(P, K, a, a_row, a_col, b + n, ldb, c + n, ldc, accumulate);
  for (; n < N; n += kLanes)
    gemm_columns<V, T, 1>(P, K, a, a_row, a_col, b + n, ldb, c + n, ldc, accumulate);
}

template <class Quad>
__attribute__((always_inline)) inline void transpose_quads(const Quad* rows, Quad* columns) {
  const Quad a = rows[0], b = rows[1], c = rows[2], d = rows[3];
  const Quad ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Quad ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Quad cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Quad cd1 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  columns[0] = __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5);
  columns[1] = __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7);
  columns[2] = __builtin_shufflevector(ab1, cd1, 0, 1, 4, 5);
  columns[3] = __builtin_shufflevector(ab1, cd1, 2, 3, 6, 7);
}

// to [n, P] = from [P, n] transposed.
template <class T>
inline void transpose(int64_t P, int64_t n, const T* from, int64_t ld_from, T* to, int64_t ld_to) {
  using Quad = Vector<T, 4 * sizeof(T)>;
  int64_t p = 0;
  for (; p + 4 <= P; p += 4) {
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
      const T* x = from + p * ld_from + i;
      T* y = to + i * ld_to + p;
      const Quad rows[4] = {load<Quad>(x), load<Quad>(x + ld_from), load<Quad>(x + 2 * ld_from),
                            load<Quad>(x + 3 * ld_from)};
      Quad columns[4];
      transpose_quads<Quad>(rows, columns);
      unrolled<4>([&](auto k) { store(y + k * ld_to, columns[k]); });
    }
    for (; i < n; ++i)
      for (int64_t q = p; q < p + 4; ++q) to[i * ld_to + q] = from[q * ld_from + i];
  }
  for (; p < P; ++p)
    for (int64_t i = 0; i < n; ++i) to[i * ld_to + p] = from[p * ld_from + i];
}

// y += a x over n elements.
template <class V, class T>
__attribute__((always_inline)) inline void axpy(int64_t n, T a, const T* x, T* y) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, load<V>(y + i) + load<V>(x + i) * a);
  for (; i < n; ++i) y[i] += a * x[i];
}

// y += the column sums of x [P, n], row stride n, a multiple of V's lanes. A block is summed before
// it is added, because one long chain of additions in float32 would lose digits.
template <class V, class T>
inline void add_column_sums(int64_t P, int64_t n, const T* x, T* y) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  for (int64_t i = 0; i < n; i += kLanes) {
    V sum{};
    for (int64_t p = 0; p < P; ++p) sum += load<V>(x + p * n + i);
    store(y + i, load<V>(y + i) + sum);
  }
}

// y = a x + z over n elements; without z, y = a x.
template <class V, class T>
__attribute__((always_inline)) inline void scale_add(int64_t n, T a, const T* x, const T* z, T* y) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    store(y + i, z ? load<V>(x + i) * a + load<V>(z + i) : load<V>(x + i) * a);
  for (; i < n; ++i) y[i] = z ? x[i] * a + z[i] : x[i] * a;
}

template <class V, class T>
__attribute__((always_inline)) inline T dot(int64_t n, const T* x, const T* y) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  V acc{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) acc += load<V>(x + i) * load<V>(y + i);
  T r = reduce<T, kLanes>(acc, Sum());
  for (; i < n; ++i) r += x[i] * y[i];
  return r;
}

// out [4] = dot(n, x[i], y[i]), whose last lanes are added for all four at once.
template <class V, class T>
__attribute__((always_inline)) inline void four_dots(int64_t n, const T* const (&x)[4],
                                                     const T* const (&y)[4], T* out) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  using Quad = Vector<T, 4 * sizeof(T)>;
  if constexpr (kLanes >= 4)
    if (n % kLanes == 0) {
      Quad rows[4], columns[4];
      unrolled<4>([&](auto k) {
        V acc{};
        for (int64_t i = 0; i < n; i += kLanes) acc += load<V>(x[k] + i) * load<V>(y[k] + i);
        rows[k] = folded<T, kLanes>(acc);
      });
      transpose_quads<Quad>(rows, columns);
      store(out, columns[0] + columns[1] + columns[2] + columns[3]);
      return;
    }
  unrolled<4>([&](auto k) { out[k] = dot<V>(n, x[k], y[k]); });
}

}  // namespace
}  // namespace ekpnet
