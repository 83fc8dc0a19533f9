// The strongest entries of a product of two sparse matrices, row by row.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/isa/strongest.h"

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

// Room for a row with an entry for every column, for one thread at a time. It is made once for many
// rows: of a wide product with few entries it takes longer than a row.
class ProductRoom {
 public:
  explicit ProductRoom(const StrongestProductsArgs& args);

  // Appends rows [begin, end) of left right: of each the `count` largest entries, of equal ones
  // those of the lower columns, by rising column. Entries that no pair of factors meets are not
  // there, nor are those that as many meet as `full` has for their column.
  void append(int64_t begin, int64_t end, ProductRows& found);

 private:
  template <class F>
  void each_product(int64_t row, F f) const;
  int64_t products(int64_t row) const;
  int64_t meet_few(int64_t row);
  int64_t meet_many(int64_t row);
  int64_t collect(float floor);
  float likely_floor();

  const StrongestProductsArgs args_;
  const StrongestKernels& kernels_;
  std::vector<float> sums_;  // of the row; kNothing where nothing is
  std::vector<int32_t> counts_, columns_;
  std::vector<float> values_;
  std::vector<int32_t> keys_;
};

}  // namespace ekpnet
