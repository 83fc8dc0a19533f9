// The torch-free layer against loops that are written for reading: attention, prediction layers,
// Adam, triple loss, sampler, batches. EKPNET_CPU_ISA names the instruction set under test.
// Exit code 0: every check holds; 1: some do not; 77: this processor lacks the instruction set.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "common/random.h"
#include "cpu/batching.h"
#include "cpu/csr.h"
#include "cpu/dispatch.h"
#include "cpu/ripple_sampler.h"
#include "cpu/top_items.h"
#include "cpu/triple_sampler.h"

namespace {

using ekpnet::Activation;
using Ids = std::vector<int32_t>;
using Offsets = std::vector<int64_t>;
template <class T>
using Reals = std::vector<T>;

int failures = 0;

void check(bool holds, const std::string& what) {
  if (holds) return;
  ++failures;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
}

// Largest |found - expected| in units of 1 + |expected|. A NaN is the largest there is.
template <class T>
void check_close(const Reals<T>& found, const Reals<double>& expected, double tolerance,
                 const std::string& what) {
  check(found.size() == expected.size(), what + ": sizes differ");
  double worst = 0;
  for (size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
    const double miss = std::fabs(found[i] - expected[i]) / (1 + std::fabs(expected[i]));
    worst = miss <= worst ? worst : miss;
    if (std::isnan(miss)) worst = std::numeric_limits<double>::infinity();
  }
  check(worst <= tolerance,
        what + ": off by " + std::to_string(worst) + ", allowed " + std::to_string(tolerance));
}

// Reals in [-1, 1), a fixed sequence per `key`.
Reals<double> uniform(size_t n, uint64_t key) {
  Reals<double> x(n);
  for (size_t i = 0; i < n; ++i)
    x[i] = std::ldexp(static_cast<double>(ekpnet::random_bits(key, i) >> 11), -52) - 1;
  return x;
}

Ids uniform_ids(size_t n, int32_t limit, uint64_t key) {
  Ids ids(n);
  for (size_t i = 0; i < n; ++i)
    ids[i] = static_cast<int32_t>(ekpnet::bounded(ekpnet::random_bits(key, i), limit));
  return ids;
}

template <class T>
Reals<T> as(const Reals<double>& x) {
  return Reals<T>(x.begin(), x.end());
}

// Central differences of f along every element of x; x is left as it was.
Reals<double> differences(Reals<double>& x, const std::function<double()>& f) {
  constexpr double kStep = 1e-5;
  Reals<double> slopes(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double kept = x[i];
    x[i] = kept + kStep;
    const double above = f();
    x[i] = kept - kStep;
    const double below = f();
    x[i] = kept;
    slopes[i] = (above - below) / (2 * kStep);
  }
  return slopes;
}

// Adds up [chunks, n] over the chunks.
template <class T>
Reals<T> sum_chunks(const Reals<T>& x, size_t chunks) {
  Reals<T> total(x.size() / chunks);
  for (size_t i = 0; i < x.size(); ++i) total[i % total.size()] += x[i];
  return total;
}

double dot(const double* x, const double* y, int n) {
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

template <class T>
const auto& attention_kernels() {
  if constexpr (sizeof(T) == 4)
    return ekpnet::isa_kernels().attention_f32;
  else
    return ekpnet::isa_kernels().attention_f64;
}

template <class T>
const auto& deep_score_kernels() {
  if constexpr (sizeof(T) == 4)
    return ekpnet::isa_kernels().deep_score_f32;
  else
    return ekpnet::isa_kernels().deep_score_f64;
}

template <class T>
const auto& triple_loss_kernels() {
  if constexpr (sizeof(T) == 4)
    return ekpnet::isa_kernels().triple_loss_f32;
  else
    return ekpnet::isa_kernels().triple_loss_f64;
}

// ---- attention ----------------------------------------------------------------------------------

// Four groups: one without pairs, one longer than a block of pairs, one whose hops are empty.
struct AttentionProblem {
  static constexpr int G = 4, H = 3, M = 5, n = 9, R = 3;
  int D, C;
  Offsets indptr = {0, 3, 3, 22, 24};
  Ids counts = {5, 3, 1, 5, 5, 5, 4, 5, 2, 0, 2, 0};
  Ids heads = uniform_ids(G * H * M, n, 1), tails = uniform_ids(G * H * M, n, 2);
  Ids relations = uniform_ids(G * H * M, R, 3), items = uniform_ids(24, n, 4);
  Reals<double> entity, relation, W_e, b_e, wz, wmatch;

  AttentionProblem(int width, int channels)
      : D(width),
        C(channels),
        entity(uniform(n * C * D, 5)),
        relation(uniform(R * C * D, 6)),
        W_e(uniform(D * D, 7)),
        b_e(uniform(D, 8)),
        wz(uniform(items.size() * (H + 1) * D, 9)),
        wmatch(uniform(items.size(), 10)) {}

  size_t pairs() const { return items.size(); }

  // psi of an entity under a relation (eq. 8).
  Reals<double> psi(int row, int r) const {
    const double* v = &entity[row * C * D];
    Reals<double> out(v, v + D);
    if (C == 2) {
      const double scale = dot(&relation[r * C * D + D], v, D);
      for (int d = 0; d < D; ++d) out[d] = v[D + d] * scale;
    }
    return out;
  }

  void forward(Reals<double>& z, Reals<double>& match, Reals<double>& alphas) const {
    z.assign(pairs() * (H + 1) * D, 0);
    match.assign(pairs(), 0);
    alphas.assign(pairs() * H * M, 0);
    for (int g = 0; g < G; ++g)
      for (int64_t b = indptr[g]; b < indptr[g + 1]; ++b) {
        const double* v_o = &entity[items[b] * C * D];
        Reals<double> o(v_o, v_o + D), xi(D);
        for (int p = 0; p < H; ++p) {
          const int count = counts[g * H + p], first = (g * H + p) * M;
          Reals<double> score(count), rho(D), next(D);
          double top = -std::numeric_limits<double>::infinity(), total = 0;
          for (int m = 0; m < count; ++m) {
            const int r = relations[first + m];
            Reals<double> key = psi(heads[first + m], r);
            for (int d = 0; d < D; ++d) key[d] += relation[r * C * D + d];
            score[m] = dot(key.data(), o.data(), D);
            top = std::max(top, score[m]);
          }
          for (double& s : score) total += s = std::exp(s - top);
          for (int m = 0; m < count; ++m) {
            const double alpha = alphas[(b * H + p) * M + m] = score[m] / total;
            const Reals<double> value = psi(tails[first + m], relations[first + m]);
            for (int d = 0; d < D; ++d) rho[d] += alpha * value[d];
          }
          for (int d = 0; d < D; ++d) {
            next[d] = b_e[d];
            for (int k = 0; k < D; ++k) next[d] += (o[k] + rho[k]) * W_e[k * D + d];
          }
          o = next;
          for (int d = 0; d < D; ++d) z[(b * (H + 1) + p) * D + d] = xi[d] += rho[d];
        }
        for (int d = 0; d < D; ++d) z[(b * (H + 1) + H) * D + d] = o[d];
        match[b] = dot(xi.data(), v_o, D);
      }
  }

  // A scalar of both outputs, whose gradient the backward pass is asked for.
  double objective() const {
    Reals<double> z, match, alphas;
    forward(z, match, alphas);
    return dot(z.data(), wz.data(), static_cast<int>(z.size())) +
           dot(match.data(), wmatch.data(), static_cast<int>(match.size()));
  }
};

template <class T>
void test_attention(int width, int channels, double tolerance, double grad_tolerance) {
  AttentionProblem problem(width, channels);
  const int D = width, C = channels, H = problem.H, M = problem.M, n = problem.n, R = problem.R;
  const size_t B = problem.pairs(), slots = problem.heads.size();
  const std::string name = "attention, D " + std::to_string(D) + ", C " + std::to_string(C) +
                           ", bytes " + std::to_string(sizeof(T));
  const auto entity = as<T>(problem.entity), relation = as<T>(problem.relation);
  const auto W_e = as<T>(problem.W_e), b_e = as<T>(problem.b_e);
  const ekpnet::AttentionArgs<T> args = {problem.G,
                                         static_cast<int64_t>(B),
                                         n,
                                         R,
                                         H,
                                         M,
                                         D,
                                         C,
                                         entity.data(),
                                         relation.data(),
                                         W_e.data(),
                                         b_e.data(),
                                         problem.heads.data(),
                                         problem.relations.data(),
                                         problem.tails.data(),
                                         problem.counts.data(),
                                         problem.indptr.data(),
                                         problem.items.data()};
  const auto& kernels = attention_kernels<T>();
  Reals<T> workspace(kernels.workspace_size(args));

  Reals<double> z, match, alphas;
  problem.forward(z, match, alphas);
  // Cut inside a group, as threads do.
  const T unset = std::numeric_limits<T>::quiet_NaN();
  Reals<T> z_found(z.size(), unset), match_found(B, unset), alpha_found(alphas.size(), unset);
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>(0, 7), {7, 24}}) {
    kernels.forward(args, begin, end, z_found.data(), match_found.data(), workspace.data());
    kernels.weights(args, begin, end, alpha_found.data(), workspace.data());
  }
  check_close(z_found, z, tolerance, name + ", z");
  check_close(match_found, match, tolerance, name + ", match");
  check_close(alpha_found, alphas, tolerance, name + ", weights");

  constexpr int64_t kChunks = 3;
  const auto dz = as<T>(problem.wz), dmatch = as<T>(problem.wmatch);
  Reals<T> dkey(slots * D, unset), dvalue(slots * D, unset), factors(slots * 4, unset);
  Reals<T> ditem(B * D, unset), drelation(kChunks * R * C * D);
  Reals<T> dW_e(kChunks * D * D, unset), db_e(kChunks * D, unset), dentity(n * C * D, unset);
  const ekpnet::AttentionGrads<T> grads = {
      dz.data(),    dmatch.data(), dkey.data(),      dvalue.data(), factors.data(),
      ditem.data(), kChunks,       drelation.data(), dW_e.data(),   db_e.data()};
  for (int64_t chunk = 0; chunk < kChunks; ++chunk)
    kernels.backward(args, grads, chunk, workspace.data());
  ekpnet::RowReferences references;
  references.sort({args.num_groups, n, args.hops, args.slots, args.heads, args.tails, args.counts,
                   args.group_indptr, args.items},
                  2);
  check(references.num_ranges() > 1, "scatter: ranges of rows");
  for (int64_t range = 0; range < references.num_ranges(); ++range)
    kernels.scatter(args, grads, references, range, dentity.data());
  const auto f = [&] { return problem.objective(); };
  check_close(dentity, differences(problem.entity, f), grad_tolerance, name + ", dentity");
  check_close(sum_chunks(drelation, kChunks), differences(problem.relation, f), grad_tolerance,
              name + ", drelation");
  check_close(sum_chunks(dW_e, kChunks), differences(problem.W_e, f), grad_tolerance,
              name + ", dW_e");
  check_close(sum_chunks(db_e, kChunks), differences(problem.b_e, f), grad_tolerance,
              name + ", db_e");
}

// ---- prediction layers --------------------------------------------------------------------------

struct DeepScoreProblem {
  static constexpr int B = 37;  // more than a block of pairs
  int K, layers;
  Activation activation;
  Reals<double> z, weights, biases, w_out, b_out, wlogit;

  DeepScoreProblem(int width, int hidden, Activation a)
      : K(width),
        layers(hidden),
        activation(a),
        z(uniform(B * K, 11)),
        weights(uniform(layers * K * K, 12)),
        biases(uniform(layers * K, 13)),
        w_out(uniform(K, 14)),
        b_out(uniform(1, 15)),
        wlogit(uniform(B, 16)) {}

  double activate(double x) const {
    switch (activation) {
      case Activation::kTanh:
        return std::tanh(x);
      case Activation::kRelu:
        return std::max(x, 0.0);
      default:
        return 1 / (1 + std::exp(-x));
    }
  }

  Reals<double> forward() const {
    Reals<double> logits(B);
    for (int b = 0; b < B; ++b) {
      Reals<double> x(&z[b * K], &z[b * K] + K);
      for (int l = 0; l < layers; ++l) {
        Reals<double> next(&biases[l * K], &biases[l * K] + K);
        for (int j = 0; j < K; ++j) {
          for (int i = 0; i < K; ++i) next[j] += x[i] * weights[(l * K + i) * K + j];
          next[j] = activate(next[j]);
        }
        x = next;
      }
      logits[b] = dot(x.data(), w_out.data(), K) + b_out[0];
    }
    return logits;
  }

  double objective() const { return dot(forward().data(), wlogit.data(), B); }
};

template <class T>
void test_deep_score(Activation activation, int hidden, double tolerance, double grad_tolerance) {
  constexpr int K = 6;
  DeepScoreProblem problem(K, hidden, activation);
  const int64_t B = problem.B, L = hidden;
  const std::string name = "deep_score, activation " +
                           std::to_string(static_cast<int>(activation)) + ", hidden " +
                           std::to_string(hidden) + ", bytes " + std::to_string(sizeof(T));
  const auto z = as<T>(problem.z), weights = as<T>(problem.weights);
  const auto biases = as<T>(problem.biases), w_out = as<T>(problem.w_out);
  const auto b_out = as<T>(problem.b_out), dlogit = as<T>(problem.wlogit);
  const ekpnet::DeepScoreArgs<T> args = {
      B,           K, hidden, activation, z.data(), weights.data(), biases.data(), w_out.data(),
      b_out.data()};
  const auto& kernels = deep_score_kernels<T>();
  Reals<T> workspace(kernels.workspace_size(args));
  const T unset = std::numeric_limits<T>::quiet_NaN();
  Reals<T> logit(B, unset), kept_logit(B, unset), kept(B * L * K, unset);
  kernels.forward(args, 0, 5, logit.data(), nullptr, workspace.data());
  kernels.forward(args, 5, B, logit.data(), nullptr, workspace.data());
  check_close(logit, problem.forward(), tolerance, name + ", logit");
  kernels.forward(args, 0, B, kept_logit.data(), kept.data(), workspace.data());
  check(kept_logit == logit, name + ": keeping the hidden layers changes the logits");

  constexpr int64_t kChunks = 2;
  Reals<T> dz(B * K, unset), dweights(kChunks * L * K * K, unset);
  Reals<T> dbiases(kChunks * L * K, unset), dw_out(kChunks * K, unset), db_out(kChunks, unset);
  const ekpnet::DeepScoreGrads<T> grads = {dlogit.data(), kept.data(),     dz.data(),
                                           kChunks,       dweights.data(), dbiases.data(),
                                           dw_out.data(), db_out.data()};
  for (int64_t chunk = 0; chunk < kChunks; ++chunk)
    kernels.backward(args, grads, chunk, workspace.data());
  const auto f = [&] { return problem.objective(); };
  check_close(dz, differences(problem.z, f), grad_tolerance, name + ", dz");
  check_close(sum_chunks(dweights, kChunks), differences(problem.weights, f), grad_tolerance,
              name + ", dweights");
  check_close(sum_chunks(dbiases, kChunks), differences(problem.biases, f), grad_tolerance,
              name + ", dbiases");
  check_close(sum_chunks(dw_out, kChunks), differences(problem.w_out, f), grad_tolerance,
              name + ", dw_out");
  check_close(sum_chunks(db_out, kChunks), differences(problem.b_out, f), grad_tolerance,
              name + ", db_out");
}

// ---- triple loss --------------------------------------------------------------------------------

template <class T>
void test_triple_loss(int channels, double tolerance, double grad_tolerance) {
  constexpr int K = 11, n = 6, R = 2, D = 7;
  const int C = channels;
  const std::string name =
      "triple_loss, C " + std::to_string(C) + ", bytes " + std::to_string(sizeof(T));
  Reals<double> entity = uniform(n * C * D, 21), relation = uniform(R * C * D, 22);
  const Ids heads = uniform_ids(K, n, 23), relations = uniform_ids(K, R, 24);
  const Ids tails = uniform_ids(K, n, 25);
  std::vector<int8_t> labels(K);
  for (int k = 0; k < K; ++k) labels[k] = k % 2;
  const auto objective = [&] {
    double total = 0;
    for (int k = 0; k < K; ++k)
      for (int d = 0; d < D; ++d) {
        const double x = entity[heads[k] * C * D + d] + relation[relations[k] * C * D + d] -
                         entity[tails[k] * C * D + d];
        const double miss = labels[k] - 1 / (1 + std::exp(-x));
        total += miss * miss;
      }
    return total;
  };
  const auto entity_t = as<T>(entity), relation_t = as<T>(relation);
  const ekpnet::TripleLossArgs<T> args = {K,
                                          n,
                                          R,
                                          D,
                                          C,
                                          entity_t.data(),
                                          relation_t.data(),
                                          heads.data(),
                                          relations.data(),
                                          tails.data(),
                                          labels.data()};
  const auto& kernels = triple_loss_kernels<T>();
  const Reals<double> found = {kernels.forward(args, 0, 4) + kernels.forward(args, 4, K)};
  check_close(found, {objective()}, tolerance, name);
  Reals<T> dentity(n * C * D), drelation(R * C * D);
  kernels.backward(args, T(1), dentity.data(), drelation.data());
  check_close(dentity, differences(entity, objective), grad_tolerance, name + ", dentity");
  check_close(drelation, differences(relation, objective), grad_tolerance, name + ", drelation");
}

// ---- Adam ---------------------------------------------------------------------------------------

template <class T>
void test_row_adam(ekpnet::RowAdamKernel<T> kernel, double tolerance) {
  constexpr int E = 8, D = 5, kSteps = 4;
  constexpr double lr = 0.05, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, l2 = 0.1;
  const std::string name = "row_adam, bytes " + std::to_string(sizeof(T));
  Reals<double> table = uniform(E * D, 31), m(E * D), v(E * D);
  Reals<T> table_found = as<T>(table), m_found(E * D), v_found(E * D);
  for (int step = 1; step <= kSteps; ++step) {
    // Row 3 is never named, and the others in turns.
    const Ids rows = step % 2 ? Ids{6, 0, 2} : Ids{7, 2, 1, 5};
    const Reals<double> grad = uniform(rows.size() * D, 40 + step);
    for (size_t i = 0; i < rows.size(); ++i)
      for (int d = 0; d < D; ++d) {
        const int at = rows[i] * D + d;
        const double g = grad[i * D + d] + l2 * table[at];
        m[at] = beta1 * m[at] + (1 - beta1) * g;
        v[at] = beta2 * v[at] + (1 - beta2) * g * g;
        const double m_hat = m[at] / (1 - std::pow(beta1, step));
        const double v_hat = v[at] / (1 - std::pow(beta2, step));
        table[at] -= lr * m_hat / (std::sqrt(v_hat) + eps);
      }
    const auto grad_t = as<T>(grad);
    const ekpnet::AdamStep rule = {
        beta1, beta2, eps, lr / (1 - std::pow(beta1, step)), 1 / (1 - std::pow(beta2, step)), l2};
    const auto n = static_cast<int64_t>(rows.size());
    const ekpnet::RowAdamArgs<T> args = {
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

// ---- graph, ripple sets, batches ----------------------------------------------------------------

void test_build_csr() {
  const Ids heads = {2, 0, 2, 4, 0, 2}, relations = {1, 0, 0, 2, 1, 1}, tails = {5, 1, 1, 0, 3, 5};
  Offsets indptr(7, -1);
  std::vector<uint8_t> found_relations(6);
  Ids found_tails(6);
  ekpnet::build_csr<uint8_t>(6, 6, heads.data(), relations.data(), tails.data(), indptr.data(),
                             found_relations.data(), found_tails.data());
  check(indptr == Offsets{0, 2, 2, 5, 5, 6, 6}, "build_csr: indptr");
  check(found_relations == std::vector<uint8_t>{0, 1, 1, 0, 1, 2}, "build_csr: relations");
  check(found_tails == Ids{1, 3, 5, 1, 5, 0}, "build_csr: tails keep their order within a head");
}

struct Sampled {
  Ids heads, relations, tails, counts;
  bool operator==(const Sampled&) const = default;
};

// Users [0, cut) and then the rest.
Sampled sample(const ekpnet::RippleGraph<int16_t>& graph, const ekpnet::RippleRequest& request,
               int64_t cut) {
  const size_t hops = request.num_users * request.hops, size = hops * request.slots;
  Sampled found = {Ids(size, -1), Ids(size, -1), Ids(size, -1), Ids(hops, -1)};
  const ekpnet::RippleSets sets = {found.heads.data(), found.relations.data(), found.tails.data(),
                                   found.counts.data()};
  ekpnet::sample_ripple_sets(graph, request, sets, 0, cut);
  ekpnet::sample_ripple_sets(graph, request, sets, cut, request.num_users);
  return found;
}

// A ring of n entities, where each leads to the next by relation e % 3: what is reached is known.
void test_sampler_on_cycle() {
  constexpr int n = 6, kUsers = 3, H = 4, M = 4;
  Offsets indptr(n + 1);
  std::vector<int16_t> relations(n);
  Ids tails(n);
  for (int e = 0; e < n; ++e) {
    indptr[e + 1] = e + 1;
    relations[e] = static_cast<int16_t>(e % 3);
    tails[e] = (e + 1) % n;
  }
  const ekpnet::RippleGraph<int16_t> graph = {n, indptr.data(), relations.data(), tails.data()};
  // Histories: entity 1; 0, 2 and 4; nothing.
  const Offsets seed_indptr = {0, 1, 4, 4};
  const Ids seeds = {1, 0, 2, 4};
  ekpnet::RippleRequest request = {kUsers, seed_indptr.data(), seeds.data(), nullptr, H, M, 7, 0,
                                   false};
  const Sampled found = sample(graph, request, 1);
  check(found == sample(graph, request, 2), "sampler: depends on how users are cut");
  // Entities 1, 3, 5 follow 0, 2, 4; what comes next was seen, so the third hop is empty.
  check(found.counts == Ids{1, 1, 1, 1, 3, 3, 0, 0, 0, 0, 0, 0}, "sampler: counts on a cycle");
  for (int u = 0; u < kUsers; ++u)
    for (int p = 0; p < H; ++p)
      for (int m = 0; m < M; ++m) {
        const int at = (u * H + p) * M + m, head = found.heads[at];
        const std::string place = "sampler: user " + std::to_string(u) + ", hop " +
                                  std::to_string(p) + ", slot " + std::to_string(m);
        if (m >= found.counts[u * H + p]) {
          check(head == 0 && found.relations[at] == 0 && found.tails[at] == 0,
                place + ": a masked slot is not 0");
          continue;
        }
        check(found.tails[at] == (head + 1) % n && found.relations[at] == head % 3,
              place + ": no triple of the graph");
        if (u == 0) check(head == 1 + p, place + ": head is not what the hop before reached");
        if (u == 1) check(head % 2 == p % 2, place + ": head is not what the hop before reached");
      }

  // RippleNet's rule fills short hops, and has no memory of what was seen.
  request.repeat = true;
  const Sampled repeated = sample(graph, request, 3);
  for (int p = 0; p < H; ++p) {
    for (int u = 0; u < 2; ++u)
      check(repeated.counts[u * H + p] == M, "sampler, repeat: a short hop is not filled");
    check(repeated.counts[2 * H + p] == 0, "sampler, repeat: no history, but a hop");
    for (int m = 0; m < M; ++m)
      check(repeated.heads[p * M + m] == (1 + p) % n, "sampler, repeat: another head");
  }
}

// More candidates than slots: distinct triples, each about equally often.
void test_sampler_draws_evenly() {
  constexpr int kDegree = 12, M = 5, kUsers = 3000;
  const Offsets indptr = [] {
    Offsets x(kDegree + 2, kDegree);
    x[0] = 0;
    return x;
  }();
  const std::vector<int16_t> relations(kDegree, 0);
  Ids tails(kDegree);
  for (int i = 0; i < kDegree; ++i) tails[i] = i + 1;
  const ekpnet::RippleGraph<int16_t> graph = {kDegree + 1, indptr.data(), relations.data(),
                                              tails.data()};
  Offsets seed_indptr(kUsers + 1);
  for (int u = 0; u <= kUsers; ++u) seed_indptr[u] = u;
  const Ids seeds(kUsers, 0);
  ekpnet::RippleRequest request = {kUsers, seed_indptr.data(), seeds.data(), nullptr, 1, M, 3, 0,
                                   false};
  const Sampled first = sample(graph, request, 1000);
  std::vector<int> times(kDegree + 1);
  for (int u = 0; u < kUsers; ++u) {
    const std::set<int32_t> drawn(&first.tails[u * M], &first.tails[u * M] + M);
    check(drawn.size() == M, "sampler: a triple is drawn twice");
    for (int32_t tail : drawn) ++times[tail];
  }
  // Each is expected 1250 times with a standard deviation of 27.
  for (int i = 1; i <= kDegree; ++i)
    check(std::abs(times[i] - kUsers * M / kDegree) < 150, "sampler: the draw is uneven");
  request.epoch = 1;
  check(first.tails != sample(graph, request, 0).tails, "sampler: another epoch, the same draw");
}

void test_localize_batch() {
  // Two users, H = 1, M = 2; user 1 has one valid slot.
  const Ids heads = {7, 9, 4, 0}, relations = {1, 0, 2, 0}, tails = {9, 3, 7, 0}, counts = {2, 1};
  const Ids users = {1, 0}, items = {5, 7}, extra = {8, 4};
  const ekpnet::BatchArgs args = {2,
                                  2,
                                  2,
                                  1,
                                  2,
                                  heads.data(),
                                  relations.data(),
                                  tails.data(),
                                  counts.data(),
                                  users.data(),
                                  items.data(),
                                  extra.data()};
  Ids rows(12, -1), h(4, -1), r(4, -1), t(4, -1), c(2, -1), i(2, -1), x(2, -1);
  const int64_t n = ekpnet::localize_batch(
      args, 1, {rows.data(), h.data(), r.data(), t.data(), c.data(), i.data(), x.data()});
  rows.resize(n);
  check(rows == Ids{4, 7, 9, 3, 5, 8}, "localize_batch: rows in order of first appearance");
  check(h == Ids{0, 0, 1, 2} && r == Ids{2, 0, 1, 0} && t == Ids{1, 0, 2, 3},
        "localize_batch: ripple sets");
  check(c == Ids{1, 2} && i == Ids{4, 1} && x == Ids{5, 0}, "localize_batch: counts, items, extra");
}

// A batch that is large enough for threads to share it.
void test_localize_by_threads() {
  constexpr int U = 700, H = 2, M = 32, kEntities = 20'000;
  const auto drawn = [](size_t n, int64_t limit, uint64_t key) {
    Ids ids(n);
    for (size_t i = 0; i < n; ++i) ids[i] = ekpnet::bounded(ekpnet::random_bits(key, i), limit);
    return ids;
  };
  const Ids heads = drawn(U * H * M, kEntities, 1), tails = drawn(U * H * M, kEntities, 2);
  const Ids relations = drawn(U * H * M, 5, 3), counts = drawn(U * H, M + 1, 4);
  const Ids users = drawn(600, U, 5), items = drawn(4000, kEntities, 6), extra = drawn(9, 99, 7);
  const int64_t G = static_cast<int64_t>(users.size()), B = static_cast<int64_t>(items.size());
  const int64_t X = static_cast<int64_t>(extra.size());
  const ekpnet::BatchArgs args = {G,
                                  B,
                                  X,
                                  H,
                                  M,
                                  heads.data(),
                                  relations.data(),
                                  tails.data(),
                                  counts.data(),
                                  users.data(),
                                  items.data(),
                                  extra.data()};
  const auto localized = [&](int64_t threads) {
    Ids rows(2 * G * H * M + B + X), h(G * H * M), r(G * H * M), t(G * H * M), c(G * H);
    Ids i(B), x(X);
    rows.resize(ekpnet::localize_batch(
        args, threads, {rows.data(), h.data(), r.data(), t.data(), c.data(), i.data(), x.data()}));
    return std::tuple(rows, h, r, t, c, i, x);
  };
  const auto alone = localized(1);
  const auto& [rows, h, r, t, c, i, x] = alone;
  check(std::set<int32_t>(rows.begin(), rows.end()).size() == rows.size(),
        "localize_batch: a row has two numbers");
  bool same = true;
  for (int64_t b = 0; b < B; ++b) same &= rows[i[b]] == items[b];
  for (int64_t hop = 0; hop < G * H; ++hop)
    for (int64_t m = 0; m < c[hop]; ++m)
      same &= rows[t[hop * M + m]] == tails[(users[hop / H] * H + hop % H) * M + m];
  check(same, "localize_batch: a position names another row");
  for (int64_t threads : {2, 5})
    check(localized(threads) == alone, "localize_batch: threads change the result");
}

void test_shuffles() {
  const Offsets indptr = {0, 4, 4, 10};
  Offsets order(10, -1);
  ekpnet::shuffle_user_pairs(indptr.data(), 5, 1, 0, 1, order.data());
  ekpnet::shuffle_user_pairs(indptr.data(), 5, 1, 1, 3, order.data());
  for (int u = 0; u < 3; ++u) {
    Offsets mine(order.begin() + indptr[u], order.begin() + indptr[u + 1]);
    std::sort(mine.begin(), mine.end());
    for (size_t k = 0; k < mine.size(); ++k)
      check(mine[k] == indptr[u] + static_cast<int64_t>(k), "shuffle_user_pairs: no permutation");
  }
  Offsets all(50, -1);
  ekpnet::shuffle(5, 1, 50, all.data());
  check(!std::is_sorted(all.begin(), all.end()), "shuffle: nothing moved");
  check(std::set<int64_t>(all.begin(), all.end()).size() == 50, "shuffle: no permutation");
}

void test_sample_triples() {
  constexpr int kCount = 40, E = 6;
  const Offsets indptr = {0, 2, 2, 5, 5, 6, 6};
  const std::vector<uint8_t> relations = {0, 1, 1, 0, 1, 2};
  const Ids tails = {1, 3, 5, 1, 5, 0};
  std::set<std::tuple<int, int, int>> triples;
  for (int e = 0; e < E; ++e)
    for (int64_t i = indptr[e]; i < indptr[e + 1]; ++i) triples.emplace(e, relations[i], tails[i]);
  Ids h(2 * kCount, -1), r(2 * kCount, -1), t(2 * kCount, -1);
  ekpnet::sample_triples<uint8_t>(E, indptr.data(), relations.data(), tails.data(), kCount, 1, 2, 0,
                                  kCount, h.data(), r.data(), t.data());
  for (int k = 0; k < kCount; ++k) {
    check(triples.contains({h[k], r[k], t[k]}), "sample_triples: no triple of the graph");
    const int other = kCount + k;
    check(r[other] == r[k] && (h[other] == h[k] || t[other] == t[k]),
          "sample_triples: a corrupted triple differs in more than one end");
    check(0 <= h[other] && h[other] < E && 0 <= t[other] && t[other] < E,
          "sample_triples: an entity out of range");
  }
}

void test_top_items() {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const Reals<float> scores = {1, 3, 3, kNan, 2, 5, 4, 3, 2, 1};
  const Offsets seen_indptr = {0, 1, 4};
  const Ids seen = {4, 0, 1, 2};
  Ids items(8, -7);
  const ekpnet::TopItemsArgs args = {2, 5, 4, scores.data(), seen_indptr.data(), seen.data()};
  ekpnet::top_items(args, 0, 2, items.data());
  check(items == Ids{1, 2, 0, 3, 3, 4, -1, -1}, "top_items: order, ties, NaN, seen, too few");
}

}  // namespace

int main() {
  const char* forced = std::getenv("EKPNET_CPU_ISA");
  if (forced != nullptr && *forced != '\0') {
    const auto built = ekpnet::built_isas(), supported = ekpnet::supported_isas();
    const auto in = [&](const std::vector<std::string>& names) {
      return std::find(names.begin(), names.end(), forced) != names.end();
    };
    if (in(built) && !in(supported)) {
      std::printf("skipped: this processor does not run %s\n", forced);
      return 77;
    }
  }
  try {
    const std::string name = ekpnet::isa_kernels().name;
    if (forced != nullptr && *forced != '\0')
      check(name == forced, "EKPNET_CPU_ISA is not followed: " + name + " runs");
    for (int channels : {1, 2}) {
      for (int width : {1, 4, 6, 17}) {
        test_attention<double>(width, channels, 1e-12, 1e-6);
        test_attention<float>(width, channels, 2e-5, 1e-3);
      }
      test_triple_loss<double>(channels, 1e-12, 1e-7);
      test_triple_loss<float>(channels, 1e-6, 1e-5);
    }
    for (auto activation : {Activation::kTanh, Activation::kRelu, Activation::kSigmoid})
      for (int hidden : {0, 2}) {
        test_deep_score<double>(activation, hidden, 1e-12, 1e-6);
        test_deep_score<float>(activation, hidden, 1e-5, 1e-4);
      }
    test_row_adam<double>(ekpnet::isa_kernels().row_adam_f64, 1e-12);
    test_row_adam<float>(ekpnet::isa_kernels().row_adam_f32, 1e-5);
    test_build_csr();
    test_sampler_on_cycle();
    test_sampler_draws_evenly();
    test_localize_batch();
    test_localize_by_threads();
    test_shuffles();
    test_sample_triples();
    test_top_items();
    std::printf("%s: %d checks failed\n", name.c_str(), failures);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "FAILED: %s\n", error.what());
    return 1;
  }
  return failures == 0 ? 0 : 1;
}
