// The multi-hop recursion (8)-(14) for one group of a user's pairs: key and value of a slot do not
// depend on the item, so they are computed once per group and hop, and the group's pairs are small
// matrix products against those tiles.
#pragma once

#include <type_traits>

#include "cpu/isa/arena.h"
#include "cpu/isa/ripple_attention.h"
#include "cpu/isa/vectors.h"

namespace ekpnet {
namespace {

constexpr int64_t kGroupBlock = 16;  // pairs whose intermediate rows stay in the first-level cache

// Strides of the padded tiles. VD: vector along D, narrow where D is small; VM: along the slots.
template <class T>
struct Strides {
  int64_t DP, MP;
};

template <class T, int kWidthBytes>
Strides<T> strides_of(const AttentionArgs<T>& args) {
  return {round_up(args.width, kWidthBytes / sizeof(T)),
          round_up(args.slots, EKPNET_VECTOR_BYTES / sizeof(T))};
}

// Everything a thread keeps on chip while it works on one group.
template <class T>
struct Workspace {
  T* key;      // [H, M, DP]
  T* key_t;    // [H, D, MP]
  T* value;    // [H, M, DP]
  T* value_t;  // [H, D, MP]
  T* bias;     // [F, H, MP], 0 in slots that the fold sees and -inf in the others
  T* W_e;      // [D, DP]
  T* W_e_t;    // [D, DP], transposed
  T* o;        // [H + 1, kGroupBlock, DP], the item vector before each hop
  T* u;        // [H, kGroupBlock, DP], o^{p-1} + rho^p
  T* xi;       // [kGroupBlock, DP]
  T* rho;      // [kGroupBlock, DP]
  T* alpha;    // [H, kGroupBlock, MP]
  T* dalpha;   // [kGroupBlock, MP]
  T* dxi;      // [kGroupBlock, DP], sum of the gradients of xi^p .. xi^H
  T* drho;     // [kGroupBlock, DP]
  T* do_next;  // [kGroupBlock, DP]
  T* do_prev;  // [kGroupBlock, DP]
  T* dkey;     // [H, M, DP]
  T* dvalue;   // [H, M, DP]
  T* dW_e;     // [D, DP]
  T* db_e;     // [DP]

  Workspace(const AttentionArgs<T>& args, Strides<T> s, int folds, T* base, int64_t* size) {
    const int64_t H = args.hops, M = args.slots, D = args.width, P = kGroupBlock;
    Arena<T> arena(base);
    key = arena.take(H * M * s.DP);
    key_t = arena.take(H * D * s.MP);
    value = arena.take(H * M * s.DP);
    value_t = arena.take(H * D * s.MP);
    bias = arena.take(folds * H * s.MP);
    W_e = arena.take(D * s.DP);
    W_e_t = arena.take(D * s.DP);
    o = arena.take((H + 1) * P * s.DP);
    u = arena.take(H * P * s.DP);
    xi = arena.take(P * s.DP);
    rho = arena.take(P * s.DP);
    alpha = arena.take(H * P * s.MP);
    dalpha = arena.take(P * s.MP);
    dxi = arena.take(P * s.DP);
    drho = arena.take(P * s.DP);
    do_next = arena.take(P * s.DP);
    do_prev = arena.take(P * s.DP);
    dkey = arena.take(H * M * s.DP);
    dvalue = arena.take(H * M * s.DP);
    dW_e = arena.take(D * s.DP);
    db_e = arena.take(s.DP);
    if (size) *size = arena.next() - base;
  }
};

// D: `kWidth` where that is not 0, so that loops over it unroll, else known at run time.
template <int kWidth>
struct Width {
  int64_t at_run_time;
  constexpr operator int64_t() const { return kWidth != 0 ? kWidth : at_run_time; }
};

template <class T, int kWidthBytes, int kWidth>
class GroupWorker {
  using VD = Vector<T, kWidthBytes>;
  using VM = Vector<T>;
  static constexpr int kLanesM = EKPNET_VECTOR_BYTES / sizeof(T);
  static constexpr int kLanesD = kWidthBytes / sizeof(T);
  static constexpr int64_t kAhead = 6;  // slots whose rows are on their way

 public:
  GroupWorker(const AttentionArgs<T>& args, T* workspace, const SlotFolds& folds = {})
      : args_(args),
        folds_(folds),
        s_(strides_of<T, kWidthBytes>(args)),
        w_(args, s_, folds.count, workspace, nullptr),
        H(args.hops),
        M(args.slots),
        D{args.width},
        C(args.channels) {
    const int64_t DP = padded_width();
    for (int64_t i = 0; i < D; ++i)
      for (int64_t j = 0; j < DP; ++j) {
        w_.W_e[i * DP + j] = j < D ? args.W_e[i * D + j] : T(0);
        w_.W_e_t[i * DP + j] = j < D ? args.W_e[j * D + i] : T(0);
      }
    // Padding that is never written below must be zero once.
    fill(w_.key, H * M * DP, T(0));
    fill(w_.value, H * M * DP, T(0));
  }

  // Keys and values (eq. 8, 9) of every hop of group g; `backward` also needs values by column.
  void build_tiles(int64_t g, bool backward) {
    const int64_t DP = padded_width(), MP = s_.MP;
    build_biases(g);
    for (int64_t p = 0; p < H; ++p) {
      const int64_t count = slots_of(g, p), padded = round_up(count, kLanesM);
      T *key_t = w_.key_t + p * D * MP, *value_t = w_.value_t + p * D * MP;
      const int64_t next = g * H + p + 1;
      if (next < args_.num_groups * H)
        for (int64_t m = 0; m < args_.counts[next] && m < kAhead; ++m) prefetch_slot(next * M + m);
      if (padded != count) {
        for (int64_t d = 0; d < D; ++d)
          for (int64_t m = count; m < padded; ++m) key_t[d * MP + m] = value_t[d * MP + m] = T(0);
      }
      for (int64_t m = 0; m < count; ++m) {
        const int64_t slot = (g * H + p) * M + m;
        if (m + kAhead < count) prefetch_slot(slot + kAhead);
        const T* h = entity_row(args_.heads[slot]);
        const T* r = args_.relation + args_.relations[slot] * C * D;
        const T* t = entity_row(args_.tails[slot]);
        T *key = w_.key + (p * M + m) * DP, *value = w_.value + (p * M + m) * DP;
        if (C == 2) {
          const T s_h = dot<VD>(D, r + D, h), s_t = dot<VD>(D, r + D, t);
          scale_add<VD, T>(D, s_h, h + D, r, key);
          scale_add<VD, T>(D, s_t, t + D, nullptr, value);
        } else {
          scale_add<VD, T>(D, T(1), h, r, key);
          scale_add<VD, T>(D, T(1), t, nullptr, value);
        }
      }
      transpose<T>(count, D, w_.key + p * M * DP, DP, key_t, MP);
      if (backward) transpose<T>(count, D, w_.value + p * M * DP, DP, value_t, MP);
    }
  }

  // Hops of pairs [begin, begin + P) of group g, which leave o, u, alpha and the last xi behind.
  // Unless null, `z` receives P rows of (16), `stride` apart, and `match` the P logits of (15).
  // o^H is computed for z only: nothing else reads it.
  void propagate(int64_t g, int64_t begin, int64_t P, T* z, int64_t stride, T* match) {
    const int64_t DP = padded_width(), MP = s_.MP;
    for (int64_t i = 0; i < P; ++i) copy_padded(entity_row(args_.items[begin + i]), w_.o + i * DP);
    const int64_t next = begin + 2 * P < args_.num_pairs ? begin + 2 * P : args_.num_pairs;
    for (int64_t b = begin + P; b < next; ++b) prefetch(entity_row(args_.items[b]), D);
    fill(w_.xi, P * DP, T(0));
    for (int64_t p = 0; p < H; ++p) {
      const int64_t count = slots_of(g, p), padded = round_up(count, kLanesM);
      T *o = w_.o + p * kGroupBlock * DP, *o_next = o + kGroupBlock * DP;
      T *u = w_.u + p * kGroupBlock * DP, *alpha = w_.alpha + p * kGroupBlock * MP;
      if (count > 0) {
        gemm<VM>(P, padded, D, o, DP, 1, w_.key_t + p * D * MP, MP, alpha, MP, false);
        if (folds_.of_slots != nullptr) {
          const int32_t* fold = folds_.of_pairs + begin;
          by_rows(P, [&](int64_t i, auto rows) {
            softmax<rows, kByFold>(
                alpha + i * MP, MP, [&](int r) { return bias_of(fold[i + r], p); }, padded);
          });
        } else if (padded != count) {
          by_rows(P, [&](int64_t i, auto rows) {
            softmax<rows, kFirst>(alpha + i * MP, MP, [&](int) { return bias_of(0, p); }, padded);
          });
        } else {
          by_rows(P, [&](int64_t i, auto rows) {
            softmax<rows, kEvery>(
                alpha + i * MP, MP, [](int) -> const T* { return nullptr; }, padded);
          });
        }
        gemm<VD>(P, DP, count, alpha, MP, 1, w_.value + p * M * DP, DP, w_.rho, DP, false);
        for (int64_t i = 0; i < P * DP; i += kLanesD) {
          const VD rho = load<VD>(w_.rho + i);
          store(w_.xi + i, load<VD>(w_.xi + i) + rho);
          store(u + i, args_.replace ? rho : load<VD>(o + i) + rho);
        }
      } else {
        for (int64_t i = 0; i < P * DP; i += kLanesD) store(u + i, load<VD>(o + i));
      }
      if (p < H - 1 || z) {
        for (int64_t i = 0; i < P; ++i) copy_padded(args_.b_e, o_next + i * DP);
        gemm<VD>(P, DP, D, u, DP, 1, w_.W_e, DP, o_next, DP, true);
      }
      if (z) write_rows(w_.xi, z + p * D, stride, P);
    }
    if (z) write_rows(w_.o + H * kGroupBlock * DP, z + H * D, stride, P);
    if (match)
      for (int64_t i = 0; i < P; ++i) match[i] = dot<VD>(DP, w_.xi + i * DP, w_.o + i * DP);
  }

  const T* alpha(int64_t hop, int64_t pair) const {
    return w_.alpha + (hop * kGroupBlock + pair) * s_.MP;
  }

  void clear_group_gradients() {
    fill(w_.dkey, H * M * padded_width(), T(0));
    fill(w_.dvalue, H * M * padded_width(), T(0));
  }

  // Gradients of P pairs of group g, after propagate() on them. Without `dz`, P rows that are
  // `stride` apart, only the logit of (15) has a gradient, `dmatch` [P]; either may be null.
  // `ditem` [P, D] receives the gradient of the pairs' items.
  void propagate_backward(int64_t g, int64_t P, const T* dz, int64_t stride, const T* dmatch,
                          T* ditem) {
    const int64_t DP = padded_width(), MP = s_.MP;
    // Only loops up to DP may read the padding, so it is kept at zero.
    if (dz)
      for (int64_t i = 0; i < P; ++i) copy_padded(dz + i * stride + H * D, w_.do_next + i * DP);
    else
      fill(w_.do_next, P * DP, T(0));
    if (dmatch)
      for (int64_t i = 0; i < P; ++i)
        scale_add<VD, T>(DP, dmatch[i], w_.o + i * DP, nullptr, w_.dxi + i * DP);
    else
      fill(w_.dxi, P * DP, T(0));
    for (int64_t p = H - 1; p >= 0; --p) {
      const int64_t count = slots_of(g, p), padded = round_up(count, kLanesM);
      const T *o = w_.o + p * kGroupBlock * DP, *u = w_.u + p * kGroupBlock * DP;
      const T* alpha = w_.alpha + p * kGroupBlock * MP;
      if (dz)
        for (int64_t i = 0; i < P; ++i) axpy<VD>(D, T(1), dz + i * stride + p * D, w_.dxi + i * DP);
      if (p < H - 1 || dz) {
        // eq. 12: o_next = u W_e + b_e
        gemm<VD>(D, DP, P, u, 1, DP, w_.do_next, DP, w_.dW_e, DP, true);
        add_column_sums<VD>(P, DP, w_.do_next, w_.db_e);
        gemm<VD>(P, DP, D, w_.do_next, DP, 1, w_.W_e_t, DP, w_.do_prev, DP, false);
      } else {
        fill(w_.do_prev, P * DP, T(0));  // nothing looks at o^H
      }
      if (count > 0) {
        for (int64_t i = 0; i < P * DP; i += kLanesD)
          store(w_.drho + i, load<VD>(w_.dxi + i) + load<VD>(w_.do_prev + i));
        // eq. 6, 11: rho = alpha value
        gemm<VM>(P, padded, D, w_.drho, DP, 1, w_.value_t + p * D * MP, MP, w_.dalpha, MP, false);
        gemm<VD>(count, DP, P, alpha, 1, MP, w_.drho, DP, w_.dvalue + p * M * DP, DP, true);
        // eq. 10 and 9: softmax, then score = key . o
        by_rows(P, [&](int64_t i, auto rows) {
          softmax_backward<rows>(alpha + i * MP, w_.dalpha + i * MP, MP, padded);
        });
        gemm<VD>(P, DP, count, w_.dalpha, MP, 1, w_.key + p * M * DP, DP, w_.do_prev, DP,
                 !args_.replace);
        gemm<VD>(count, DP, P, w_.dalpha, 1, MP, o, DP, w_.dkey + p * M * DP, DP, true);
      }
      T* swap = w_.do_next;
      w_.do_next = w_.do_prev;
      w_.do_prev = swap;
    }
    for (int64_t i = 0; i < P; ++i) {
      T* row = w_.do_next + i * DP;
      if (dmatch) axpy<VD>(D, dmatch[i], w_.xi + i * DP, row);
      scale_add<VD, T>(D, T(1), row, nullptr, ditem + i * D);
    }
  }

  // Key and value gradients of the group to the parts, and its share of the relations' gradient.
  void write_group_gradients(int64_t g, const AttentionGrads<T>& grads, int64_t chunk) {
    const int64_t DP = padded_width();
    T* drelation = grads.drelation_chunks + chunk * args_.num_relations * C * D;
    T* const parts = grads.parts;
    const int64_t size = part_size<T>(D);
    const int shift = grads.references->shift();
    const Width<kWidth> width = D;
    // The chunk's next part for a row; returns the place of its factors.
    const auto write_part = [=, at = part_at_](int32_t row, int32_t relation, const T* dpsi) {
      T* part = parts + at[row >> shift]++ * size;
      __builtin_prefetch(part + 8 * size, 1);
      const int32_t ids[2] = {row, relation};
      __builtin_memcpy(part, ids, sizeof(ids));
      scale_add<VD, T>(width, T(1), dpsi, nullptr, part + kPartGradient<T>);
      return part + kPartFactors<T>;
    };
    for (int64_t p = 0; p < H; ++p) {
      const int64_t count = slots_of(g, p);
      for (int64_t m = 0; m < count; ++m) {
        const int64_t slot = (g * H + p) * M + m;
        const T *dkey = w_.dkey + (p * M + m) * DP, *dvalue = w_.dvalue + (p * M + m) * DP;
        T* of_head = write_part(args_.heads[slot], args_.relations[slot], dkey);
        T* of_tail = write_part(args_.tails[slot], args_.relations[slot], dvalue);
        T* dr = drelation + args_.relations[slot] * C * D;
        axpy<VD>(D, T(1), dkey, dr);
        if (C == 2) {
          const T* h = entity_row(args_.heads[slot]);
          const T* r = args_.relation + args_.relations[slot] * C * D;
          const T* t = entity_row(args_.tails[slot]);
          T factors[4];
          four_dots<VD>(D, {dkey, r + D, dvalue, r + D}, {h + D, h, t + D, t}, factors);
          __builtin_memcpy(of_head, factors, 2 * sizeof(T));
          __builtin_memcpy(of_tail, factors + 2, 2 * sizeof(T));
          const T to_head = factors[0], to_tail = factors[2];
          // One sum for both, because the next slot often waits for the same relation.
          for (int64_t d = 0; d + kLanesD <= D; d += kLanesD)
            store(dr + D + d,
                  load<VD>(dr + D + d) + (load<VD>(h + d) * to_head + load<VD>(t + d) * to_tail));
          for (int64_t d = D / kLanesD * kLanesD; d < D; ++d)
            dr[D + d] += h[d] * to_head + t[d] * to_tail;
        }
      }
    }
  }

  // Before the first group of a chunk.
  void begin_chunk(const AttentionGrads<T>& grads, int64_t chunk) {
    const int64_t* starts = grads.references->slot_starts(chunk);
    for (int64_t range = 0; range < grads.references->num_ranges(); ++range)
      part_at_[range] = starts[range];
    fill(w_.dW_e, D * padded_width(), T(0));
    fill(w_.db_e, padded_width(), T(0));
  }

  void write_shared_gradients(const AttentionGrads<T>& grads, int64_t chunk) {
    T* dW_e = grads.dW_e_chunks + chunk * D * D;
    for (int64_t i = 0; i < D; ++i)
      __builtin_memcpy(dW_e + i * D, w_.dW_e + i * padded_width(), D * sizeof(T));
    __builtin_memcpy(grads.db_e_chunks + chunk * D, w_.db_e, D * sizeof(T));
  }

 private:
  T* bias_of(int64_t fold, int64_t p) const { return w_.bias + (fold * H + p) * s_.MP; }

  // The biases of every fold that a pair of group g is of.
  void build_biases(int64_t g) {
    if (folds_.of_slots == nullptr) {
      for (int64_t p = 0; p < H; ++p) {
        const int64_t count = slots_of(g, p), padded = round_up(count, kLanesM);
        T* bias = bias_of(0, p);
        for (int64_t m = 0; m < padded; ++m) bias[m] = m < count ? T(0) : -__builtin_inf();
      }
      return;
    }
    uint64_t built = 0;
    for (int64_t b = args_.group_indptr[g]; b < args_.group_indptr[g + 1]; ++b) {
      const int32_t fold = folds_.of_pairs[b];
      if (built >> fold & 1) continue;
      built |= uint64_t{1} << fold;
      for (int64_t p = 0; p < H; ++p) {
        const int64_t count = slots_of(g, p), padded = round_up(count, kLanesM);
        const int64_t* sees = folds_.of_slots + (g * H + p) * M;
        T* bias = bias_of(fold, p);
        for (int64_t m = 0; m < count; ++m) bias[m] = sees[m] >> fold & 1 ? T(0) : -__builtin_inf();
        for (int64_t m = count; m < padded; ++m) bias[m] = -__builtin_inf();
      }
    }
  }

  int64_t padded_width() const { return round_up(D, kWidthBytes / sizeof(T)); }
  int64_t slots_of(int64_t g, int64_t p) const { return args_.counts[g * H + p]; }
  void prefetch_slot(int64_t slot) const {
    prefetch(entity_row(args_.heads[slot]), C * D);
    prefetch(entity_row(args_.tails[slot]), C * D);
  }
  const T* entity_row(int32_t row) const { return args_.entity + row * C * D; }

  // A row of D, and zeros up to the padded width. By vectors, because what is written value by
  // value and then read as a vector waits for all of the writes.
  void copy_padded(const T* from, T* to) const {
    scale_add<VD, T>(D, T(1), from, nullptr, to);
    for (int64_t d = D; d < padded_width(); ++d) to[d] = T(0);
  }

  void write_rows(const T* rows, T* z, int64_t stride, int64_t P) const {
    for (int64_t i = 0; i < P; ++i)
      __builtin_memcpy(z + i * stride, rows + i * padded_width(), D * sizeof(T));
  }

  // Rows 0 .. P - 1, some at a time, so that their chains of operations overlap.
  template <class F>
  static void by_rows(int64_t P, F f) {
    constexpr int kRows = kReducedRows<VM, T>;
    int64_t i = 0;
    for (; i + kRows <= P; i += kRows) f(i, std::integral_constant<int, kRows>());
    for (; i < P; ++i) f(i, std::integral_constant<int, 1>());
  }

  // Calls f with the vectors of n padded lanes, as a constant where there are one or two: a row
  // then stays in registers from its maximum to its last product.
  template <class F>
  static void with_vectors(int64_t n, F f) {
    if (n == kLanesM)
      f(std::integral_constant<int64_t, 1>());
    else if (n == 2 * kLanesM)
      f(std::integral_constant<int64_t, 2>());
    else
      f(n / kLanesM);
  }

  // Which slots a row sees: every lane, the first ones, or those of its fold, which may be none.
  enum Sight { kEvery, kFirst, kByFold };

  // Rows of n padded lanes, in place; the maximum is subtracted first, masked lanes become exactly
  // 0. Row i has the bias bias_of(i), which is not asked for of rows that see every lane.
  template <int kRows, Sight kSight, class BiasOf>
  static void softmax(T* x, int64_t stride, BiasOf bias_of, int64_t n) {
    const T* bias[kRows];
    unrolled<kRows>([&](auto i) { bias[i] = bias_of(i); });
    const auto masked = [&](int i, int64_t m) {
      const VM score = load<VM>(x + i * stride + m * kLanesM);
      if constexpr (kSight == kEvery)
        return score;
      else
        return score + load<VM>(bias[i] + m * kLanesM);
    };
    with_vectors(n, [&](auto vectors) {
      VM top[kRows], total[kRows];
      unrolled<kRows>([&](auto i) { top[i] = masked(i, 0); });
      for (int64_t m = 1; m < vectors; ++m)
        unrolled<kRows>([&](auto i) { top[i] = Max()(top[i], masked(i, m)); });
      VM tops = reduce_rows<T, kRows>(top, Max());
      if constexpr (kSight == kByFold) tops = tops == VM{} - T(__builtin_inf()) ? VM{} : tops;
      unrolled<kRows>([&](auto i) {
        top[i] = spread_row<T, kRows, i>(tops);
        total[i] = VM{};
      });
      for (int64_t m = 0; m < vectors; ++m)
        unrolled<kRows>([&](auto i) {
          VM e = exp_nonpositive<T>(masked(i, m) - top[i]);
          if constexpr (kSight != kEvery) e = load<VM>(bias[i] + m * kLanesM) < VM{} ? VM{} : e;
          store(x + i * stride + m * kLanesM, e);
          total[i] += e;
        });
      VM totals = reduce_rows<T, kRows>(total, Sum());
      if constexpr (kSight == kByFold) totals = totals == VM{} ? VM{} + T(1) : totals;
      totals = (VM{} + T(1)) / totals;
      unrolled<kRows>([&](auto i) { total[i] = spread_row<T, kRows, i>(totals); });
      for (int64_t m = 0; m < vectors; ++m)
        unrolled<kRows>([&](auto i) {
          T* at = x + i * stride + m * kLanesM;
          store(at, load<VM>(at) * total[i]);
        });
    });
  }

  // dx = alpha (dalpha - alpha . dalpha), in place of dalpha.
  template <int kRows>
  static void softmax_backward(const T* alpha, T* dalpha, int64_t stride, int64_t n) {
    with_vectors(n, [&](auto vectors) {
      VM mean[kRows];
      unrolled<kRows>([&](auto i) { mean[i] = VM{}; });
      for (int64_t m = 0; m < vectors; ++m)
        unrolled<kRows>([&](auto i) {
          mean[i] += load<VM>(alpha + i * stride + m * kLanesM) *
                     load<VM>(dalpha + i * stride + m * kLanesM);
        });
      const VM means = reduce_rows<T, kRows>(mean, Sum());
      unrolled<kRows>([&](auto i) { mean[i] = spread_row<T, kRows, i>(means); });
      for (int64_t m = 0; m < vectors; ++m)
        unrolled<kRows>([&](auto i) {
          T* dx = dalpha + i * stride + m * kLanesM;
          store(dx, load<VM>(alpha + i * stride + m * kLanesM) * (load<VM>(dx) - mean[i]));
        });
    });
  }

  const AttentionArgs<T>& args_;
  const SlotFolds folds_;
  const Strides<T> s_;
  Workspace<T> w_;
  int64_t part_at_[RowReferences::kMaxRanges];  // of the chunk's next part for each range
  const int64_t H, M;
  const Width<kWidth> D;
  const int64_t C;
};

// Narrow vectors along D where D does not fill a wide one.
template <class T>
constexpr int width_bytes(int width) {
  int bytes = EKPNET_VECTOR_BYTES;
  while (bytes > 16 && width * static_cast<int>(sizeof(T)) <= bytes / 2) bytes /= 2;
  return bytes;
}

template <class T, int kWidth, class F>
auto with_constant_width(F f) {
  return f(std::integral_constant<int, width_bytes<T>(kWidth)>(),
           std::integral_constant<int, kWidth>());
}

// Calls f with the bytes of a vector along D, and with D if it is a common one, else 0. float64 and
// a set that the processors of today outdo have no widths of their own (EKPNET_COMMON_WIDTHS).
template <class T, class F>
auto with_width(int width, F f) {
  if constexpr (EKPNET_COMMON_WIDTHS && sizeof(T) == 4) {
    switch (width) {
      case 4:
        return with_constant_width<T, 4>(f);
      case 8:
        return with_constant_width<T, 8>(f);
      case 16:
        return with_constant_width<T, 16>(f);
      case 32:
        return with_constant_width<T, 32>(f);
    }
  }
  return f(std::integral_constant<int, EKPNET_VECTOR_BYTES>(), std::integral_constant<int, 0>());
}

}  // namespace
}  // namespace ekpnet
