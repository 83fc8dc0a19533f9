// CPU bindings of the rows that processes share.
#include <optional>
#include <tuple>

#include "bindings/checks.h"
#include "cpu/shared_rows.h"

namespace ekpnet {
namespace {

constexpr int64_t kMostShards = 64;

std::tuple<Tensor, Tensor, Tensor, Tensor> place_rows_cpu(const Tensor& ids, const Tensor& lengths,
                                                          int64_t count, int64_t factor,
                                                          int64_t shards, int64_t processes) {
  check_tensor(ids, "ids", ScalarType::Int, {-1});
  check_tensor(lengths, "lengths", ScalarType::Long, {-1});
  check_range("count", count, 0, INT32_MAX);
  check_range("factor", factor, 1, INT32_MAX);
  check_range("shards", shards, 1, kMostShards);
  check_range("processes", processes, 1, shards);
  STD_TORCH_CHECK(shards % processes == 0, "shards is ", shards, ", expected a multiple of ",
                  processes, ", the processes");
  const int64_t N = ids.size(0), parts = lengths.size(0);
  check_range("the size of lengths", parts, 1, kMostShards);
  const int64_t* of_parts = data<int64_t>(lengths);
  int64_t left = N;
  for (int64_t part = 0; part < parts; ++part) {
    check_range("a length", of_parts[part], 0, left);
    left -= of_parts[part];
  }
  STD_TORCH_CHECK(left == 0, "lengths sum up to ", N - left, ", expected ", N, ", those of ids");
  check_ids(data<int32_t>(ids), N, count, "ids", "rows");
  Tensor rows = empty({N}, ScalarType::Int), order = empty({N}, ScalarType::Int);
  Tensor places = empty({N}, ScalarType::Int);
  Tensor counts = empty({processes, parts}, ScalarType::Int);
  place_rows({count, factor, shards, processes}, data<int32_t>(ids), of_parts, parts,
             {mutable_data<int32_t>(rows), mutable_data<int32_t>(order),
              mutable_data<int32_t>(places), mutable_data<int32_t>(counts)});
  return {rows, order, places, counts};
}

// Elements of a row of x, [n, ...] of the dtype.
int64_t row_size(const Tensor& x, const char* name, ScalarType dtype) {
  STD_TORCH_CHECK(x.scalar_type() == dtype, name, " is ", dtype_name(x.scalar_type()),
                  ", expected ", dtype_name(dtype));
  STD_TORCH_CHECK(x.dim() >= 1, name, " is a number, expected rows");
  STD_TORCH_CHECK(x.is_contiguous(), name, " is not contiguous; call .contiguous() first");
  int64_t size = 1;
  for (int64_t k = 1; k < x.dim(); ++k) size *= x.size(k);
  return size;
}

// `out` may be a message, which has no rows, but their elements one after the other.
void take_rows_cpu(Tensor out, const Tensor& table, const Tensor& rows) {
  dispatch_float(table, "table", [&](auto zero) {
    using T = decltype(zero);
    const int64_t size = row_size(table, "table", table.scalar_type());
    row_size(out, "out", table.scalar_type());
    check_tensor(rows, "rows", ScalarType::Int, {-1});
    const int64_t n = rows.size(0);
    check_ids(data<int32_t>(rows), n, table.size(0), "rows", "rows of table");
    STD_TORCH_CHECK(out.numel() == n * size, "out has ", out.numel(), " elements, expected ",
                    n * size, ", of ", n, " rows");
    take_rows<T>(mutable_data<T>(out), size, data<T>(table), data<int32_t>(rows), n);
  });
}

void add_rows_cpu(Tensor total, const Tensor& positions, const Tensor& rows,
                  const std::optional<Tensor>& picked) {
  dispatch_float(total, "total", [&](auto zero) {
    using T = decltype(zero);
    const int64_t size = row_size(total, "total", total.scalar_type());
    STD_TORCH_CHECK(row_size(rows, "rows", total.scalar_type()) == size, "rows has shape ",
                    shape_text(rows.sizes()), ", expected rows of ", size,
                    " elements, as of total");
    check_tensor(positions, "positions", ScalarType::Int, {-1});
    const int64_t n = positions.size(0);
    check_ids(data<int32_t>(positions), n, total.size(0), "positions", "rows of total");
    if (picked.has_value()) {
      check_tensor(*picked, "picked", ScalarType::Int, {n});
      check_ids(data<int32_t>(*picked), n, rows.size(0), "picked", "rows");
    } else {
      STD_TORCH_CHECK(rows.size(0) == n, "rows has shape ", shape_text(rows.sizes()), ", expected ",
                      n, " rows, as positions");
    }
    add_rows<T>(mutable_data<T>(total), size, data<int32_t>(positions), n, data<T>(rows),
                picked.has_value() ? data<int32_t>(*picked) : nullptr);
  });
}

Tensor square_norms_cpu(const Tensor& table, const Tensor& rows, const Tensor& starts) {
  return dispatch_float(table, "table", [&](auto zero) {
    using T = decltype(zero);
    const int64_t size = row_size(table, "table", table.scalar_type());
    check_tensor(rows, "rows", ScalarType::Int, {-1});
    const int64_t n = rows.size(0);
    check_ids(data<int32_t>(rows), n, table.size(0), "rows", "rows of table");
    check_tensor(starts, "starts", ScalarType::Long, {-1});
    const int64_t S = starts.size(0);
    const int64_t* first = data<int64_t>(starts);
    STD_TORCH_CHECK(S >= 1 && first[0] == 0, "starts is empty or does not start with 0");
    for (int64_t s = 1; s < S; ++s)
      STD_TORCH_CHECK(first[s] >= first[s - 1], "starts falls from ", first[s - 1], " to ",
                      first[s], " at position ", s);
    Tensor norms = empty({S}, ScalarType::Double);
    square_norms<T>(data<T>(table), size, data<int32_t>(rows), n, first, S,
                    mutable_data<double>(norms));
    return norms;
  });
}

}  // namespace
}  // namespace ekpnet

STABLE_TORCH_LIBRARY_IMPL(ekpnet, CPU, m) {
  m.impl("place_rows", TORCH_BOX(&ekpnet::place_rows_cpu));
  m.impl("take_rows_", TORCH_BOX(&ekpnet::take_rows_cpu));
  m.impl("add_rows_", TORCH_BOX(&ekpnet::add_rows_cpu));
  m.impl("square_norms", TORCH_BOX(&ekpnet::square_norms_cpu));
}
