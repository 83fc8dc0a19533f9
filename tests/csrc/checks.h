// What the torch-free tests share: checks that are counted, inputs, and slopes by differences.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "common/random.h"

namespace ekpnet::tests {

using Ids = std::vector<int32_t>;
using Offsets = std::vector<int64_t>;
template <class T>
using Reals = std::vector<T>;

// What outputs are filled with: a number that a kernel forgets to write makes its check fail.
template <class T>
constexpr T kUnset = std::numeric_limits<T>::quiet_NaN();

inline int failures = 0;

inline void check(bool holds, const std::string& what) {
  if (holds) return;
  ++failures;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
}

// Largest |found - expected| in units of 1 + |expected|. A NaN is the largest there is.
template <class T>
void check_close(const Reals<T>& found, const Reals<double>& expected, double tolerance,
                 const std::string& what) {
  check(found.size() == expected.size(), what + ": sizes differ");
  double worst = 0;
  for (size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
    const double miss = std::fabs(found[i] - expected[i]) / (1 + std::fabs(expected[i]));
    worst = miss <= worst ? worst : miss;
    if (std::isnan(miss)) worst = std::numeric_limits<double>::infinity();
  }
  check(worst <= tolerance,
        what + ": off by " + std::to_string(worst) + ", allowed " + std::to_string(tolerance));
}

template <class T>
void check_same_bits(const Reals<T>& found, const Reals<T>& expected, const std::string& what) {
  check(found.size() == expected.size() &&
            std::memcmp(found.data(), expected.data(), found.size() * sizeof(T)) == 0,
        what + ": other bits");
}

// `found` [n], the gradient of f, against central differences of f along x [n], which is left as it
// was: along every element, or along `most` that are drawn.
template <class T>
void check_slopes(const Reals<T>& found, Reals<double>& x, const std::function<double()>& f,
                  double tolerance, const std::string& what,
                  size_t most = std::numeric_limits<size_t>::max()) {
  constexpr double kStep = 1e-5;
  check(found.size() == x.size(), what + ": sizes differ");
  check(std::none_of(found.begin(), found.end(), [](T slope) { return std::isnan(slope); }),
        what + ": NaN");
  Reals<T> some;
  Reals<double> slopes;
  for (size_t k = 0; k < std::min(most, x.size()); ++k) {
    const size_t i = most < x.size() ? bounded(random_bits(99, k), x.size()) : k;
    const double kept = x[i];
    x[i] = kept + kStep;
    const double above = f();
    x[i] = kept - kStep;
    const double below = f();
    x[i] = kept;
    some.push_back(found[i]);
    slopes.push_back((above - below) / (2 * kStep));
  }
  check_close(some, slopes, tolerance, what);
}

// Reals in [-1, 1), a fixed sequence per `key`.
inline Reals<double> uniform(size_t n, uint64_t key) {
  Reals<double> x(n);
  for (size_t i = 0; i < n; ++i)
    x[i] = std::ldexp(static_cast<double>(random_bits(key, i) >> 11), -52) - 1;
  return x;
}

inline Ids uniform_ids(size_t n, int32_t limit, uint64_t key) {
  Ids ids(n);
  for (size_t i = 0; i < n; ++i) ids[i] = static_cast<int32_t>(bounded(random_bits(key, i), limit));
  return ids;
}

template <class T>
Reals<T> as(const Reals<double>& x) {
  return Reals<T>(x.begin(), x.end());
}

// Adds up [chunks, n] over the chunks.
template <class T>
Reals<T> sum_chunks(const Reals<T>& x, size_t chunks) {
  Reals<T> total(x.size() / chunks);
  for (size_t i = 0; i < x.size(); ++i) total[i % total.size()] += x[i];
  return total;
}

inline double dot(const double* x, const double* y, int n) {
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

// The kernels of T in a pair of entries of IsaKernels.
template <class T, class Float, class Double>
const auto& of_type(const Float& f32, const Double& f64) {
  if constexpr (sizeof(T) == 4)
    return f32;
  else
    return f64;
}

// Every one checks what its file is named after, with the instruction set in use.
void test_batching();
void test_deep_score();
void test_ekpnet_gradients();
void test_ripple_attention();
void test_row_adam();
void test_wide_part();
void test_sampling();
void test_shared_rows();
void test_triple_loss();

}  // namespace ekpnet::tests
