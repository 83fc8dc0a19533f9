// ekpnet_gradients: the loss of a mini-batch (eq. 24) and its gradients, against the plain model.

#include "cpu/dispatch.h"
#include "cpu/team.h"
#include "plain_model.h"

namespace ekpnet::tests {
namespace {

constexpr int64_t kChunks = 3, kTripleChunks = 2;
constexpr double kPairWeight = 0.25, kTripleWeight = 0.125;

struct PlainLoss {
  PlainAttention attention;
  bool deep;
  PlainLayers layers;
  PlainTriples triples;
  Reals<double> labels = Reals<double>(attention.B), offset = uniform(attention.B, 51);

  PlainLoss(int D, int C, bool with_layers, bool with_folds)
      : attention(D, C),
        deep(with_layers),
        layers((attention.H + 1) * D, 1, Activation::kTanh),
        triples{attention.n, attention.R, D, C} {
    for (size_t b = 0; b < labels.size(); b += 2) labels[b] = 1;
    if (!with_folds) return;
    // Fold 2 sees nothing of the first hop.
    attention.pair_folds = uniform_ids(attention.B, 3, 54);
    for (int32_t bits : uniform_ids(attention.heads.size(), 8, 55))
      attention.slot_folds.push_back(bits);
    for (size_t slot = 0; slot < attention.slot_folds.size(); ++slot)
      if (slot / attention.M % attention.H == 0) attention.slot_folds[slot] &= 3;
  }

  // The pairs' cross-entropy, summed.
  double cross_entropy() const {
    Reals<double> z, match, alphas;
    attention.forward(z, match, alphas);
    double total = 0;
    for (int b = 0; b < attention.B; ++b) {
      const double x = (deep ? layers.logit(&z[b * layers.K]) : match[b]) + offset[b];
      total += std::log1p(std::exp(-std::fabs(x))) + std::max(x, 0.0) - x * labels[b];
    }
    return total;
  }
  double triple_loss() const { return triples.loss(attention.entity, attention.relation); }
  double objective() const { return kPairWeight * cross_entropy() + kTripleWeight * triple_loss(); }
};

// Everything that the kernels write.
template <class T>
struct Results {
  RowReferences references;
  Reals<T> parts, ditem, drelation, dW_e, db_e;
  Reals<T> dweights, dbiases, dw_out, db_out, dtriple, dentity;
  std::vector<uint8_t> touched;
  Reals<double> pairs, kg;

  explicit Results(const PlainLoss& plain)
      : parts(2 * plain.attention.heads.size() * part_size<T>(plain.attention.D), kUnset<T>),
        ditem(plain.attention.B * plain.attention.D, kUnset<T>),
        drelation(kChunks * plain.attention.relation.size()),
        dW_e(kChunks * plain.attention.W_e.size(), kUnset<T>),
        db_e(kChunks * plain.attention.D, kUnset<T>),
        dweights(kChunks * plain.layers.weights.size(), kUnset<T>),
        dbiases(kChunks * plain.layers.biases.size(), kUnset<T>),
        dw_out(kChunks * plain.layers.K, kUnset<T>),
        db_out(kChunks, kUnset<T>),
        dtriple(plain.triples.K * plain.attention.D, kUnset<T>),
        dentity(plain.attention.entity.size(), kUnset<T>),
        touched(kChunks * plain.attention.R),
        pairs(kChunks, kUnset<double>),
        kg(kTripleChunks, kUnset<double>) {}

  EkpnetSums<T> sums() {
    return {{nullptr, nullptr, &references, parts.data(), ditem.data(), kChunks, drelation.data(),
             dW_e.data(), db_e.data()},
            {nullptr, nullptr, nullptr, kChunks, dweights.data(), dbiases.data(), dw_out.data(),
             db_out.data()},
            kTripleChunks,
            dtriple.data(),
            touched.data(),
            pairs.data(),
            kg.data()};
  }
};

template <class T>
const auto& kernels() {
  return of_type<T>(isa_kernels().ekpnet_f32, isa_kernels().ekpnet_f64);
}

template <class T>
Results<T> results(const PlainLoss& plain, const EkpnetArgs<T>& args, int threads) {
  Results<T> found(plain);
  const EkpnetSums<T> sums = found.sums();
  found.references.sort(row_ids(args.attention), kChunks, threads);
  const int64_t all = sums.attention.num_chunks + sums.triple_chunks;
  Chunks chunks(all, threads);
  auto work = [&](int64_t slot) {
    Reals<T> workspace(kernels<T>().workspace_size(args));
    kernels<T>().chunks(args, sums, chunks, slot, workspace.data());
  };
  run_team(all, threads, Work(work));
  for (int64_t range = 0; range < found.references.num_ranges(); ++range)
    kernels<T>().scatter(args, sums, range, found.dentity.data());
  return found;
}

template <class T>
void check_same_results(const Results<T>& found, const Results<T>& expected,
                        const std::string& name) {
  const auto same = [&](const auto member, const std::string& what) {
    check_same_bits(found.*member, expected.*member, name + ", three threads, " + what);
  };
  same(&Results<T>::dentity, "dentity");
  same(&Results<T>::drelation, "drelation");
  same(&Results<T>::dW_e, "dW_e");
  same(&Results<T>::db_e, "db_e");
  same(&Results<T>::dweights, "dweights");
  same(&Results<T>::dbiases, "dbiases");
  same(&Results<T>::dw_out, "dw_out");
  same(&Results<T>::db_out, "db_out");
  same(&Results<T>::dtriple, "dtriple");
  same(&Results<T>::touched, "touched");
  same(&Results<T>::pairs, "pairs");
  same(&Results<T>::kg, "kg");
}

template <class T>
void test(int D, int C, bool deep, bool folds, double tolerance, double grad_tolerance,
          size_t slopes) {
  const std::string name = "ekpnet_gradients, D " + std::to_string(D) + ", C " + std::to_string(C) +
                           (deep ? ", deep" : "") + (folds ? ", folds" : "") + ", bytes " +
                           std::to_string(sizeof(T));
  PlainLoss plain(D, C, deep, folds);
  PlainAttention& attention = plain.attention;
  const AttentionInputs<T> inputs(attention);
  const LayerInputs<T> layers(plain.layers, attention.B, nullptr);
  const auto labels = as<T>(plain.labels), offset = as<T>(plain.offset);
  EkpnetArgs<T> args = {inputs.args,    deep,
                        layers.args,    labels.data(),
                        offset.data(),  plain.triples.args<T>(inputs.entity, inputs.relation),
                        T(kPairWeight), T(kTripleWeight)};
  if (folds) args.folds = {attention.slot_folds.data(), attention.pair_folds.data(), 3};
  const Results<T> found = results<T>(plain, args, 1);
  check_same_results(results<T>(plain, args, 3), found, name);

  check_close(sum_chunks(found.pairs, kChunks), {plain.cross_entropy()}, tolerance,
              name + ", pairs");
  check_close(sum_chunks(found.kg, kTripleChunks), {plain.triple_loss()}, tolerance, name + ", kg");
  std::vector<uint8_t> named(attention.R), touched(attention.R);
  for (int hop = 0; hop < attention.G * attention.H; ++hop)
    for (int m = 0; m < attention.counts[hop]; ++m)
      named[attention.relations[hop * attention.M + m]] = 1;
  for (size_t i = 0; i < found.touched.size(); ++i) touched[i % attention.R] |= found.touched[i];
  check(touched == named, name + ": touched relations");

  const auto f = [&] { return plain.objective(); };
  const auto slopes_of = [&](const Reals<T>& gradient, Reals<double>& x, const std::string& what) {
    check_slopes(gradient, x, f, grad_tolerance, name + ", " + what, slopes);
  };
  slopes_of(found.dentity, attention.entity, "dentity");
  Reals<T> drelation = sum_chunks(found.drelation, kChunks);
  for (int k = 0; k < plain.triples.K; ++k)
    for (int d = 0; d < D; ++d)
      drelation[plain.triples.relations[k] * C * D + d] += found.dtriple[k * D + d];
  slopes_of(drelation, attention.relation, "drelation");
  slopes_of(sum_chunks(found.dW_e, kChunks), attention.W_e, "dW_e");
  slopes_of(sum_chunks(found.db_e, kChunks), attention.b_e, "db_e");
  if (!deep) return;
  slopes_of(sum_chunks(found.dweights, kChunks), plain.layers.weights, "dweights");
  slopes_of(sum_chunks(found.dbiases, kChunks), plain.layers.biases, "dbiases");
  slopes_of(sum_chunks(found.dw_out, kChunks), plain.layers.w_out, "dw_out");
  slopes_of(sum_chunks(found.db_out, kChunks), plain.layers.b_out, "db_out");
}

template <class T>
void test_gather(int size, double tolerance) {
  constexpr int E = 30;
  const std::string name =
      "gather, size " + std::to_string(size) + ", bytes " + std::to_string(sizeof(T));
  const auto table = as<T>(uniform(E * size, 52));
  const Ids rows = uniform_ids(20, E, 53);
  Reals<T> expected;
  double squares = 0;
  for (int32_t row : rows)
    for (int d = 0; d < size; ++d) {
      const T x = table[row * size + d];
      expected.push_back(x);
      squares += static_cast<double>(x) * x;
    }
  Reals<T> found(expected.size(), kUnset<T>);
  const double sum = kernels<T>().gather(table.data(), size, rows.data(), 0, 3, found.data()) +
                     kernels<T>().gather(table.data(), size, rows.data(), 3, 20, found.data());
  check_same_bits(found, expected, name);
  check_close<double>({sum}, {squares}, tolerance, name + ", squares");
}

}  // namespace

void test_ekpnet_gradients() {
  // 4, 8, 16 and 32 are the common widths; slopes cost the more, the wider rows are.
  constexpr size_t kAll = -1;
  for (int channels : {1, 2})
    for (bool deep : {false, true})
      for (bool folds : {false, true}) {
        test<double>(4, channels, deep, folds, 1e-12, 1e-6, kAll);
        test<float>(4, channels, deep, folds, 1e-5, 1e-4, kAll);
        for (int width : {6, 8, 16, 32})
          test<float>(width, channels, deep, folds, 1e-5, 1e-3, 256 / width);
      }
  for (int size : {1, 7, 32}) {
    test_gather<double>(size, 1e-12);
    test_gather<float>(size, 1e-5);
  }
}

}  // namespace ekpnet::tests
