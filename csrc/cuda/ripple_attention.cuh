// What the passes of ripple_attention share: how groups are laid over teams and shared memory, and
// the pieces of a hop.
//
// A team, a warp or a block, works on up to `pairs` pairs of one user group at a time. It builds
// the group's key and value tiles of a hop in shared memory (rank-1 projections, eq. 8, 9); the
// pairs are then small matrix products against them. Layout in shared memory, rows padded by four
// values against bank conflicts and to multiples of four with zeros:
//   W_e [DP, DS], key [MP, DS], value [MP, DS] (one tile for both where memory is short),
//   then per pass: rows of D values per pair [P, DS] and rows of M weights per pair [P, MS].
#pragma once

#include <cmath>

#include "cuda/products.cuh"
#include "cuda/ripple_attention.h"

namespace ekpnet {

// Rows of products' tiles: as many as leave every thread of a team a tile at 32 slots.
template <int kD>
constexpr int kPairRows = kD == 0 || kD >= 32 ? 4
                          : kD == 16          ? 2
                                              : 1;
constexpr int kSoftmaxLanes = 8;

// Which pairs a team works on: those of `group` from `begin` on, none if count <= 0.
struct WorkItem {
  int64_t group, begin;
  int count;
};

// Group g owns the items g + indptr[g] / P up to g + 1 + indptr[g + 1] / P, which are enough for
// its pairs and known without a sum over groups. All lanes of a warp search together.
inline __device__ WorkItem find_work(const int64_t* indptr, int64_t num_groups, int shift,
                                     int64_t item) {
  const int lane = threadIdx.x % kWarp;
  int64_t low = 0, high = num_groups;
  while (high - low > 1) {
    const int64_t step = ceil_div(high - low, kWarp), probe = low + lane * step;
    const bool before = probe < high && probe + (indptr[probe] >> shift) <= item;
    const int passed = __popc(__ballot_sync(kAllLanes, before));
    low += (passed - 1) * step;
    high = low + step < high ? low + step : high;
  }
  const int64_t chunk = item - (low + (indptr[low] >> shift));
  const int64_t begin = indptr[low] + (chunk << shift), left = indptr[low + 1] - begin;
  return {low, begin, static_cast<int>(left < (1 << shift) ? left : 1 << shift)};
}

// The item vectors of the pairs into o [P, DS]; rows without a pair become 0.
template <int kD, class S, class A>
__device__ void load_items(const AttentionArgs<S>& args, const Team& team, int64_t begin, int count,
                           int P, A* o, int stride) {
  using F = Fragment<kD, A>;
  const int D = kD > 0 ? kD : args.width;
  for_rows<F::kLanes>(team, P, [&](int i, int lane) {
    if (i >= P) return;
    F v = F::zero();
    if (i < count) {
      const int64_t row = checked_id(args.items[begin + i], args.num_rows);
      v = F::load(args.entity + row * args.channels * D, lane, D);
    }
    v.store_shared(o + i * stride, lane, round_up4(D));
  });
}

template <class S, class A>
__device__ void load_W_e(const AttentionArgs<S>& args, const Team& team, A* W_e, int stride) {
  const int D = args.width, DP = round_up4(D);
  for (int i = team.rank; i < DP * DP; i += team.size) {
    const int r = i / DP, c = i % DP;
    W_e[r * stride + c] = r < D && c < D ? to_compute(args.W_e[r * D + c]) : A(0);
  }
}

// Keys gamma_h (gamma_r . v_h) + v_r, or values gamma_t (gamma_r . v_t) (eq. 8, 9); C = 1: v_h +
// v_r and v_t. `slot` is the first slot of the hop; rows from `count` to MP become 0.
template <int kD, bool kKey, class S, class A>
__device__ void build_tile(const AttentionArgs<S>& args, const Team& team, int64_t slot, int count,
                           A* tile, int stride) {
  using F = Fragment<kD, A>;
  const int D = kD > 0 ? kD : args.width, C = args.channels, MP = round_up4(count);
  for_rows<F::kLanes>(team, MP, [&](int m, int lane) {
    F v = F::zero(), gamma = F::zero(), v_r = F::zero(), gamma_r = F::zero();
    if (m < count) {
      const int64_t row =
          checked_id(kKey ? args.heads[slot + m] : args.tails[slot + m], args.num_rows);
      const int64_t relation = checked_id(args.relations[slot + m], args.num_relations);
      const S* e = args.entity + row * C * D;
      const S* r = args.relation + relation * C * D;
      v = F::load(e, lane, D);
      if (kKey) v_r = F::load(r, lane, D);
      if (C == 2) {
        gamma = F::load(e + D, lane, D);
        gamma_r = F::load(r + D, lane, D);
      }
    }
    if (C == 2) {
      v_r.add(gamma_r.dot(v), gamma);
      v = v_r;
    } else {
      v.add(A(1), v_r);
    }
    if (m < MP) v.store_shared(tile + m * stride, lane, round_up4(D));
  });
}

// alpha [P, MS] holds scores and receives weights (eq. 10), with the maximum subtracted; slots from
// `count` to MP become 0.
template <class A>
__device__ void softmax_rows(const Team& team, int P, int count, A* alpha, int stride) {
  for_rows<kSoftmaxLanes>(team, P, [&](int i, int lane) {
    if (i >= P) return;  // a whole warp, because P is a multiple of its four rows
    A* row = alpha + i * stride;
    // Not row[0]: another lane stores to it below, and shuffles do not order memory.
    A top = A(-INFINITY);
    for (int m = 4 * lane; m < count; m += 4 * kSoftmaxLanes) {
      const Vec4<A> x = load4(row + m);
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (m + j < count && x.x[j] > top) top = x.x[j];
    }
    top = lane_max<kSoftmaxLanes>(top);
    A total = A(0);
    Vec4<A> e[kMaxSlots / (4 * kSoftmaxLanes)];
#pragma unroll
    for (int q = 0; q < kMaxSlots / (4 * kSoftmaxLanes); ++q) {
      const int m = 4 * (lane + q * kSoftmaxLanes);
      if (m < count) {
        const Vec4<A> x = load4(row + m);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          e[q].x[j] = m + j < count ? std::exp(x.x[j] - top) : A(0);
          total += e[q].x[j];
        }
      }
    }
    total = lane_sum<kSoftmaxLanes>(total);
    const A scale = A(1) / total;
#pragma unroll
    for (int q = 0; q < kMaxSlots / (4 * kSoftmaxLanes); ++q) {
      const int m = 4 * (lane + q * kSoftmaxLanes);
      if (m < count) {
#pragma unroll
        for (int j = 0; j < 4; ++j) e[q].x[j] *= scale;
        store4_shared(row + m, e[q]);
      }
    }
  });
}

// Where a hop's tiles lie; key == value where both share one.
template <class A>
struct Tiles {
  A *W_e, *key, *value;
};

// Takes rows of `stride` values from shared memory one after the other.
template <class A>
struct SharedRows {
  A* next;
  __device__ A* take(int rows, int stride) {
    A* at = next;
    next += rows * stride;
    return at;
  }
};

template <class A>
__device__ Tiles<A> take_tiles(SharedRows<A>& rows, const AttentionPlan& plan) {
  Tiles<A> tiles;
  tiles.W_e = rows.take(plan.width, plan.stride_d);
  tiles.key = rows.take(plan.slots, plan.stride_d);
  tiles.value = plan.one_tile ? tiles.key : rows.take(plan.slots, plan.stride_d);
  return tiles;
}

// One hop for all pairs of the team (eq. 9-12, 14): leaves the weights in alpha [P, MS], adds rho
// to xi and writes o + rho, or rho if o is replaced, to u and u W_e + b_e to o_next, all [P, DS];
// u may be o.
// Starts after a barrier and ends with one.
template <int kD, class S, class A>
__device__ void propagate_hop(const AttentionArgs<S>& args, const AttentionPlan& plan,
                              const Team& team, const Tiles<A>& tiles, int64_t hop, A* o, A* u,
                              A* o_next, A* xi, A* alpha) {
  constexpr int kRows = kPairRows<kD>;
  const int D = kD > 0 ? kD : args.width, DP = round_up4(D), ds = bank_stride(DP);
  const int count = static_cast<int>(checked_id(args.counts[hop], args.slots + 1));
  const int MP = round_up4(count), P = plan.pairs, ms = plan.stride_m;
  if (count > 0) {
    const int64_t slot = hop * args.slots;
    build_tile<kD, true>(args, team, slot, count, tiles.key, ds);
    if (!plan.one_tile) build_tile<kD, false>(args, team, slot, count, tiles.value, ds);
    team.sync();
    product_rows_rows<kD>(
        team, P, MP, DP, o, ds, tiles.key, ds, Zero<A>(),
        [&](int i, int m, const Vec4<A>& x) { store4_shared(alpha + i * ms + m, x); });
    team.sync();
    softmax_rows(team, P, count, alpha, ms);
    if (plan.one_tile) build_tile<kD, false>(args, team, slot, count, tiles.value, ds);
    team.sync();
    product_rows_cols<kRows, 0>(team, P, DP, MP, alpha, ms, tiles.value, ds, Zero<A>(),
                                [&](int i, int d, const Vec4<A>& rho) {
                                  Vec4<A> sum = load4(xi + i * ds + d);
                                  Vec4<A> moved = load4(o + i * ds + d);
#pragma unroll
                                  for (int j = 0; j < 4; ++j) {
                                    sum.x[j] += rho.x[j];
                                    moved.x[j] = rho.x[j] + (args.replace ? A(0) : moved.x[j]);
                                  }
                                  store4_shared(xi + i * ds + d, sum);
                                  store4_shared(u + i * ds + d, moved);
                                });
  } else if (u != o) {
    for (int at = team.rank; at < P * DP; at += team.size)
      u[at / DP * ds + at % DP] = o[at / DP * ds + at % DP];
  }
  team.sync();
  product_rows_cols<kRows, kD>(
      team, P, DP, DP, u, ds, tiles.W_e, ds,
      [&](int, int d) {
        Vec4<A> b;
#pragma unroll
        for (int j = 0; j < 4; ++j) b.x[j] = d + j < D ? to_compute(args.b_e[d + j]) : A(0);
        return b;
      },
      [&](int i, int d, const Vec4<A>& x) { store4_shared(o_next + i * ds + d, x); });
  team.sync();
}

}  // namespace ekpnet
