// deep_score, forward and backward, against the plain prediction layers.
#include "cpu/dispatch.h"
#include "plain_model.h"

namespace ekpnet::tests {
namespace {

template <class T>
void test(Activation activation, int hidden, double tolerance, double grad_tolerance) {
  constexpr int K = 6, B = 37;  // more pairs than a block
  PlainLayers plain(K, hidden, activation);
  Reals<double> z = uniform(B * K, 11);
  const Reals<double> wlogit = uniform(B, 16);
  const auto logits = [&] {
    Reals<double> x(B);
    for (int b = 0; b < B; ++b) x[b] = plain.logit(&z[b * K]);
    return x;
  };
  const auto objective = [&] { return dot(logits().data(), wlogit.data(), B); };
  const int64_t L = hidden;
  const std::string name = "deep_score, activation " +
                           std::to_string(static_cast<int>(activation)) + ", hidden " +
                           std::to_string(hidden) + ", bytes " + std::to_string(sizeof(T));
  const auto z_t = as<T>(z), dlogit = as<T>(wlogit);
  const LayerInputs<T> inputs(plain, B, z_t.data());
  const auto& args = inputs.args;
  const auto& kernels = of_type<T>(isa_kernels().deep_score_f32, isa_kernels().deep_score_f64);
  Reals<T> workspace(kernels.workspace_size(args));
  Reals<T> logit(B, kUnset<T>), kept_logit(B, kUnset<T>), kept(B * L * K, kUnset<T>);
  kernels.forward(args, 0, 5, logit.data(), nullptr, workspace.data());
  kernels.forward(args, 5, B, logit.data(), nullptr, workspace.data());
  check_close(logit, logits(), tolerance, name + ", logit");
  kernels.forward(args, 0, B, kept_logit.data(), kept.data(), workspace.data());
  check_same_bits(kept_logit, logit, name + ", logits in pieces, or with hidden layers kept");

  constexpr int64_t kChunks = 2;
  Reals<T> dz(B * K, kUnset<T>), dweights(kChunks * L * K * K, kUnset<T>);
  Reals<T> dbiases(kChunks * L * K, kUnset<T>), dw_out(kChunks * K, kUnset<T>);
  Reals<T> db_out(kChunks, kUnset<T>);
  const DeepScoreGrads<T> grads = {dlogit.data(),   kept.data(),    dz.data(),     kChunks,
                                   dweights.data(), dbiases.data(), dw_out.data(), db_out.data()};
  for (int64_t chunk = 0; chunk < kChunks; ++chunk)
    kernels.backward(args, grads, chunk, workspace.data());
  check_slopes(dz, z, objective, grad_tolerance, name + ", dz");
  check_slopes(sum_chunks(dweights, kChunks), plain.weights, objective, grad_tolerance,
               name + ", dweights");
  check_slopes(sum_chunks(dbiases, kChunks), plain.biases, objective, grad_tolerance,
               name + ", dbiases");
  check_slopes(sum_chunks(dw_out, kChunks), plain.w_out, objective, grad_tolerance,
               name + ", dw_out");
  check_slopes(sum_chunks(db_out, kChunks), plain.b_out, objective, grad_tolerance,
               name + ", db_out");
}

}  // namespace

void test_deep_score() {
  for (auto activation : {Activation::kTanh, Activation::kRelu, Activation::kSigmoid})
    for (int hidden : {0, 2}) {
      test<double>(activation, hidden, 1e-12, 1e-6);
      test<float>(activation, hidden, 1e-5, 1e-4);
    }
}

}  // namespace ekpnet::tests
