// The strongest entries of a product of two sparse matrices, row by row.
#pragma once

#include <cstdint>
#include <vector>

namespace ekpnet {

// Sparse matrix in compressed rows; columns may stand in any order.
struct SparseRows {
  int64_t num_rows;
  const int64_t* indptr;  // [num_rows + 1]
  const int32_t* columns;
  const float* values;
};

struct StrongestProductsArgs {
  SparseRows left;      // [n, K]
  SparseRows right;     // [K, I]
  int64_t num_columns;  // I
  int64_t count;        // entries that a row keeps at most
  const int32_t* full;  // [I], products of an entry that is left out; null for none
};

// Rows of the product: their lengths, and the entries of one row after the other.
struct ProductRows {
  std::vector<int64_t> lengths;
  std::vector<int32_t> columns;
  std::vector<float> values;
};

// Rows [begin, end) of left right: of each the `count` largest entries, of equal ones those of the
// lower columns, by rising column. Entries that no pair of factors meets are not there, nor are
// those that as many meet as `full` has for their column.
ProductRows strongest_products(const StrongestProductsArgs& args, int64_t begin, int64_t end);

}  // namespace ekpnet
