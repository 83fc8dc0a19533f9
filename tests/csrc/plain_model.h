// EKPNet in float64, in loops that are written for reading.
#pragma once

#include "checks.h"
#include "common/deep_score_args.h"
#include "common/ripple_attention_args.h"
#include "common/triple_loss_args.h"
#include "cpu/row_references.h"

namespace ekpnet::tests {

// Four groups: one without pairs, one longer than a block of pairs, one whose hops are empty.
struct PlainAttention {
  static constexpr int G = 4, H = 3, M = 5, n = 9, R = 3, B = 24;
  int D, C;
  Offsets indptr = {0, 3, 3, 22, B};
  Ids counts = {5, 3, 1, 5, 5, 5, 4, 5, 2, 0, 2, 0};
  Ids heads = uniform_ids(G * H * M, n, 1), tails = uniform_ids(G * H * M, n, 2);
  Ids relations = uniform_ids(G * H * M, R, 3), items = uniform_ids(B, n, 4);
  // With folds only: bit k of a slot where fold k sees it, and the fold of each pair.
  Offsets slot_folds;
  Ids pair_folds;
  Reals<double> entity, relation, W_e, b_e;

  PlainAttention(int width, int channels)
      : D(width),
        C(channels),
        entity(scaled(n * C * D, 5)),
        relation(scaled(R * C * D, 6)),
        W_e(scaled(D * D, 7)),
        b_e(uniform(D, 8)) {}

  // So that products of wide rows stay of the size of narrow ones.
  Reals<double> scaled(size_t size, uint64_t key) const {
    Reals<double> x = uniform(size, key);
    for (double& value : x) value *= D > 8 ? std::sqrt(8.0 / D) : 1;
    return x;
  }

  bool sees(int64_t b, int slot) const {
    return slot_folds.empty() || (slot_folds[slot] >> pair_folds[b] & 1) != 0;
  }

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

  // z [B, (H + 1) D], match [B] and alphas [B, H, M] (eq. 16, 15, 10).
  void forward(Reals<double>& z, Reals<double>& match, Reals<double>& alphas) const {
    z.assign(B * (H + 1) * D, 0);
    match.assign(B, 0);
    alphas.assign(B * H * M, 0);
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
            if (sees(b, first + m)) top = std::max(top, score[m]);
          }
          for (int m = 0; m < count; ++m)
            total += score[m] = sees(b, first + m) ? std::exp(score[m] - top) : 0;
          for (int m = 0; m < count; ++m) {
            if (!sees(b, first + m)) continue;
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
};

// The same as a kernel's arguments.
template <class T>
struct AttentionInputs {
  Reals<T> entity, relation, W_e, b_e;
  AttentionArgs<T> args;

  explicit AttentionInputs(const PlainAttention& plain)
      : entity(as<T>(plain.entity)),
        relation(as<T>(plain.relation)),
        W_e(as<T>(plain.W_e)),
        b_e(as<T>(plain.b_e)),
        args{plain.G,
             plain.B,
             plain.n,
             plain.R,
             plain.H,
             plain.M,
             plain.D,
             plain.C,
             entity.data(),
             relation.data(),
             W_e.data(),
             b_e.data(),
             plain.heads.data(),
             plain.relations.data(),
             plain.tails.data(),
             plain.counts.data(),
             plain.indptr.data(),
             plain.items.data()} {}
  AttentionInputs(const AttentionInputs&) = delete;  // `args` points into it
};

// What sorts a batch's references to rows.
template <class T>
RowIds row_ids(const AttentionArgs<T>& args) {
  return {args.num_groups, args.num_rows, args.hops,         args.slots, args.heads,
          args.tails,      args.counts,   args.group_indptr, args.items};
}

// The prediction layers (eq. 17, 18).
struct PlainLayers {
  int K, hidden;
  Activation activation;
  Reals<double> weights, biases, w_out, b_out = uniform(1, 15);

  PlainLayers(int width, int layers, Activation a)
      : K(width),
        hidden(layers),
        activation(a),
        weights(uniform(layers * K * K, 12)),
        biases(uniform(layers * K, 13)),
        w_out(uniform(K, 14)) {}

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

  double logit(const double* z) const {
    Reals<double> x(z, z + K);
    for (int l = 0; l < hidden; ++l) {
      Reals<double> next(&biases[l * K], &biases[l * K] + K);
      for (int j = 0; j < K; ++j) {
        for (int i = 0; i < K; ++i) next[j] += x[i] * weights[(l * K + i) * K + j];
        next[j] = activate(next[j]);
      }
      x = next;
    }
    return dot(x.data(), w_out.data(), K) + b_out[0];
  }
};

template <class T>
struct LayerInputs {
  Reals<T> weights, biases, w_out, b_out;
  DeepScoreArgs<T> args;

  // `z` [B, K] or null.
  LayerInputs(const PlainLayers& plain, int64_t B, const T* z)
      : weights(as<T>(plain.weights)),
        biases(as<T>(plain.biases)),
        w_out(as<T>(plain.w_out)),
        b_out(as<T>(plain.b_out)),
        args{B,           plain.K,        plain.hidden,  plain.activation,
             z,           weights.data(), biases.data(), w_out.data(),
             b_out.data()} {}
  LayerInputs(const LayerInputs&) = delete;  // `args` points into it
};

// Eleven triples over rows and relations that others own; every other one is true.
struct PlainTriples {
  static constexpr int K = 11;
  int n, R, D, C;
  Ids heads = uniform_ids(K, n, 23), relations = uniform_ids(K, R, 24);
  Ids tails = uniform_ids(K, n, 25);
  std::vector<int8_t> labels = {0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0};

  // The translation loss (eq. 22), summed.
  double loss(const Reals<double>& entity, const Reals<double>& relation) const {
    double total = 0;
    for (int k = 0; k < K; ++k)
      for (int d = 0; d < D; ++d) {
        const double x = entity[heads[k] * C * D + d] + relation[relations[k] * C * D + d] -
                         entity[tails[k] * C * D + d];
        const double miss = labels[k] - 1 / (1 + std::exp(-x));
        total += miss * miss;
      }
    return total;
  }

  template <class T>
  TripleLossArgs<T> args(const Reals<T>& entity, const Reals<T>& relation) const {
    return {K,
            n,
            R,
            D,
            C,
            entity.data(),
            relation.data(),
            heads.data(),
            relations.data(),
            tails.data(),
            labels.data()};
  }
};

}  // namespace ekpnet::tests
