#include "cpu/row_adam_bf16.h"

#include <cmath>

#include "common/random_rounding.h"

namespace ekpnet {

void update_bf16_rows(const RowAdamBf16Args& args, int64_t begin, int64_t end) {
  const AdamStep& step = args.step;
  const float beta1 = static_cast<float>(step.beta1), beta2 = static_cast<float>(step.beta2);
  const float one_minus_beta1 = static_cast<float>(1 - step.beta1);
  const float one_minus_beta2 = static_cast<float>(1 - step.beta2);
  const float step_size = static_cast<float>(step.step_size), l2 = static_cast<float>(step.l2);
  const float rsqrt_correction2 = static_cast<float>(std::sqrt(step.scale2));
  const float eps = static_cast<float>(step.eps);
  for (int64_t i = begin; i < end; ++i) {
    if (args.rows[i] < 0) continue;
    const int64_t row = args.rows[i] * args.row_size;
    uint64_t random = 0;  // of the next four elements
    for (int64_t d = 0; d < args.row_size; ++d) {
      const int64_t at = row + d;
      random = d == 0 || at % 4 == 0 ? rounding_bits(args.stream, at) : random >> 16;
      const float x = widened(args.table[at]), g = args.grad[i * args.row_size + d] + l2 * x;
      const float m = args.m[at] = beta1 * args.m[at] + one_minus_beta1 * g;
      const float v = args.v[at] = beta2 * args.v[at] + one_minus_beta2 * g * g;
      const float moved = x - step_size * m / (std::sqrt(v) * rsqrt_correction2 + eps);
      args.table[at] = rounded_at_random(moved, random);
    }
  }
}

}  // namespace ekpnet
