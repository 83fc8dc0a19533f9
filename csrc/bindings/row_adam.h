// Argument checks that the row optimizer shares between devices.
#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include "bindings/checks.h"
#include "common/row_adam_args.h"

namespace ekpnet {

inline AdamStep adam_step(int64_t step, double lr, double beta1, double beta2, double eps,
                          double l2) {
  STD_TORCH_CHECK(step >= 1, "step is ", step, ", expected at least 1");
  check_rate("l2", l2);
  return {beta1, beta2, eps, lr / (1 - std::pow(beta1, step)), 1 / (1 - std::pow(beta2, step)), l2};
}

// Numbers that torch's Adam refuses too.
inline void check_rates(double lr, double beta1, double beta2, double eps) {
  check_rate("lr", lr);
  check_rate("eps", eps);
  for (const auto& [beta, name] : {std::pair(beta1, "beta1"), std::pair(beta2, "beta2")})
    STD_TORCH_CHECK(beta >= 0 && beta < 1, name, " is ", beta, ", expected 0 <= ", name, " < 1");
}

// Elements of a row; m and v have the table's shape and `moment`, rows [n] int32, grad [n, row]
// `moment` too, step [] int64, l2 [] float64.
inline int64_t check_row_adam(const Tensor& table, const Tensor& m, const Tensor& v,
                              const Tensor& rows, const Tensor& grad, const Tensor& step,
                              const Tensor& l2, ScalarType moment) {
  STD_TORCH_CHECK(table.dim() >= 1 && table.is_contiguous(),
                  "table must be contiguous with at least one dimension");
  for (const auto& [tensor, name] : {std::pair(&m, "m"), std::pair(&v, "v")})
    STD_TORCH_CHECK(
        tensor->scalar_type() == moment &&
            shape_text(tensor->sizes()) == shape_text(table.sizes()) && tensor->is_contiguous(),
        name, " has shape ", shape_text(tensor->sizes()), " of ", dtype_name(tensor->scalar_type()),
        ", expected ", shape_text(table.sizes()), " of ", dtype_name(moment), ", contiguous");
  check_tensor(rows, "rows", ScalarType::Int, {-1});
  const int64_t size = table.size(0) == 0 ? 0 : table.numel() / table.size(0);
  std::vector<int64_t> grad_shape = {rows.size(0)};
  for (int64_t i = 1; i < table.dim(); ++i) grad_shape.push_back(table.size(i));
  STD_TORCH_CHECK(grad.scalar_type() == moment &&
                      shape_text(grad.sizes()) == shape_text(grad_shape) && grad.is_contiguous(),
                  "grad has shape ", shape_text(grad.sizes()), " of ",
                  dtype_name(grad.scalar_type()), ", expected ", shape_text(grad_shape), " of ",
                  dtype_name(moment), ", contiguous");
  check_tensor(step, "step", ScalarType::Long, {});
  check_tensor(l2, "l2", ScalarType::Double, {});
  return size;
}

}  // namespace ekpnet
