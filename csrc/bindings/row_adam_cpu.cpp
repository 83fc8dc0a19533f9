// CPU binding of row_adam_.
#include <algorithm>
#include <vector>

#include "bindings/checks.h"
#include "bindings/parallel.h"
#include "bindings/row_adam.h"
#include "common/random_rounding.h"
#include "cpu/dispatch.h"
#include "cpu/row_adam_bf16.h"

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

// Rows of a piece of work.
int64_t grain(int64_t size) { return 1 + (1 << 14) / std::max<int64_t>(size, 1); }

template <class T>
void run(const Tensor& table, const Tensor& m, const Tensor& v, const Tensor& rows,
         const Tensor& grad, int64_t size, const AdamStep& step, RowAdamKernel<T> kernel) {
  const RowAdamArgs<T> args = {rows.size(0),           size,
                               mutable_data<T>(table), mutable_data<T>(m),
                               mutable_data<T>(v),     data<int32_t>(rows),
                               data<T>(grad),          step};
  for_each_piece(args.num_rows, grain(size),
                 [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

void run_bf16(const Tensor& table, const Tensor& m, const Tensor& v, const Tensor& rows,
              const Tensor& grad, int64_t size, const AdamStep& step, uint64_t stream) {
  const RowAdamBf16Args args = {rows.size(0),
                                size,
                                mutable_data<Bf16>(table),
                                mutable_data<float>(m),
                                mutable_data<float>(v),
                                data<int32_t>(rows),
                                data<float>(grad),
                                step,
                                stream};
  for_each_piece(args.num_rows, grain(size),
                 [&](int64_t begin, int64_t end) { update_bf16_rows(args, begin, end); });
}

void row_adam_cpu(Tensor table, Tensor m, Tensor v, const Tensor& rows, const Tensor& grad,
                  const Tensor& step, const Tensor& l2, double lr, double beta1, double beta2,
                  double eps, int64_t seed) {
  const bool small = table.scalar_type() == ScalarType::BFloat16;
  const int64_t size = check_row_adam(table, m, v, rows, grad, step, l2,
                                      small ? ScalarType::Float : table.scalar_type());
  check_rates(lr, beta1, beta2, eps);
  check_rows(data<int32_t>(rows), rows.size(0), table.size(0));
  const AdamStep adam = adam_step(*data<int64_t>(step), lr, beta1, beta2, eps, *data<double>(l2));
  switch (table.scalar_type()) {
    case ScalarType::Float:
      return run<float>(table, m, v, rows, grad, size, adam, isa_kernels().row_adam_f32);
    case ScalarType::Double:
      return run<double>(table, m, v, rows, grad, size, adam, isa_kernels().row_adam_f64);
    case ScalarType::BFloat16:
      return run_bf16(table, m, v, rows, grad, size, adam,
                      rounding_stream(seed, *data<int64_t>(step)));
    default:
      STD_TORCH_CHECK(false, "table is ", dtype_name(table.scalar_type()),
                      ", expected float32, bfloat16 or float64");
  }
}

}  // namespace
}  // namespace ekpnet

STABLE_TORCH_LIBRARY_IMPL(ekpnet, CPU, m) { m.impl("row_adam_", TORCH_BOX(&ekpnet::row_adam_cpu)); }
