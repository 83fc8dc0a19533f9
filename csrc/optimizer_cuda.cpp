// CUDA binding of row_adam_.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <utility>

#include "checks.h"
#include "cuda/row_adam.h"
#include "optimizer.h"

namespace ekpnet {
namespace {

template <class T>
void run(const Tensor& table, const Tensor& m, const Tensor& v, const Tensor& rows,
         const Tensor& grad, int64_t size, const AdamStep& step) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(table.get_device_index(), &stream));
  launch_row_adam<T>({rows.size(0), size, mutable_data<T>(table), mutable_data<T>(m),
                      mutable_data<T>(v), data<int32_t>(rows), data<T>(grad), step},
                     static_cast<cudaStream_t>(stream));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

void row_adam_cuda(Tensor table, Tensor m, Tensor v, const Tensor& rows, const Tensor& grad,
                   int64_t step, double lr, double beta1, double beta2, double eps, double l2) {
  const int64_t size = check_row_adam(table, m, v, rows, grad);
  for (const Tensor* tensor : {&std::as_const(m), &std::as_const(v), &rows, &grad})
    STD_TORCH_CHECK(tensor->is_cuda() && tensor->get_device_index() == table.get_device_index(),
                    "m, v, rows and grad must be on the table's device");
  const AdamStep adam = adam_step(step, lr, beta1, beta2, eps, l2);
  const torch::stable::accelerator::DeviceGuard guard(table.get_device_index());
  switch (table.scalar_type()) {
    case ScalarType::Float:
      return run<float>(table, m, v, rows, grad, size, adam);
    case ScalarType::Double:
      return run<double>(table, m, v, rows, grad, size, adam);
    default:
      STD_TORCH_CHECK(false, "table is ", dtype_name(table.scalar_type()),
                      ", expected float32 or float64");
  }
}

}  // namespace
}  // namespace ekpnet

STABLE_TORCH_LIBRARY_IMPL(ekpnet, CUDA, m) {
  m.impl("row_adam_", TORCH_BOX(&ekpnet::row_adam_cuda));
}
