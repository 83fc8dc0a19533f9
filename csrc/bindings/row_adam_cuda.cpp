// CUDA binding of row_adam_.
#include <utility>

#include "bindings/cuda_launch.h"
#include "bindings/row_adam.h"
#include "cuda/row_adam.h"

namespace ekpnet {
namespace {

void row_adam_cuda(Tensor table, Tensor m, Tensor v, const Tensor& rows, const Tensor& grad,
                   const Tensor& step, const Tensor& l2, double lr, double beta1, double beta2,
                   double eps, int64_t seed) {
  check_same_device(table, "table",
                    {{&std::as_const(m), "m"},
                     {&std::as_const(v), "v"},
                     {&rows, "rows"},
                     {&grad, "grad"},
                     {&step, "step"},
                     {&l2, "l2"}});
  check_rates(lr, beta1, beta2, eps);
  dispatch_storage(table, "table", [&](auto zero) {
    using S = decltype(zero);
    using A = Compute<S>;
    const int64_t size = check_row_adam(table, m, v, rows, grad, step, l2, kComputeDtype<S>);
    STD_TORCH_CHECK(rows.size(0) * size <= UINT32_MAX, "grad has ", rows.size(0) * size,
                    " elements, expected below 2^32");
    if (size % 4 == 0) {
      check_aligned<S>(table, "table");
      check_aligned<A>(m, "m");
      check_aligned<A>(v, "v");
      check_aligned<A>(grad, "grad");
    }
    const OnDevice device(table);
    launch_row_adam<S>({rows.size(0), size, table.size(0), mutable_data<S>(table),
                        mutable_data<A>(m), mutable_data<A>(v), data<int32_t>(rows), data<A>(grad),
                        data<int64_t>(step), data<double>(l2), lr, beta1, beta2, eps, seed},
                       device.stream);
    check_launch();
  });
}

}  // namespace
}  // namespace ekpnet

EKPNET_CUDA_OPS(m) { m.impl("row_adam_", TORCH_BOX(&ekpnet::row_adam_cuda)); }
