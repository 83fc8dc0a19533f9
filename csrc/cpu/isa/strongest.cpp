#include "cpu/isa/strongest.h"

#include <algorithm>
#include <array>
#include <limits>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cpu/isa/isa_kernels.h"
#include "cpu/isa/vectors.h"

namespace ekpnet {
namespace {

constexpr int kLanes = EKPNET_VECTOR_BYTES / sizeof(float);
static_assert(kLanes <= kSlack);
using Floats = Vector<float>;
using Ints = Vector<int32_t>;

// Integers in the order of the floats, of which -0 is the one below 0: kNothing has -1.
template <class I>
I key_of_bits(I bits) {
  return bits ^ ((bits >> 31) & 0x7fffffff);
}
template <class I, class F>
I key_of(F value) {
  I bits;
  __builtin_memcpy(&bits, &value, sizeof(I));
  return key_of_bits(bits);
}
constexpr int32_t kNothingKey = -1;

#if defined(__AVX512F__)

// Writes the lanes that are chosen (-1; others 0) one after the other; returns their number.
int64_t compress(Ints chosen, Ints columns, Floats values, int32_t* to_columns, float* to_values) {
  const __mmask16 mask = _mm512_movepi32_mask(reinterpret_cast<__m512i>(chosen));
  // Not by a compressing store, which is slow on some processors.
  const __m512i packed = _mm512_maskz_compress_epi32(mask, reinterpret_cast<__m512i>(columns));
  store(to_columns, reinterpret_cast<Ints>(packed));
  store(to_values,
        reinterpret_cast<Floats>(_mm512_maskz_compress_ps(mask, reinterpret_cast<__m512>(values))));
  return __builtin_popcount(mask);
}

#elif defined(__AVX2__)

// Lanes of each set of lanes, one after the other.
constexpr auto kLanesOf = [] {
  std::array<std::array<int32_t, 8>, 256> lanes{};
  for (int mask = 0; mask < 256; ++mask)
    for (int lane = 0, n = 0; lane < 8; ++lane)
      if (mask >> lane & 1) lanes[mask][n++] = lane;
  return lanes;
}();

int64_t compress(Ints chosen, Ints columns, Floats values, int32_t* to_columns, float* to_values) {
  const int mask = _mm256_movemask_ps(reinterpret_cast<__m256>(chosen));
  const __m256i lanes = reinterpret_cast<__m256i>(load<Ints>(kLanesOf[mask].data()));
  store(to_columns, reinterpret_cast<Ints>(
                        _mm256_permutevar8x32_epi32(reinterpret_cast<__m256i>(columns), lanes)));
  store(to_values, reinterpret_cast<Floats>(
                       _mm256_permutevar8x32_ps(reinterpret_cast<__m256>(values), lanes)));
  return __builtin_popcount(mask);
}

#else

int64_t compress(Ints chosen, Ints columns, Floats values, int32_t* to_columns, float* to_values) {
  int64_t n = 0;
  for (int i = 0; i < kLanes; ++i) {
    to_columns[n] = columns[i];
    to_values[n] = values[i];
    n -= chosen[i];
  }
  return n;
}

#endif

int64_t collect(const float* sums, int64_t n, float floor, int32_t* columns, float* values) {
  const int32_t lowest = key_of<int32_t>(floor);
  int64_t found = 0, i = 0;
  Ints at;
  for (int lane = 0; lane < kLanes; ++lane) at[lane] = lane;
  for (; i + kLanes <= n; i += kLanes, at += kLanes) {
    const auto some = load<Floats>(sums + i);
    const auto keys = key_of<Ints>(some);
    const Ints chosen = (keys >= lowest) & (keys != kNothingKey);
    found += compress(chosen, at, some, columns + found, values + found);
  }
  for (; i < n; ++i) {
    columns[found] = static_cast<int32_t>(i);
    values[found] = sums[i];
    const int32_t key = key_of<int32_t>(sums[i]);
    found += (key >= lowest) & (key != kNothingKey);
  }
  return found;
}

// Number of the keys that are at least `bar`; behind the last one to a whole vector is INT32_MIN,
// above which every bar is.
int64_t at_least(const int32_t* keys, int64_t n, int32_t bar) {
  Ints found{};
  for (int64_t i = 0; i < n; i += kLanes) found -= load<Ints>(keys + i) >= bar;
  int64_t sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += found[lane];
  return sum;
}

struct Bar {
  int32_t key;
  int64_t reached;  // number of the keys that are at least `key`
};

// Bar that `count` of n >= count values reach, and no more but for equal ones. Their keys are the
// first of `keys`.
Bar bar_of(int64_t n, int64_t count, const float* values, int32_t* keys) {
  int32_t least = std::numeric_limits<int32_t>::max(), most = std::numeric_limits<int32_t>::min();
  for (int64_t i = 0; i < n; ++i) {
    keys[i] = key_of<int32_t>(values[i]);
    least = std::min(least, keys[i]);
    most = std::max(most, keys[i]);
  }
  std::fill(keys + n, keys + n + kSlack, std::numeric_limits<int32_t>::min());
  int64_t low = least, high = most, reached = n;
  while (reached != count && low < high) {
    const int64_t middle = low + (high - low + 1) / 2, some = at_least(keys, n, middle);
    if (some >= count)
      low = middle, reached = some;
    else
      high = middle - 1;
  }
  return {static_cast<int32_t>(low), reached};
}

float reached_by(int64_t n, int64_t count, const float* values, int32_t* keys) {
  const int32_t bits = key_of_bits(bar_of(n, count, values, keys).key);
  float bar;
  __builtin_memcpy(&bar, &bits, sizeof(float));
  return bar;
}

void keep(int64_t n, int64_t count, int32_t* columns, float* values, int32_t* keys) {
  if (count >= n) return;
  const Bar bar = bar_of(n, count, values, keys);
  if (bar.reached == count) {
    int64_t left = 0;
    for (int64_t i = 0; i < n; i += kLanes)  // in place: what is written has been read
      left += compress(load<Ints>(keys + i) >= bar.key, load<Ints>(columns + i),
                       load<Floats>(values + i), columns + left, values + left);
    return;
  }
  int64_t equal = count - at_least(keys, n, bar.key + 1);  // of those at the bar, the first
  for (int64_t i = 0, left = 0; left < count; ++i) {
    columns[left] = columns[i];
    values[left] = values[i];
    left += keys[i] > bar.key || (keys[i] == bar.key && equal-- > 0);
  }
}

// Looking at all columns pays the sooner the more of them an instruction takes.
constexpr StrongestKernels kKernels = {4 * kLanes, collect, reached_by, keep};

}  // namespace

namespace EKPNET_ISA {
const StrongestKernels& strongest() { return kKernels; }
}  // namespace EKPNET_ISA

}  // namespace ekpnet
