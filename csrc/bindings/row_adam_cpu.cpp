// CPU binding of row_adam_.
#include <algorithm>
#include <vector>

#include "bindings/checks.h"
#include "bindings/parallel.h"
#include "bindings/row_adam.h"
#include "cpu/dispatch.h"

namespace ekpnet {
namespace {

// Distinct rows of a table of n, or -1: of a row that came twice, threads would write one at a time
// what follows from neither gradient.
void check_rows(const int32_t* rows, int64_t count, int64_t n) {
  thread_local std::vector<uint64_t> kept_seen;  // a bit per row, all 0 between calls
  std::vector<uint64_t>& seen = kept_seen;
  seen.resize(std::max<size_t>(seen.size(), (n + 63) / 64));
  int64_t i = 0;
  bool twice = false;
  for (; i < count; ++i) {
    const int32_t row = rows[i];
    if (row < -1 || row >= n) break;
    if (row < 0) continue;
    const uint64_t bit = uint64_t{1} << (row % 64);
    twice = seen[row / 64] & bit;
    if (twice) break;
    seen[row / 64] |= bit;
  }
  for (int64_t k = 0; k < i; ++k)
    if (rows[k] >= 0) seen[rows[k] / 64] = 0;
  if (i == count) return;
  STD_TORCH_CHECK(!twice, "rows holds id ", rows[i], " at position ", i,
                  " once more, expected distinct rows");
  STD_TORCH_CHECK(false, "rows holds id ", rows[i], " at position ", i, ", expected 0 <= id < ", n,
                  " (rows of table), or -1 to skip");
}

template <class T>
void run(const Tensor& table, const Tensor& m, const Tensor& v, const Tensor& rows,
         const Tensor& grad, int64_t size, const AdamStep& step, RowAdamKernel<T> kernel) {
  const RowAdamArgs<T> args = {rows.size(0),           size,
                               mutable_data<T>(table), mutable_data<T>(m),
                               mutable_data<T>(v),     data<int32_t>(rows),
                               data<T>(grad),          step};
  const int64_t grain = 1 + (1 << 14) / std::max<int64_t>(size, 1);
  for_each_piece(args.num_rows, grain,
                 [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

void row_adam_cpu(Tensor table, Tensor m, Tensor v, const Tensor& rows, const Tensor& grad,
                  const Tensor& step, const Tensor& l2, double lr, double beta1, double beta2,
                  double eps) {
  const int64_t size = check_row_adam(table, m, v, rows, grad, step, l2, table.scalar_type());
  check_rates(lr, beta1, beta2, eps);
  check_rows(data<int32_t>(rows), rows.size(0), table.size(0));
  const AdamStep adam = adam_step(*data<int64_t>(step), lr, beta1, beta2, eps, *data<double>(l2));
  switch (table.scalar_type()) {
    case ScalarType::Float:
      return run<float>(table, m, v, rows, grad, size, adam, isa_kernels().row_adam_f32);
    case ScalarType::Double:
      return run<double>(table, m, v, rows, grad, size, adam, isa_kernels().row_adam_f64);
    default:
      STD_TORCH_CHECK(false, "table is ", dtype_name(table.scalar_type()),
                      ", expected float32 or float64");
  }
}

}  // namespace
}  // namespace ekpnet

STABLE_TORCH_LIBRARY_IMPL(ekpnet, CPU, m) { m.impl("row_adam_", TORCH_BOX(&ekpnet::row_adam_cpu)); }
