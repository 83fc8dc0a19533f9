// CPU bindings of the products of sparse matrices.
#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/checks.h"
#include "bindings/parallel.h"
#include "cpu/dispatch.h"
#include "cpu/strongest_products.h"

namespace ekpnet {
namespace {

// A sparse matrix whose columns are within [0, columns).
SparseRows sparse_rows(const Tensor& indptr, const Tensor& columns, const Tensor& values,
                       int64_t limit, const char* name) {
  check_tensor(indptr, name, ScalarType::Long, {-1});
  STD_TORCH_CHECK(indptr.size(0) >= 1, name, " has no entries, expected a 0 at least");
  check_tensor(columns, name, ScalarType::Int, {-1});
  const int64_t n = indptr.size(0) - 1, entries = columns.size(0);
  check_tensor(values, name, ScalarType::Float, {entries});
  check_indptr(data<int64_t>(indptr), n, entries, name);
  check_ids(data<int32_t>(columns), entries, limit, name, "columns");
  return {n, data<int64_t>(indptr), data<int32_t>(columns), data<float>(values)};
}

std::tuple<Tensor, Tensor, Tensor> strongest_products_cpu(
    const Tensor& left_indptr, const Tensor& left_columns, const Tensor& left_values,
    const Tensor& right_indptr, const Tensor& right_columns, const Tensor& right_values,
    int64_t num_columns, int64_t count, const std::optional<Tensor>& full) {
  STD_TORCH_CHECK(count >= 1, "count is ", count, ", expected at least 1");
  check_range("num_columns", num_columns, 0, INT32_MAX);
  const SparseRows right =
      sparse_rows(right_indptr, right_columns, right_values, num_columns, "right");
  const SparseRows left =
      sparse_rows(left_indptr, left_columns, left_values, right.num_rows, "left");
  if (full.has_value()) check_tensor(*full, "full", ScalarType::Int, {num_columns});
  const StrongestProductsArgs args = {left, right, num_columns, count,
                                      full.has_value() ? data<int32_t>(*full) : nullptr};
  constexpr int64_t kRows = 64;
  const int64_t n = left.num_rows, chunks = (n + kRows - 1) / kRows;
  std::vector<ProductRows> found(chunks);
  std::mutex mutex;
  std::vector<std::unique_ptr<ProductRoom>> free;  // of as many as work at a time
  for_each_chunk(chunks, [&](int64_t chunk) {
    std::unique_ptr<ProductRoom> room;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!free.empty()) {
        room = std::move(free.back());
        free.pop_back();
      }
    }
    if (!room) room = std::make_unique<ProductRoom>(args);
    room->append(chunk * kRows, std::min(n, (chunk + 1) * kRows), found[chunk]);
    const std::lock_guard<std::mutex> lock(mutex);
    free.push_back(std::move(room));
  });
  Tensor indptr = empty({n + 1}, ScalarType::Long);
  int64_t* ends = mutable_data<int64_t>(indptr);
  *ends = 0;
  for (const auto& rows : found)
    for (const int64_t length : rows.lengths) {
      ends[1] = ends[0] + length;
      ++ends;
    }
  Tensor columns = empty({*ends}, ScalarType::Int), values = empty({*ends}, ScalarType::Float);
  const int64_t* begins = data<int64_t>(indptr);
  int32_t* out_columns = mutable_data<int32_t>(columns);
  float* out_values = mutable_data<float>(values);
  for_each_chunk(chunks, [&](int64_t chunk) {
    ProductRows& rows = found[chunk];
    std::copy(rows.columns.begin(), rows.columns.end(), out_columns + begins[chunk * kRows]);
    std::copy(rows.values.begin(), rows.values.end(), out_values + begins[chunk * kRows]);
    rows = {};
  });
  return {indptr, columns, values};
}

Tensor sparse_product_cpu(const Tensor& indptr, const Tensor& columns, const Tensor& values,
                          const Tensor& x) {
  check_tensor(x, "x", ScalarType::Float, {-1, -1});
  const SparseRows matrix = sparse_rows(indptr, columns, values, x.size(0), "columns");
  const int64_t r = x.size(1);
  Tensor y = empty({matrix.num_rows, r}, ScalarType::Float);
  const SparseProductArgs args = {
      r, matrix.indptr, matrix.columns, matrix.values, data<float>(x), mutable_data<float>(y)};
  const auto kernel = isa_kernels().sparse_product;
  for_each_piece(matrix.num_rows, 64,
                 [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  return y;
}

// Square matrix [I, I] with its zeros; row and column rank[i] are i's.
Tensor whole(const SparseRows& rows, const std::vector<int32_t>& rank) {
  const int64_t I = rows.num_rows;
  Tensor out = empty({I, I}, ScalarType::Float);
  float* values = mutable_data<float>(out);
  for_each_piece(I, 64, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      float* row = values + rank[n] * I;
      std::fill(row, row + I, 0.0f);
      for (int64_t k = rows.indptr[n]; k < rows.indptr[n + 1]; ++k)
        row[rank[rows.columns[k]]] = rows.values[k];
    }
  });
  return out;
}

// Rank [I] of each item, those first that are neighbours of the most items: what they share is then
// in a corner of the Gram matrix that stays in a cache.
std::vector<int32_t> by_use(const int32_t* neighbours, int64_t n, int64_t I) {
  std::vector<int32_t> uses(I, 0), order(I), rank(I);
  for (int64_t k = 0; k < n; ++k) ++uses[neighbours[k]];
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return uses[a] > uses[b]; });
  for (int64_t r = 0; r < I; ++r) rank[order[r]] = static_cast<int32_t>(r);
  return rank;
}

Tensor local_ridge_cpu(const Tensor& gram_indptr, const Tensor& gram_items,
                       const Tensor& gram_values, const Tensor& indptr, const Tensor& neighbours,
                       double weight) {
  STD_TORCH_CHECK(weight > 0 && weight < 1e30, "weight is ", weight, ", expected above 0");
  check_tensor(indptr, "indptr", ScalarType::Long, {-1});
  const int64_t I = indptr.size(0) - 1;
  const SparseRows gram = sparse_rows(gram_indptr, gram_items, gram_values, I, "gram");
  STD_TORCH_CHECK(gram.num_rows == I, "gram has ", gram.num_rows, " rows, expected ", I);
  check_tensor(neighbours, "neighbours", ScalarType::Int, {-1});
  const int64_t* ends = data<int64_t>(indptr);
  check_indptr(ends, I, neighbours.size(0), "indptr");
  check_ids(data<int32_t>(neighbours), neighbours.size(0), I, "neighbours", "items");
  int64_t most = 0;
  for (int64_t i = 0; i < I; ++i) {
    most = std::max(most, ends[i + 1] - ends[i]);
    for (int64_t k = ends[i] + 1; k < ends[i + 1]; ++k)
      STD_TORCH_CHECK(data<int32_t>(neighbours)[k - 1] < data<int32_t>(neighbours)[k],
                      "neighbours falls or stays at position ", k,
                      ", expected them rising for an item");
  }
  Tensor out = empty({neighbours.size(0)}, ScalarType::Float);
  // Rows of many entries are not looked through for each of their few neighbours.
  constexpr int64_t kSquare = int64_t{1} << 24, kMany = 16;
  Tensor square;
  std::vector<int32_t> rank;
  if (I * I <= kSquare && gram.indptr[I] * kMany > I * I) {
    rank = by_use(data<int32_t>(neighbours), neighbours.size(0), I);
    square = whole(gram, rank);
  }
  const LocalRidgeArgs args = {I,
                               gram.indptr,
                               gram.columns,
                               gram.values,
                               square.defined() ? data<float>(square) : nullptr,
                               rank.data(),
                               ends,
                               data<int32_t>(neighbours),
                               weight};
  const auto& kernels = isa_kernels().local_ridge;
  const int64_t workspace = kernels.workspace_size(I, most);
  float* coefficients = mutable_data<float>(out);
  for_each_piece(I, 32, [&](int64_t begin, int64_t end) {
    kernels.fit(args, begin, end, coefficients, thread_buffer<float>(workspace));
  });
  return out;
}

}  // namespace
}  // namespace ekpnet

STABLE_TORCH_LIBRARY_IMPL(ekpnet, CPU, m) {
  m.impl("strongest_products", TORCH_BOX(&ekpnet::strongest_products_cpu));
  m.impl("local_ridge", TORCH_BOX(&ekpnet::local_ridge_cpu));
  m.impl("sparse_product", TORCH_BOX(&ekpnet::sparse_product_cpu));
}
