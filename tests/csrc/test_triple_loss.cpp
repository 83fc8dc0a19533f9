// triple_loss, forward and backward, against plain loops.
#include "cpu/dispatch.h"
#include "plain_model.h"

namespace ekpnet::tests {
namespace {

template <class T>
void test(int channels, double tolerance, double grad_tolerance) {
  constexpr int n = 6, R = 2, D = 7;
  const int C = channels;
  const std::string name =
      "triple_loss, C " + std::to_string(C) + ", bytes " + std::to_string(sizeof(T));
  const PlainTriples plain{n, R, D, C};
  Reals<double> entity = uniform(n * C * D, 21), relation = uniform(R * C * D, 22);
  const auto objective = [&] { return plain.loss(entity, relation); };
  const auto entity_t = as<T>(entity), relation_t = as<T>(relation);
  const auto args = plain.args<T>(entity_t, relation_t);
  const auto& kernels = of_type<T>(isa_kernels().triple_loss_f32, isa_kernels().triple_loss_f64);
  const Reals<double> found = {kernels.forward(args, 0, 4) + kernels.forward(args, 4, plain.K)};
  check_close(found, {objective()}, tolerance, name);
  Reals<T> dentity(n * C * D), drelation(R * C * D);
  kernels.backward(args, T(1), dentity.data(), drelation.data());
  check_slopes(dentity, entity, objective, grad_tolerance, name + ", dentity");
  check_slopes(drelation, relation, objective, grad_tolerance, name + ", drelation");
}

}  // namespace

void test_triple_loss() {
  for (int channels : {1, 2}) {
    test<double>(channels, 1e-12, 1e-7);
    test<float>(channels, 1e-6, 1e-5);
  }
}

}  // namespace ekpnet::tests
