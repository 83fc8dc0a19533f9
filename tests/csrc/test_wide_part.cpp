// The wide part's kernels and the sparse products against plain loops.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "checks.h"
#include "cpu/dispatch.h"
#include "cpu/strongest_products.h"

namespace ekpnet::tests {
namespace {

// Rows with about every `every`-th column, and values of either sign.
struct Rows {
  Offsets indptr{0};
  Ids columns;
  Reals<float> values;

  Rows(int n, int m, int every, uint64_t key) {
    for (int row = 0; row < n; ++row) {
      for (int column = 0; column < m; ++column) {
        const uint64_t bits = random_bits(key, row * m + column);
        if (bits % every) continue;
        columns.push_back(column);
        values.push_back(static_cast<float>(bits >> 40) / (1 << 24) - 0.2f);
      }
      indptr.push_back(columns.size());
    }
  }
  SparseRows view() const {
    return {static_cast<int64_t>(indptr.size()) - 1, indptr.data(), columns.data(), values.data()};
  }
  double at(int row, int column) const {
    for (int64_t i = indptr[row]; i < indptr[row + 1]; ++i)
      if (columns[i] == column) return values[i];
    return 0;
  }
};

// Without what as many pairs meet as `full` has for a column; `full` 0: with all.
void test_products(int every, int full = 0) {
  constexpr int N = 9, K = 30, M = 60, kKept = 12;
  const Rows a(N, K, every, 50), b(K, M, every, 51);
  const Ids fulls(M, full);
  const StrongestProductsArgs args = {a.view(), b.view(), M, kKept, full ? fulls.data() : nullptr};
  ProductRoom room(args);
  ProductRows found;
  room.append(0, 2, found);  // which leave nothing behind
  found = {};
  room.append(2, N, found);
  const std::string name = "strongest_products, every " + std::to_string(every);
  int64_t at = 0;
  check(found.lengths.size() == N - 2, name + ": rows");
  for (int row = 2; row < N; ++row) {
    std::map<int, float> sums;  // in the order in which the kernel adds
    std::map<int, int> meetings;
    for (int64_t i = a.indptr[row]; i < a.indptr[row + 1]; ++i)
      for (int64_t j = b.indptr[a.columns[i]]; j < b.indptr[a.columns[i] + 1]; ++j)
        ++meetings[b.columns[j]], sums[b.columns[j]] += a.values[i] * b.values[j];
    std::vector<std::pair<float, int>> order;
    for (const auto& [column, x] : sums)
      if (!full || meetings[column] < full) order.emplace_back(-x, column);
    std::sort(order.begin(), order.end());
    order.resize(std::min<size_t>(order.size(), kKept));
    std::sort(order.begin(), order.end(), [](auto x, auto y) { return x.second < y.second; });
    check(found.lengths[row - 2] == static_cast<int64_t>(order.size()), name + ": length");
    for (const auto& [x, column] : order) {
      check(found.columns[at] == column, name + ": column");
      check(std::fabs(found.values[at] + x) < 1e-6, name + ": value");
      ++at;
    }
  }
}

// The largest of n values on `levels` levels, half of them negative, some of them not met.
void test_strongest(int n, int levels) {
  const auto& kernels = isa_kernels().strongest;
  const std::string name = "strongest of " + std::to_string(n);
  Reals<float> sums;
  for (int i = 0; i < n; ++i) {
    const uint64_t bits = random_bits(60, i);
    sums.push_back(bits % 5 ? static_cast<float>(bits % levels) - levels / 2 : kNothing);
  }
  for (const float floor : {-std::numeric_limits<float>::infinity(), 0.0f, 1.0f}) {
    std::vector<std::pair<float, int>> order;
    for (int i = 0; i < n; ++i)
      if (is_met(sums[i]) && sums[i] >= floor) order.emplace_back(-sums[i], i);
    Ids columns(n + kSlack), keys(n + kSlack);
    Reals<float> values(n + kSlack);
    const int64_t met = kernels.collect(sums.data(), n, floor, columns.data(), values.data());
    check(met == static_cast<int64_t>(order.size()), name + ": met");
    for (size_t i = 0; i < order.size(); ++i)
      check(columns[i] == order[i].second && values[i] == -order[i].first, name + ": collected");
    std::sort(order.begin(), order.end());
    const int64_t count = (met + 2) / 3;
    if (count == 0) continue;
    const float bar = kernels.reached_by(met, count, values.data(), keys.data());
    const auto reach = std::count_if(order.begin(), order.end(),
                                     [&](const auto& entry) { return -entry.first >= bar; });
    check(reach >= count && (reach == count || -order[count - 1].first == bar), name + ": bar");
    order.resize(count);
    std::sort(order.begin(), order.end(), [](auto x, auto y) { return x.second < y.second; });
    kernels.keep(met, count, columns.data(), values.data(), keys.data());
    for (int64_t i = 0; i < count; ++i)
      check(columns[i] == order[i].second && values[i] == -order[i].first, name + ": kept");
  }
}

void test_sparse_times_dense() {
  constexpr int N = 7, K = 20, kWidth = 21;
  const Rows a(N, K, 3, 52);
  const auto x = as<float>(uniform(K * kWidth, 53));
  Reals<float> y(N * kWidth, kUnset<float>);
  Reals<double> expected(N * kWidth);
  for (int row = 0; row < N; ++row)
    for (int k = 0; k < K; ++k)
      for (int d = 0; d < kWidth; ++d)
        expected[row * kWidth + d] += a.at(row, k) * x[k * kWidth + d];
  const auto kernel = isa_kernels().sparse_product;
  const SparseProductArgs args = {kWidth,          a.indptr.data(), a.columns.data(),
                                  a.values.data(), x.data(),        y.data()};
  kernel(args, 0, 3);
  kernel(args, 3, N);
  check_close(y, expected, 1e-5, "sparse_product");
}

// Coefficients w of every item i on its neighbours N meet (G_NN + weight) w = G_Ni.
void test_local_ridge(int every, bool square) {
  constexpr int I = 45;
  constexpr double kWeight = 3;
  const Rows clicks(80, I, 2, 54), chosen(I, I, every, 55);
  Rows gram(I, I, 1, 56);
  for (int i = 0; i < I; ++i)
    for (int j = 0; j < I; ++j) {
      double sum = 0;
      for (int u = 0; u < 80; ++u) sum += clicks.at(u, i) * clicks.at(u, j);
      gram.values[i * I + j] = static_cast<float>(sum);
    }
  Reals<float> ranked(I * I);
  Ids rank;
  for (int i = 0; i < I; ++i) rank.push_back((7 * i + 3) % I);
  for (int i = 0; i < I; ++i)
    for (int j = 0; j < I; ++j) ranked[rank[i] * I + rank[j]] = gram.values[i * I + j];
  Offsets indptr{0};
  Ids neighbours;
  for (int i = 0; i < I; ++i) {
    for (int64_t k = chosen.indptr[i]; k < chosen.indptr[i + 1]; ++k)
      if (chosen.columns[k] != i) neighbours.push_back(chosen.columns[k]);
    indptr.push_back(neighbours.size());
  }
  const LocalRidgeArgs args = {I,
                               gram.indptr.data(),
                               gram.columns.data(),
                               gram.values.data(),
                               square ? ranked.data() : nullptr,
                               rank.data(),
                               indptr.data(),
                               neighbours.data(),
                               kWeight};
  const auto& kernels = isa_kernels().local_ridge;
  Reals<float> workspace(kernels.workspace_size(I, I), kUnset<float>);
  Reals<float> found(neighbours.size(), kUnset<float>);
  kernels.fit(args, 0, 20, found.data(), workspace.data());
  kernels.fit(args, 20, I, found.data(), workspace.data());
  Reals<double> left, right;
  for (int i = 0; i < I; ++i)
    for (int64_t k = indptr[i]; k < indptr[i + 1]; ++k) {
      double sum = kWeight * found[k];
      for (int64_t l = indptr[i]; l < indptr[i + 1]; ++l)
        sum += gram.values[neighbours[k] * I + neighbours[l]] * found[l];
      left.push_back(sum);
      right.push_back(gram.values[neighbours[k] * I + i]);
    }
  check_close(left, right, 1e-4, "local_ridge, every " + std::to_string(every));
}

// Affinities of every kind: neighbours, few or many; all items by all; columns of vectors; users.
void test_wide_part(int every) {
  constexpr int I = 530, U = 90, G = 5, kWidth = 13, N = 9, P = 3;
  const Rows near(I, I, every, 60), dense(I, I, 2, 61);
  Reals<float> square(I * I);
  for (int j = 0; j < I; ++j)
    for (int64_t k = dense.indptr[j]; k < dense.indptr[j + 1]; ++k)
      square[j * I + dense.columns[k]] = dense.values[k];
  const auto vectors = as<float>(uniform(I * kWidth, 62));
  Reals<float> transposed(I * kWidth);
  for (int i = 0; i < I; ++i)
    for (int d = 0; d < kWidth; ++d) transposed[d * I + i] = vectors[i * kWidth + d];
  const Offsets history_indptr = {0, 3, 3, 10, 11, 20};
  Ids history(20);
  for (int i = 0; i < 20; ++i) history[i] = (i * 37) % I;
  const auto means = as<float>(uniform(4 * I, 63)), user_means = as<float>(uniform(U, 67));
  const Rows of_users(U, I, every, 68), near_users(G, U, 5, 69);
  const AffinitySource sources[] = {
      {AffinitySource::kNeighbours, near.indptr.data(), near.columns.data(), near.values.data(), 0,
       nullptr},
      {AffinitySource::kDense, nullptr, nullptr, square.data(), I, nullptr},
      {AffinitySource::kVectors, nullptr, nullptr, vectors.data(), kWidth, transposed.data()},
      {AffinitySource::kUsers, of_users.indptr.data(), of_users.columns.data(),
       of_users.values.data(), 0, nullptr}};
  const Affinity affinities[] = {{0, 0, 0, means.data()},
                                 {1, 0, 0, means.data() + I},
                                 {2, 0, 5, means.data() + 2 * I},
                                 {2, 0, kWidth, means.data() + 3 * I},
                                 {3, 0, 0, user_means.data()}};
  const auto knots = as<float>(uniform(N * (P + 1), 64)), slopes = as<float>(uniform(N * P, 65));
  Reals<float> rising = knots;
  for (int r = 0; r < N; ++r) std::sort(&rising[r * (P + 1)], &rising[r * (P + 1)] + P + 1);
  Response responses[N];
  const int of[N] = {0, 0, 1, 2, 3, 3, 4, 4, 4};
  const int scales[N] = {0, 1, 2, 0, 1, 3, 0, 1, 2};
  for (int r = 0; r < N; ++r)
    responses[r] = {static_cast<Response::Scale>(scales[r]),
                    of[r],
                    0.1f + r,
                    0.5f,
                    &rising[r * (P + 1)],
                    &slopes[r * P]};
  const auto terms = as<float>(uniform(I, 66));
  const WideArgs args = {I,
                         history_indptr.data(),
                         history.data(),
                         near_users.indptr.data(),
                         near_users.columns.data(),
                         near_users.values.data(),
                         4,
                         sources,
                         5,
                         affinities,
                         N,
                         responses,
                         P,
                         terms.data()};

  Reals<double> features(N * G * I), logits(G * I);
  for (int g = 0; g < G; ++g)
    for (int i = 0; i < I; ++i) {
      const int n = history_indptr[g + 1] - history_indptr[g];
      const double share = n ? 1 / std::sqrt(n) : 0;
      double a[5] = {}, mean[5] = {}, of_history[kWidth] = {};
      for (int64_t at = history_indptr[g]; at < history_indptr[g + 1]; ++at) {
        const int j = history[at];
        a[0] += near.at(j, i);
        a[1] += square[j * I + i];
        for (int d = 0; d < kWidth; ++d) {
          const double x = vectors[j * kWidth + d] * vectors[i * kWidth + d];
          a[3] += x;
          of_history[d] += vectors[j * kWidth + d];
          if (d < 5) a[2] += x;
        }
        for (int k = 0; k < 4; ++k) mean[k] += means[k * I + j];
      }
      for (int64_t at = near_users.indptr[g]; at < near_users.indptr[g + 1]; ++at) {
        const int user = near_users.columns[at];
        a[4] += near_users.values[at] * of_users.at(user, i);
        mean[4] += near_users.values[at] * user_means[user];
      }
      double squares = 0;
      for (double x : of_history) squares += x * x;
      logits[g * I + i] = terms[i];
      for (int r = 0; r < N; ++r) {
        const double scale[] = {1, std::sqrt(n), 1 / (std::max(mean[of[r]] * share, 0.0) + 0.5)};
        const double x =
            scales[r] == 3
                ? a[of[r]] * share / std::sqrt(std::sqrt(squares) * share + 0.5)
                : std::log(std::max(a[of[r]], 0.0) * share * scale[scales[r]] + responses[r].added);
        features[r * G * I + g * I + i] = x;
        for (int p = 0; p < P; ++p) {
          const float* knot = responses[r].knots;
          double y = x;
          if (p > 0) y = std::max<double>(y, knot[p]);
          if (p + 1 < P) y = std::min<double>(y, knot[p + 1]);
          logits[g * I + i] += responses[r].slopes[p] * (y - knot[p]);
        }
      }
    }

  const auto& kernels = isa_kernels().wide_part;
  Reals<float> workspace(kernels.workspace_size(args), kUnset<float>);
  const std::string name = "wide part, every " + std::to_string(every);
  Reals<float> found(G * I, kUnset<float>);
  kernels.catalogue_logits(args, 0, 2, found.data(), workspace.data());
  kernels.catalogue_logits(args, 2, G, found.data(), workspace.data());
  check_close(found, logits, 2e-4, name + ", catalogue");
  Offsets ends(G + 1);
  std::iota(ends.begin(), ends.end(), 0);
  for (auto& end : ends) end *= I;
  Ids items(G * I);
  for (int b = 0; b < G * I; ++b) items[b] = b % I;
  const WidePairs pairs = {G * I, ends.data(), items.data()};
  found.assign(G * I, kUnset<float>);
  kernels.pair_logits(args, pairs, 0, 3, found.data(), workspace.data());
  kernels.pair_logits(args, pairs, 3, G, found.data(), workspace.data());
  check_close(found, logits, 2e-4, name + ", pairs");
  found.assign(N * G * I, kUnset<float>);
  kernels.features(args, pairs, 0, G, found.data(), workspace.data());
  check_close(found, features, 2e-4, name + ", features");
  // Few pairs of a group are looked up, one by one.
  const Offsets few_ends = {0, 1, 2, 2, 3, 4};
  const Ids few = {17, 3, 529, 0};
  const WidePairs some = {4, few_ends.data(), few.data()};
  found.assign(4, kUnset<float>);
  kernels.pair_logits(args, some, 0, G, found.data(), workspace.data());
  check_close(found, {logits[17], logits[I + 3], logits[3 * I + 529], logits[4 * I]}, 2e-4,
              name + ", few pairs");
}

}  // namespace

void test_wide_part() {
  for (int every : {2, 7}) {
    test_products(every);
    test_products(every, 3);
  }
  for (int n : {1, 15, 16, 17, 300})
    for (int levels : {2, 9, 1 << 20}) test_strongest(n, levels);
  test_sparse_times_dense();
  for (int every : {1, 20})
    for (bool square : {false, true}) test_local_ridge(every, square);
  for (int every : {3, 90}) test_wide_part(every);
}

}  // namespace ekpnet::tests
