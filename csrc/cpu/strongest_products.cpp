#include "cpu/strongest_products.h"

#include <algorithm>
#include <functional>

namespace ekpnet {
namespace {

// One row of the product at a time.
class ProductRow {
 public:
  explicit ProductRow(const StrongestProductsArgs& args)
      : args_(args),
        sums_(args.num_columns, 0.0f),
        met_(args.num_columns, 0),
        counts_(args.full != nullptr ? args.num_columns : 0, 0) {}

  // Sums the row, appends the entries that are kept to `found`, and forgets it.
  void append(int64_t row, ProductRows& found) {
    // Many products meet most columns: then all are looked at, in order, and none is listed.
    const bool many = 8 * products(row) >= args_.num_columns;
    columns_.clear();
    each_product(row, [&](int32_t column, float x) {
      if (!many && !met_[column]) columns_.push_back(column);
      met_[column] = 1;
      sums_[column] += x;
    });
    if (many)
      for (int64_t column = 0; column < args_.num_columns; ++column)
        if (met_[column]) columns_.push_back(static_cast<int32_t>(column));
    if (args_.full != nullptr) leave_out_full(row);
    const int64_t length = keep(many);
    for (int64_t i = 0; i < length; ++i) {
      found.columns.push_back(kept_[i]);
      found.values.push_back(sums_[kept_[i]]);
    }
    found.lengths.push_back(length);
    for (const int32_t column : columns_) {
      sums_[column] = 0.0f;
      met_[column] = 0;
    }
  }

 private:
  template <class F>
  void each_product(int64_t row, F f) const {
    for (int64_t i = args_.left.indptr[row]; i < args_.left.indptr[row + 1]; ++i) {
      const int64_t k = args_.left.columns[i];
      const float x = args_.left.values[i];
      for (int64_t j = args_.right.indptr[k]; j < args_.right.indptr[k + 1]; ++j)
        f(args_.right.columns[j], x * args_.right.values[j]);
    }
  }

  // Forgets the columns that as many products meet as `full` has for them.
  void leave_out_full(int64_t row) {
    each_product(row, [&](int32_t column, float) { ++counts_[column]; });
    int64_t n = 0;
    for (const int32_t column : columns_) {
      if (counts_[column] < args_.full[column]) {
        columns_[n++] = column;
      } else {
        sums_[column] = 0.0f;
        met_[column] = 0;
      }
      counts_[column] = 0;
    }
    columns_.resize(n);
  }

  int64_t products(int64_t row) const {
    int64_t n = 0;
    for (int64_t i = args_.left.indptr[row]; i < args_.left.indptr[row + 1]; ++i) {
      const int64_t k = args_.left.columns[i];
      n += args_.right.indptr[k + 1] - args_.right.indptr[k];
    }
    return n;
  }

  // Puts the strongest columns into kept_, rising; returns their number.
  int64_t keep(bool in_order) {
    const int64_t length = std::min<int64_t>(columns_.size(), args_.count);
    if (length == static_cast<int64_t>(columns_.size())) {
      kept_ = columns_;
      if (!in_order) std::sort(kept_.begin(), kept_.end());
      return length;
    }
    values_.clear();
    for (const int32_t column : columns_) values_.push_back(sums_[column]);
    std::nth_element(values_.begin(), values_.begin() + length - 1, values_.end(),
                     std::greater<>());
    const float bar = values_[length - 1];
    kept_.clear();
    int64_t above = 0;
    for (const int32_t column : columns_) {
      if (sums_[column] < bar) continue;
      kept_.push_back(column);
      above += sums_[column] > bar;
    }
    if (!in_order) std::sort(kept_.begin(), kept_.end());
    int64_t equal = length - above, n = 0;  // of those at the bar the first
    for (const int32_t column : kept_)
      if (sums_[column] > bar || equal-- > 0) kept_[n++] = column;
    return n;
  }

  const StrongestProductsArgs& args_;
  std::vector<float> sums_;
  std::vector<uint8_t> met_;
  std::vector<int32_t> counts_, columns_, kept_;
  std::vector<float> values_;
};

}  // namespace

ProductRows strongest_products(const StrongestProductsArgs& args, int64_t begin, int64_t end) {
  ProductRows found;
  ProductRow product(args);
  for (int64_t row = begin; row < end; ++row) product.append(row, found);
  return found;
}

}  // namespace ekpnet
