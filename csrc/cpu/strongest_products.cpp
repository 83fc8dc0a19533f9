#include "cpu/strongest_products.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

namespace ekpnet {
namespace {

// A sum of nothing. No sum of products is -0, because `plus` adds 0 to each: -0 + 0 = 0.
constexpr float kNothing = -0.0f;
constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr int64_t kSampled = 512;  // sums that the smallest of the strongest is estimated from
// Rows of the right factor whose cache misses are under way, and entries of each.
constexpr int64_t kAhead = 2, kFetched = 64;

bool met(float sum) { return std::bit_cast<uint32_t>(sum) != 0x80000000u; }

float plus(float sum, float product) { return (sum + product) + 0.0f; }

}  // namespace

ProductRoom::ProductRoom(const StrongestProductsArgs& args)
    : args_(args),
      sums_(args.num_columns, kNothing),
      counts_(args.full != nullptr ? args.num_columns : 0, 0),
      columns_(args.num_columns + 1) {}

void ProductRoom::append(int64_t begin, int64_t end, ProductRows& found) {
  for (int64_t row = begin; row < end; ++row) {
    // Many products meet most columns: then all are looked at, in order, and none is listed.
    const bool many = 8 * products(row) >= args_.num_columns;
    const int64_t n = many ? meet_many(row) : meet_few(row);
    keep(n, many, found);
    if (many)
      std::fill(sums_.begin(), sums_.end(), kNothing);
    else
      for (int64_t i = 0; i < n; ++i) sums_[columns_[i]] = kNothing;
  }
}

// f(column, product) over the products of a row.
template <class F>
void ProductRoom::each_product(int64_t row, F f) const {
  for (int64_t i = args_.left.indptr[row]; i < args_.left.indptr[row + 1]; ++i) {
    const int64_t k = args_.left.columns[i], end = args_.right.indptr[k + 1];
    const float x = args_.left.values[i];
    if (i + kAhead < args_.left.indptr[row + 1]) {
      const int64_t next = args_.right.indptr[args_.left.columns[i + kAhead]];
      for (int64_t j = next; j < next + kFetched; j += 16) {
        __builtin_prefetch(args_.right.columns + j);
        __builtin_prefetch(args_.right.values + j);
      }
    }
    for (int64_t j = args_.right.indptr[k]; j < end; ++j)
      f(args_.right.columns[j], x * args_.right.values[j]);
  }
}

int64_t ProductRoom::products(int64_t row) const {
  int64_t n = 0;
  for (int64_t i = args_.left.indptr[row]; i < args_.left.indptr[row + 1]; ++i) {
    const int64_t k = args_.left.columns[i];
    n += args_.right.indptr[k + 1] - args_.right.indptr[k];
  }
  return n;
}

// Sums a row of few products. The columns that they meet, but for full ones, are the first of
// `columns_`, in any order; returns their number.
int64_t ProductRoom::meet_few(int64_t row) {
  float* sums = sums_.data();
  int32_t* columns = columns_.data();
  int64_t n = 0;
  each_product(row, [&](int32_t column, float x) {
    const float sum = sums[column];
    columns[n] = column;
    n += !met(sum);
    sums[column] = plus(sum, x);
  });
  if (args_.full == nullptr) return n;
  int64_t left = 0;
  each_product(row, [&](int32_t column, float) { ++counts_[column]; });
  for (int64_t i = 0; i < n; ++i) {
    const int32_t column = columns[i];
    if (counts_[column] < args_.full[column])
      columns[left++] = column;
    else
      sums[column] = kNothing;
    counts_[column] = 0;
  }
  return left;
}

// Sums a row of many products. The first of `columns_`, rising, are those of its strongest entries
// and some more; returns their number.
int64_t ProductRoom::meet_many(int64_t row) {
  float* sums = sums_.data();
  each_product(row, [&](int32_t column, float x) { sums[column] = plus(sums[column], x); });
  if (args_.full != nullptr) {
    each_product(row, [&](int32_t column, float) { ++counts_[column]; });
    for (int64_t column = 0; column < args_.num_columns; ++column) {
      if (counts_[column] >= args_.full[column]) sums[column] = kNothing;
      counts_[column] = 0;
    }
  }
  const float floor = likely_floor();
  const int64_t n = collect(floor);
  return n < args_.count && floor > kLowest ? collect(kLowest) : n;
}

// Puts the columns that are met, with a sum of `floor` or more, in front of `columns_`, rising.
int64_t ProductRoom::collect(float floor) {
  const float* sums = sums_.data();
  int32_t* columns = columns_.data();
  int64_t n = 0;
  const auto list = [&](auto wanted) {
    for (int64_t column = 0; column < args_.num_columns; ++column) {
      columns[n] = static_cast<int32_t>(column);
      n += wanted(sums[column]);
    }
  };
  // From 0 up floats are in the order of their bits, below which, as integers, are all others.
  const auto bits = std::bit_cast<int32_t>(floor);
  if (floor > 0)
    list([&](float sum) { return std::bit_cast<int32_t>(sum) >= bits; });
  else
    list([&](float sum) { return met(sum) & !(sum < floor); });
  return n;
}

// Sum that most likely `count` of the row's entries have or exceed, and not many more; from evenly
// spread ones.
float ProductRoom::likely_floor() {
  const int64_t every = std::max<int64_t>(args_.num_columns / kSampled, 1);
  const int64_t sampled = args_.num_columns / every;
  const double expected = static_cast<double>(args_.count) * sampled / args_.num_columns;
  const double likely = expected + 3 * std::sqrt(expected) + 2;
  if (!(likely < static_cast<double>(sampled))) return kLowest;  // or there are no columns
  const auto above = static_cast<int64_t>(likely);
  values_.clear();
  for (int64_t i = 0; i < sampled; ++i) {
    const float sum = sums_[i * every];
    values_.push_back(met(sum) ? sum : kLowest);
  }
  std::nth_element(values_.begin(), values_.begin() + above, values_.end(), std::greater<>());
  return values_[above];
}

// Appends the strongest of the first n of `columns_`, rising.
void ProductRoom::keep(int64_t n, bool in_order, ProductRows& found) {
  const int64_t length = std::min(n, args_.count);
  float bar = kLowest;
  int64_t equal = n;  // of those at the bar the first
  if (length < n) {
    values_.resize(n);
    for (int64_t i = 0; i < n; ++i) values_[i] = sums_[columns_[i]];
    std::nth_element(values_.begin(), values_.begin() + length - 1, values_.end(),
                     std::greater<>());
    bar = values_[length - 1];
    equal = length - std::count_if(values_.begin(), values_.begin() + length,
                                   [&](float x) { return x > bar; });
  }
  kept_.resize(n);
  int64_t left = 0;
  for (int64_t i = 0; i < n; ++i) {
    kept_[left] = columns_[i];
    left += !(sums_[columns_[i]] < bar);
  }
  if (!in_order) std::sort(kept_.begin(), kept_.begin() + left);
  const int64_t before = found.columns.size(), most = before + length;
  found.columns.resize(most);
  found.values.resize(most);
  int64_t end = before;
  for (int64_t i = 0; i < left && end < most; ++i) {
    const float sum = sums_[kept_[i]];
    found.columns[end] = kept_[i];
    found.values[end] = sum;
    end += sum > bar || equal-- > 0;
  }
  found.columns.resize(end);
  found.values.resize(end);
  found.lengths.push_back(end - before);
}

}  // namespace ekpnet
