// Batches and lists: touched rows, shuffles, the best items.
#include <set>
#include <tuple>

#include "checks.h"
#include "cpu/batching.h"
#include "cpu/top_items.h"

namespace ekpnet::tests {
namespace {

void test_localize_batch() {
  // Two users, H = 1, M = 2; user 1 has one valid slot.
  const Ids heads = {7, 9, 4, 0}, relations = {1, 0, 2, 0}, tails = {9, 3, 7, 0}, counts = {2, 1};
  const Ids users = {1, 0}, items = {5, 7}, extra = {8, 4};
  const BatchArgs args = {2,
                          2,
                          2,
                          1,
                          2,
                          heads.data(),
                          relations.data(),
                          tails.data(),
                          counts.data(),
                          users.data(),
                          items.data(),
                          extra.data()};
  Ids rows(12, -1), h(4, -1), r(4, -1), t(4, -1), c(2, -1), i(2, -1), x(2, -1);
  const int64_t n = localize_batch(
      args, 1, {rows.data(), h.data(), r.data(), t.data(), c.data(), i.data(), x.data()});
  rows.resize(n);
  check(rows == Ids{4, 7, 9, 3, 5, 8}, "localize_batch: rows in order of first appearance");
  check(h == Ids{0, 0, 1, 2} && r == Ids{2, 0, 1, 0} && t == Ids{1, 0, 2, 3},
        "localize_batch: ripple sets");
  check(c == Ids{1, 2} && i == Ids{4, 1} && x == Ids{5, 0}, "localize_batch: counts, items, extra");
}

// Three groups of one set, whose pairs are of folds 0 and 2, of fold 1, and none.
void test_localize_folds() {
  const Ids heads = {7, 9, 4, 0}, relations = {1, 0, 2, 0}, tails = {9, 3, 8, 0}, counts = {3};
  const Offsets slot_folds = {0b001, 0b010, 0b110, 0b111}, group_indptr = {0, 2, 3, 3};
  const Ids users = {0, 0, 0}, items = {5, 3, 7}, pair_folds = {2, 0, 1};
  const BatchArgs args = {3,
                          3,
                          0,
                          1,
                          4,
                          heads.data(),
                          relations.data(),
                          tails.data(),
                          counts.data(),
                          users.data(),
                          items.data(),
                          nullptr,
                          slot_folds.data(),
                          group_indptr.data(),
                          pair_folds.data()};
  Ids rows(27, -1), h(12, -1), r(12, -1), t(12, -1), c(3, -1), i(3, -1);
  Offsets f(12, -1);
  const int64_t n = localize_batch(
      args, 1, {rows.data(), h.data(), r.data(), t.data(), c.data(), i.data(), nullptr, f.data()});
  rows.resize(n);
  check(rows == Ids{7, 9, 4, 8, 3, 5}, "localize_batch, folds: rows");
  check(c == Ids{2, 2, 0} && h == Ids{0, 2, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0} &&
            r == Ids{1, 2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0} &&
            t == Ids{1, 3, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0},
        "localize_batch, folds: ripple sets");
  check(f == Offsets{1, 6, 0, 0, 2, 6, 0, 0, 0, 0, 0, 0}, "localize_batch, folds: what is seen");
  check(i == Ids{5, 4, 0}, "localize_batch, folds: items");
}

// A batch that is large enough for threads to share it.
void test_localize_by_threads() {
  constexpr int U = 700, H = 2, M = 32, kEntities = 20'000;
  const Ids heads = uniform_ids(U * H * M, kEntities, 1),
            tails = uniform_ids(U * H * M, kEntities, 2);
  const Ids relations = uniform_ids(U * H * M, 5, 3), counts = uniform_ids(U * H, M + 1, 4);
  const Ids users = uniform_ids(600, U, 5), items = uniform_ids(4000, kEntities, 6),
            extra = uniform_ids(9, 99, 7);
  const int64_t G = static_cast<int64_t>(users.size()), B = static_cast<int64_t>(items.size());
  const int64_t X = static_cast<int64_t>(extra.size());
  const BatchArgs args = {G,
                          B,
                          X,
                          H,
                          M,
                          heads.data(),
                          relations.data(),
                          tails.data(),
                          counts.data(),
                          users.data(),
                          items.data(),
                          extra.data()};
  const auto localized = [&](int64_t threads) {
    Ids rows(2 * G * H * M + B + X), h(G * H * M), r(G * H * M), t(G * H * M), c(G * H);
    Ids i(B), x(X);
    rows.resize(localize_batch(
        args, threads, {rows.data(), h.data(), r.data(), t.data(), c.data(), i.data(), x.data()}));
    return std::tuple(rows, h, r, t, c, i, x);
  };
  const auto alone = localized(1);
  const auto& [rows, h, r, t, c, i, x] = alone;
  check(std::set<int32_t>(rows.begin(), rows.end()).size() == rows.size(),
        "localize_batch: a row has two numbers");
  bool same = true;
  for (int64_t b = 0; b < B; ++b) same &= rows[i[b]] == items[b];
  for (int64_t hop = 0; hop < G * H; ++hop)
    for (int64_t m = 0; m < c[hop]; ++m)
      same &= rows[t[hop * M + m]] == tails[(users[hop / H] * H + hop % H) * M + m];
  check(same, "localize_batch: a position names another row");
  for (int64_t threads : {2, 5})
    check(localized(threads) == alone, "localize_batch: threads change the result");
}

void test_shuffles() {
  const Offsets indptr = {0, 4, 4, 10};
  Offsets order(10, -1);
  shuffle_user_pairs(indptr.data(), 5, 1, 0, 1, order.data());
  shuffle_user_pairs(indptr.data(), 5, 1, 1, 3, order.data());
  for (int u = 0; u < 3; ++u) {
    Offsets mine(order.begin() + indptr[u], order.begin() + indptr[u + 1]);
    std::sort(mine.begin(), mine.end());
    for (size_t k = 0; k < mine.size(); ++k)
      check(mine[k] == indptr[u] + static_cast<int64_t>(k), "shuffle_user_pairs: no permutation");
  }
  Offsets all(50, -1);
  shuffle(5, 1, 50, all.data());
  check(!std::is_sorted(all.begin(), all.end()), "shuffle: nothing moved");
  check(std::set<int64_t>(all.begin(), all.end()).size() == 50, "shuffle: no permutation");
}

void test_top_items() {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const Reals<float> scores = {1, 3, 3, kNan, 2, 5, 4, 3, 2, 1};
  const Offsets seen_indptr = {0, 1, 4};
  const Ids seen = {4, 0, 1, 2};
  Ids items(8, -7);
  const TopItemsArgs args = {2, 5, 4, scores.data(), seen_indptr.data(), seen.data()};
  top_items(args, 0, 2, items.data());
  check(items == Ids{1, 2, 0, 3, 3, 4, -1, -1}, "top_items: order, ties, NaN, seen, too few");
}

// Against a sort of all items; scores are of few values, so ties decide.
void test_top_items_of_many() {
  constexpr int kUsers = 3, I = 700, K = 40;
  Reals<float> scores(kUsers * I);
  for (size_t i = 0; i < scores.size(); ++i)
    scores[i] = static_cast<float>(bounded(random_bits(61, i), 50)) - 25;
  const Offsets seen_indptr = {0, 0, 4, 4};
  const Ids seen = {0, 17, 300, 699};
  Ids items(kUsers * K, -7), expected;
  const TopItemsArgs args = {kUsers, I, K, scores.data(), seen_indptr.data(), seen.data()};
  top_items(args, 0, 2, items.data());
  top_items(args, 2, 3, items.data());
  for (int u = 0; u < kUsers; ++u) {
    Ids ranking;
    for (int i = 0; i < I; ++i)
      if (u != 1 || !std::binary_search(seen.begin(), seen.end(), i)) ranking.push_back(i);
    std::sort(ranking.begin(), ranking.end(), [&](int a, int b) {
      return std::pair(-scores[u * I + a], a) < std::pair(-scores[u * I + b], b);
    });
    expected.insert(expected.end(), ranking.begin(), ranking.begin() + K);
  }
  check(items == expected, "top_items: not the first of the sorted items");
}

}  // namespace

void test_batching() {
  test_localize_batch();
  test_localize_folds();
  test_localize_by_threads();
  test_shuffles();
  test_top_items();
  test_top_items_of_many();
}

}  // namespace ekpnet::tests
