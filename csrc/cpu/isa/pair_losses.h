// Losses of a block of one user's pairs: their sum, and its gradient in place of the logits.
#pragma once

#include "cpu/isa/arena.h"
#include "cpu/isa/ekpnet_gradients.h"
#include "cpu/isa/vectors.h"

namespace ekpnet {

namespace {

// First pair of list p of n, into which the pairs of a group are cut evenly.
inline int64_t list_begin(int64_t pairs, int64_t n, int64_t p) { return pairs * p / n; }

// log(1 + e) for 0 <= e <= 1.
template <class T, class V>
inline V log_one_plus(V e) {
  if constexpr (sizeof(T) == 4) {
    // 2 artanh(s) with s = e / (2 + e) <= 1 / 3, by its series.
    const V s = e / (e + 2.0f), t = s * s;
    V p = t * (1 / 15.0f) + 1 / 13.0f;
    p = p * t + 1 / 11.0f;
    p = p * t + 1 / 9.0f;
    p = p * t + 1 / 7.0f;
    p = p * t + 1 / 5.0f;
    p = p * t + 1 / 3.0f;
    p = p * t + 1.0f;
    return p * (s + s);
  } else {
    V y{};
    for (unsigned i = 0; i < sizeof(V) / sizeof(T); ++i) y[i] = __builtin_log1p(e[i]);
    return y;
  }
}

// log(1 + exp(x)) and its derivative.
template <class T, class V>
inline V softplus(V x, V* slope) {
  const V one = V{} + T(1), e = exp_nonpositive<T>(x < V{} ? x : -x);
  *slope = (x < V{} ? e : one) / (one + e);
  return (x < V{} ? V{} : x) + log_one_plus<T>(e);
}

// Cross-entropy of P logits, summed, each by `real` if given. `logit` has room for whole vectors,
// as in the other losses.
template <class T>
double cross_entropy(int64_t P, const T* labels, const T* real, T weight, T* logit) {
  using V = Vector<T>;
  constexpr int64_t kLanes = EKPNET_VECTOR_BYTES / sizeof(T);
  T losses[kListPairs + kLanes], y[kListPairs + kLanes];
  for (int64_t i = 0; i < round_up(P, kLanes); ++i) y[i] = i < P ? labels[i] : T(0);
  for (int64_t i = P; i < round_up(P, kLanes); ++i) logit[i] = T(0);
  for (int64_t i = 0; i < P; i += kLanes) {
    const V x = load<V>(logit + i), label = load<V>(y + i);
    V slope;
    const V rise = softplus<T>(x, &slope);
    store(losses + i, rise - x * label);
    store(logit + i, (slope - label) * weight);
  }
  for (int64_t i = 0; i < P && real != nullptr; ++i) {
    losses[i] *= real[i];
    logit[i] *= real[i];
  }
  double total = 0;
  for (int64_t i = 0; i < P; ++i) total += losses[i];
  return total;
}

template <class T>
bool is_real(const T* real, int64_t i) {
  return real == nullptr || real[i] != T(0);
}

// A list's logits by label, padded to whole vectors; without pairs that are not real.
template <class T>
struct ListSides {
  static constexpr int64_t kLanes = EKPNET_VECTOR_BYTES / sizeof(T);
  T positive[kListPairs + kLanes], negative[kListPairs + kLanes];
  int64_t positives = 0, negatives = 0;

  ListSides(int64_t P, const T* labels, const T* real, const T* logit) {
    for (int64_t i = 0; i < P; ++i)
      if (!is_real(real, i))
        continue;
      else if (labels[i] > T(0))
        positive[positives++] = logit[i];
      else
        negative[negatives++] = logit[i];
    for (int64_t i = positives; i < round_up(positives, kLanes); ++i) positive[i] = T(0);
    for (int64_t i = negatives; i < round_up(negatives, kLanes); ++i) negative[i] = T(0);
  }
};

// BPR (Rendle et al. 2009): of each positive, -log sigmoid(positive - negative), by the mean over
// the list's negatives.
template <class T>
double bpr(int64_t P, const T* labels, const T* real, T weight, T* logit) {
  using V = Vector<T>;
  constexpr int64_t kLanes = EKPNET_VECTOR_BYTES / sizeof(T);
  const ListSides<T> sides(P, labels, real, logit);
  const int64_t N = sides.negatives, padded = round_up(N, kLanes);
  T slopes[kListPairs + kLanes], terms[kLanes], dpositive[kListPairs];
  for (int64_t j = 0; j < padded; ++j) slopes[j] = T(0);
  double total = 0;
  for (int64_t i = 0; i < sides.positives && N > 0; ++i) {
    double drop = 0;
    for (int64_t j = 0; j < padded; j += kLanes) {
      V slope;
      store(terms, softplus<T>(load<V>(sides.negative + j) - sides.positive[i], &slope));
      store(slopes + j, load<V>(slopes + j) + slope);
      for (int64_t k = 0; k < kLanes && j + k < N; ++k) {
        total += terms[k];
        drop += slope[k];
      }
    }
    dpositive[i] = static_cast<T>(-drop * weight / N);
  }
  int64_t i = 0, j = 0;
  for (int64_t k = 0; k < P; ++k)
    if (N == 0 || !is_real(real, k))
      logit[k] = T(0);
    else
      logit[k] = labels[k] > T(0) ? dpositive[i++] : slopes[j++] * weight / N;
  return N > 0 ? total / N : 0;
}

// Sampled softmax: of each positive, its cross-entropy against the list's negatives, whose logits
// lack the logarithm of the probability that they were drawn with, of one draw; that of their
// number is added here.
template <class T>
double sampled_softmax(int64_t P, const T* labels, const T* real, T weight, T* logit) {
  using V = Vector<T>;
  constexpr int64_t kLanes = EKPNET_VECTOR_BYTES / sizeof(T);
  const ListSides<T> sides(P, labels, real, logit);
  const int64_t N = sides.negatives, positives = sides.positives;
  if (N == 0 || positives == 0) {
    for (int64_t k = 0; k < P; ++k) logit[k] = T(0);
    return 0;
  }
  T top = sides.negative[0];
  for (int64_t j = 1; j < N; ++j) top = Max()(top, sides.negative[j]);
  T share[kListPairs + kLanes], slopes[kListPairs + kLanes], terms[kListPairs + kLanes];
  double sum = 0, total = 0, slope_sum = 0;
  for (int64_t j = 0; j < N; j += kLanes)
    store(share + j, exp_nonpositive<T>(load<V>(sides.negative + j) - top));
  for (int64_t j = 0; j < N; ++j) sum += share[j];
  const T rest = static_cast<T>(top + __builtin_log(sum / N));
  for (int64_t i = 0; i < positives; i += kLanes) {
    V slope;
    store(terms + i, softplus<T>(rest - load<V>(sides.positive + i), &slope));
    store(slopes + i, slope);
  }
  for (int64_t i = 0; i < positives; ++i) {
    total += terms[i];
    slope_sum += slopes[i];
  }
  const T scale = static_cast<T>(slope_sum * weight / sum);
  int64_t i = 0, j = 0;
  for (int64_t k = 0; k < P; ++k)
    if (!is_real(real, k))
      logit[k] = T(0);
    else
      logit[k] = labels[k] > T(0) ? -slopes[i++] * weight : share[j++] * scale;
  return total;
}

// The loss of P pairs, their logits plus their offsets, if any; its gradient times `weight`
// replaces the logits. `real`, if given, is 0 for pairs that do not count.
template <class T>
double pair_loss(PairLoss loss, int64_t P, const T* labels, const T* offset, const T* real,
                 T weight, T* logit) {
  if (offset != nullptr)
    for (int64_t i = 0; i < P; ++i) logit[i] += offset[i];
  switch (loss) {
    case PairLoss::kBpr:
      return bpr(P, labels, real, weight, logit);
    case PairLoss::kSoftmax:
      return sampled_softmax(P, labels, real, weight, logit);
    default:
      return cross_entropy(P, labels, real, weight, logit);
  }
}

}  // namespace
}  // namespace ekpnet
