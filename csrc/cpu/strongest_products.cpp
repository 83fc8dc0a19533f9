#include "cpu/strongest_products.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/dispatch.h"

namespace ekpnet {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr int64_t kSampled = 512;  // sums that the smallest of the strongest is estimated from
// Rows of the right factor whose cache misses are under way, and entries of each.
constexpr int64_t kAhead = 2, kFetched = 64;

float plus(float sum, float product) { return (sum + product) + 0.0f; }

}  // namespace

ProductRoom::ProductRoom(const StrongestProductsArgs& args)
    : args_(args),
      kernels_(isa_kernels().strongest),
      sums_(args.num_columns, kNothing),
      counts_(args.full != nullptr ? args.num_columns : 0, 0),
      columns_(args.num_columns + kSlack),
      values_(args.num_columns + kSlack),
      keys_(args.num_columns + kSlack) {}

void ProductRoom::append(int64_t begin, int64_t end, ProductRows& found) {
  for (int64_t row = begin; row < end; ++row) {
    // Many products meet most columns: then all are looked at, in order, and none is listed.
    const bool many = kernels_.columns_of_product * products(row) >= args_.num_columns;
    const int64_t n = many ? meet_many(row) : meet_few(row);
    const int64_t length = std::min(n, args_.count);
    kernels_.keep(n, length, columns_.data(), values_.data(), keys_.data());
    found.columns.insert(found.columns.end(), columns_.begin(), columns_.begin() + length);
    found.values.insert(found.values.end(), values_.begin(), values_.begin() + length);
    found.lengths.push_back(length);
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

// Sums a row of few products. The first of `columns_` and `values_`, rising, are the columns that
// they meet, but for full ones, and their sums; returns their number.
int64_t ProductRoom::meet_few(int64_t row) {
  float* sums = sums_.data();
  int32_t* columns = columns_.data();
  int64_t n = 0;
  each_product(row, [&](int32_t column, float x) {
    const float sum = sums[column];
    columns[n] = column;
    n += !is_met(sum);
    sums[column] = plus(sum, x);
  });
  if (args_.full != nullptr) {
    each_product(row, [&](int32_t column, float) { ++counts_[column]; });
    int64_t left = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int32_t column = columns[i];
      if (counts_[column] < args_.full[column])
        columns[left++] = column;
      else
        sums[column] = kNothing;
      counts_[column] = 0;
    }
    n = left;
  }
  std::sort(columns, columns + n);
  for (int64_t i = 0; i < n; ++i) {
    values_[i] = sums[columns[i]];
    sums[columns[i]] = kNothing;
  }
  return n;
}

// Sums a row of many products. The first of `columns_` and `values_`, rising, are those of its
// strongest entries and some more; returns their number.
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
  int64_t n = collect(floor);
  if (n < args_.count && floor > kLowest) n = collect(kLowest);
  std::fill(sums_.begin(), sums_.end(), kNothing);
  return n;
}

int64_t ProductRoom::collect(float floor) {
  return kernels_.collect(sums_.data(), args_.num_columns, floor, columns_.data(), values_.data());
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
  for (int64_t i = 0; i < sampled; ++i) {
    const float sum = sums_[i * every];
    values_[i] = is_met(sum) ? sum : kLowest;
  }
  return kernels_.reached_by(sampled, above + 1, values_.data(), keys_.data());
}

}  // namespace ekpnet
