#include "cpu/strongest_products.h"

#include <algorithm>

namespace ekpnet {

ProductRows strongest_products(const StrongestProductsArgs& args, int64_t begin, int64_t end) {
  ProductRows found;
  std::vector<float> sums(args.num_columns, 0.0f);
  std::vector<uint8_t> met(args.num_columns, 0);
  std::vector<int32_t> columns;  // met in this row
  const auto stronger = [&](int32_t a, int32_t b) {
    return sums[a] > sums[b] || (sums[a] == sums[b] && a < b);
  };
  for (int64_t row = begin; row < end; ++row) {
    columns.clear();
    for (int64_t i = args.left.indptr[row]; i < args.left.indptr[row + 1]; ++i) {
      const int64_t k = args.left.columns[i];
      const float x = args.left.values[i];
      for (int64_t j = args.right.indptr[k]; j < args.right.indptr[k + 1]; ++j) {
        const int32_t column = args.right.columns[j];
        if (!met[column]) {
          met[column] = 1;
          columns.push_back(column);
        }
        sums[column] += x * args.right.values[j];
      }
    }
    const auto kept = static_cast<int64_t>(columns.size()) > args.count
                          ? columns.begin() + args.count
                          : columns.end();
    if (kept != columns.end()) std::nth_element(columns.begin(), kept, columns.end(), stronger);
    std::sort(columns.begin(), kept);
    for (auto column = columns.begin(); column != kept; ++column) {
      found.columns.push_back(*column);
      found.values.push_back(sums[*column]);
    }
    found.lengths.push_back(kept - columns.begin());
    for (const int32_t column : columns) {
      sums[column] = 0.0f;
      met[column] = 0;
    }
  }
  return found;
}

}  // namespace ekpnet
