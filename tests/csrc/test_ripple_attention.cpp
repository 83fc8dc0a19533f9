// ripple_attention, forward and backward, against the plain model.
#include "cpu/dispatch.h"
#include "plain_model.h"

namespace ekpnet::tests {
namespace {

template <class T>
void test(int width, int channels, double tolerance, double grad_tolerance, size_t slopes) {
  PlainAttention plain(width, channels);
  const int D = width, C = channels, H = plain.H, M = plain.M, n = plain.n, R = plain.R;
  const size_t B = plain.B, slots = plain.heads.size();
  const std::string name = "attention, D " + std::to_string(D) + ", C " + std::to_string(C) +
                           ", bytes " + std::to_string(sizeof(T));
  const AttentionInputs<T> inputs(plain);
  const auto& args = inputs.args;
  const auto& kernels = of_type<T>(isa_kernels().attention_f32, isa_kernels().attention_f64);
  Reals<T> workspace(kernels.workspace_size(args));

  Reals<double> z, match, alphas;
  plain.forward(z, match, alphas);
  struct Found {
    Reals<T> z, match, alpha;
  };
  // Cut where threads may cut, also inside a group.
  const auto forward = [&](const Offsets& cuts) {
    Found found = {Reals<T>(z.size(), kUnset<T>), Reals<T>(B, kUnset<T>),
                   Reals<T>(B * H * M, kUnset<T>)};
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      kernels.forward(args, cuts[i], cuts[i + 1], found.z.data(), found.match.data(),
                      workspace.data());
      kernels.weights(args, cuts[i], cuts[i + 1], found.alpha.data(), workspace.data());
    }
    return found;
  };
  const Found whole = forward({0, 24}), cut = forward({0, 1, 7, 24});
  check_close(whole.z, z, tolerance, name + ", z");
  check_close(whole.match, match, tolerance, name + ", match");
  check_close(whole.alpha, alphas, tolerance, name + ", weights");
  check_same_bits(cut.z, whole.z, name + ", z in pieces");
  check_same_bits(cut.match, whole.match, name + ", match in pieces");
  check_same_bits(cut.alpha, whole.alpha, name + ", weights in pieces");

  // The gradient of a scalar of both outputs.
  const Reals<double> wz = uniform(z.size(), 9), wmatch = uniform(B, 10);
  const auto objective = [&] {
    Reals<double> some_z, some_match, some_alphas;
    plain.forward(some_z, some_match, some_alphas);
    return dot(some_z.data(), wz.data(), static_cast<int>(wz.size())) +
           dot(some_match.data(), wmatch.data(), static_cast<int>(B));
  };
  constexpr int64_t kChunks = 3;
  const auto dz = as<T>(wz), dmatch = as<T>(wmatch);
  Reals<T> parts(2 * slots * part_size<T>(D), kUnset<T>), ditem(B * D, kUnset<T>);
  Reals<T> drelation, dW_e(kChunks * D * D, kUnset<T>), db_e(kChunks * D, kUnset<T>);
  const auto backward = [&](int64_t threads) {
    RowReferences references;
    references.sort(row_ids(args), kChunks, threads);
    check((references.num_ranges() > 1) == (threads > 1), name + ": ranges of rows");
    drelation.assign(kChunks * R * C * D, 0);
    const AttentionGrads<T> grads = {dz.data(),        dmatch.data(), &references,
                                     parts.data(),     ditem.data(),  kChunks,
                                     drelation.data(), dW_e.data(),   db_e.data()};
    for (int64_t chunk = 0; chunk < kChunks; ++chunk)
      kernels.backward(args, grads, chunk, workspace.data());
    Reals<T> dentity(n * C * D, kUnset<T>);
    for (int64_t range = references.num_ranges() - 1; range >= 0; --range)
      kernels.scatter(args, grads, range, dentity.data());
    return dentity;
  };
  const Reals<T> dentity = backward(1);
  check_same_bits(backward(3), dentity, name + ", dentity by three threads");
  check_slopes(dentity, plain.entity, objective, grad_tolerance, name + ", dentity", slopes);
  check_slopes(sum_chunks(drelation, kChunks), plain.relation, objective, grad_tolerance,
               name + ", drelation", slopes);
  check_slopes(sum_chunks(dW_e, kChunks), plain.W_e, objective, grad_tolerance, name + ", dW_e",
               slopes);
  check_slopes(sum_chunks(db_e, kChunks), plain.b_e, objective, grad_tolerance, name + ", db_e",
               slopes);
}

}  // namespace

void test_ripple_attention() {
  // 4, 8, 16 and 32 are the common widths; slopes cost the more, the wider rows are.
  constexpr size_t kAll = -1;
  for (int channels : {1, 2}) {
    for (int width : {1, 4, 6}) {
      test<double>(width, channels, 1e-12, 1e-6, kAll);
      test<float>(width, channels, 2e-5, 1e-3, kAll);
    }
    for (int width : {8, 16, 17, 32}) test<float>(width, channels, 2e-5, 1e-3, 512 / width);
    test<double>(17, channels, 1e-12, 1e-6, 64);
  }
}

}  // namespace ekpnet::tests
