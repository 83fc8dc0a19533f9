// row_adam against plain loops.
#include "checks.h"
#include "cpu/dispatch.h"

namespace ekpnet::tests {
namespace {

template <class T>
void test(int D, double tolerance) {
  constexpr int E = 8, kSteps = 4;
  constexpr double lr = 0.05, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, l2 = 0.1;
  const auto kernel = of_type<T>(isa_kernels().row_adam_f32, isa_kernels().row_adam_f64);
  const std::string name =
      "row_adam, D " + std::to_string(D) + ", bytes " + std::to_string(sizeof(T));
  Reals<double> table = uniform(E * D, 31), m(E * D), v(E * D);
  Reals<T> table_found = as<T>(table), m_found(E * D), v_found(E * D);
  for (int step = 1; step <= kSteps; ++step) {
    // Row 3 is never named, and the others in turns; a negative one is skipped.
    const Ids rows = step % 2 ? Ids{6, 0, -1, 2} : Ids{7, 2, 1, 5};
    const Reals<double> grad = uniform(rows.size() * D, 40 + step);
    for (size_t i = 0; i < rows.size(); ++i)
      for (int d = 0; rows[i] >= 0 && d < D; ++d) {
        const int at = rows[i] * D + d;
        const double g = grad[i * D + d] + l2 * table[at];
        m[at] = beta1 * m[at] + (1 - beta1) * g;
        v[at] = beta2 * v[at] + (1 - beta2) * g * g;
        const double m_hat = m[at] / (1 - std::pow(beta1, step));
        const double v_hat = v[at] / (1 - std::pow(beta2, step));
        table[at] -= lr * m_hat / (std::sqrt(v_hat) + eps);
      }
    const auto grad_t = as<T>(grad);
    const AdamStep rule = {
        beta1, beta2, eps, lr / (1 - std::pow(beta1, step)), 1 / (1 - std::pow(beta2, step)), l2};
    const auto n = static_cast<int64_t>(rows.size());
    const RowAdamArgs<T> args = {
        n, D, table_found.data(), m_found.data(), v_found.data(), rows.data(), grad_t.data(), rule};
    kernel(args, 0, 2);
    kernel(args, 2, n);
  }
  check_close(table_found, table, tolerance, name + ", table");
  check_close(m_found, m, tolerance, name + ", m");
  check_close(v_found, v, tolerance, name + ", v");
  const auto untouched = as<T>(uniform(E * D, 31));
  check(std::equal(&untouched[3 * D], &untouched[4 * D], &table_found[3 * D]),
        name + ": a row that is not named changes");
}

}  // namespace

void test_row_adam() {
  for (int width : {5, 32}) {
    test<double>(width, 1e-12);
    test<float>(width, 1e-5);
  }
}

}  // namespace ekpnet::tests
