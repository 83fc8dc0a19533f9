// What the passes of ripple_attention share: how groups are laid over teams and shared memory, and
// the pieces of a hop.
//
// A block works on up to `pairs` pairs of one user group at a time. It builds the group's key and
// value tiles in shared memory (rank-1 projections, eq. 8, 9), those of all hops at once where they
// fit, so that their rows come together; the pairs are then small matrix products against them.
// Layout in shared memory, rows padded by four values against bank conflicts and to multiples of
// four with zeros:
//   W_e [DP, DS], tiles [MP, DS] each (one for keys and values in turn where memory is short),
//   then per pass: rows of D values per pair [P, DS] and rows of M weights per pair [P, MS].
#pragma once

#include <cmath>

#include "cuda/products.cuh"
#include "cuda/ripple_attention.h"

namespace ekpnet {

// Rows of tiles of a product with D columns, where those of one with M columns have kRows.
template <int kD, int kRows>
constexpr int kPairRows = kRows == 1            ? 1
                          : kD == 0 || kD >= 32 ? 4
                          : kD == 16            ? 2
                                                : 1;
// Blocks that a multiprocessor shall hold at least, as far as registers say.
template <int kD, int kRows, class A>
constexpr int kBlocksAtOnce = kRows == 4 || sizeof(A) == 8 ? 2
                              : kD == 0                    ? 3
                                                           : 4;
constexpr int kSoftmaxLanes = 8;
constexpr int kTileRowsAhead = 2;  // of tiles, whose values are fetched before they are used

inline __device__ Team block_team() {
  return {static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)};
}

// Which pairs a block works on: those of `group` from `begin` on, none if count <= 0.
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
    // The first group is before every item; row pointers that say otherwise are found later.
    const int passed = __popc(__ballot_sync(kAllLanes, before || lane == 0));
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

// Where tiles lie, numbered by 2 * hop for keys and 2 * hop + 1 for values.
template <class A>
struct Tiles {
  A* W_e;
  A* first;
  int size;     // values of a tile
  int at_once;  // tiles that lie there: all, two or one

  __device__ A* at(int tile, bool all) const {
    return first + (all ? tile : at_once == 2 ? tile % 2 : 0) * size;
  }
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
  A* const W_e = rows.take(plan.width, plan.stride_d);
  return {W_e, rows.take(plan.tiles * plan.slots, plan.stride_d), plan.slots * plan.stride_d,
          plan.tiles};
}

// Builds tiles `tile` to `tile + n - 1` of a group: keys gamma_h (gamma_r . v_h) + v_r and values
// gamma_t (gamma_r . v_t) (eq. 8, 9); C = 1: v_h + v_r and v_t. Rows beyond a hop's slots become 0.
template <int kD, class S, class A>
__device__ void build_tiles(const AttentionArgs<S>& args, const AttentionPlan& plan,
                            const Team& team, const Tiles<A>& tiles, int64_t group, int tile,
                            int n) {
  using F = Fragment<kD, A>;
  constexpr int kAhead = kTileRowsAhead;
  const int D = kD > 0 ? kD : args.width, C = args.channels, MP = plan.slots;
  const int at_once = team.size / F::kLanes, lane = team.rank % F::kLanes;
  for (int first = team.rank / F::kLanes; first - team.rank / F::kLanes < n * MP;
       first += kAhead * at_once) {
    F v[kAhead], gamma[kAhead], v_r[kAhead], gamma_r[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      v[j] = gamma[j] = v_r[j] = gamma_r[j] = F::zero();
      const int at = first + j * at_once, which = tile + at / MP, m = at % MP;
      if (at >= n * MP) continue;
      const int64_t hop = group * args.hops + which / 2, slot = hop * args.slots + m;
      if (m >= checked_id(args.counts[hop], args.slots + 1)) continue;
      const bool key = which % 2 == 0;
      const int64_t row = checked_id((key ? args.heads : args.tails)[slot], args.num_rows);
      const int64_t relation = checked_id(args.relations[slot], args.num_relations);
      const S* e = args.entity + row * C * D;
      const S* r = args.relation + relation * C * D;
      v[j] = F::load(e, lane, D);
      if (key) v_r[j] = F::load(r, lane, D);
      if (C == 2) {
        gamma[j] = F::load(e + D, lane, D);
        gamma_r[j] = F::load(r + D, lane, D);
      }
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (C == 2)
        v_r[j].add(gamma_r[j].dot(v[j]), gamma[j]);
      else
        v_r[j].add(A(1), v[j]);
      const int at = first + j * at_once;
      if (at < n * MP)
        v_r[j].store_shared(tiles.at(tile + at / MP, plan.all_tiles) + at % MP * plan.stride_d,
                            lane, plan.width);
    }
  }
}

// The slots of a hop that a block's pairs see.
struct SeenSlots {
  int count;                  // valid slots
  bool all;                   // every pair sees all of them
  const int64_t* slot_folds;  // else those of the hop's slots
  const int32_t* pair_folds;  // and of the block's pairs
  int pairs;

  __device__ SeenSlots(const SlotFoldsCuda& folds, int slots, int64_t hop, int count,
                       const WorkItem& work)
      : count(count),
        all(folds.slots == nullptr),
        // Not null where there are none: which memory it points to would no longer be known.
        slot_folds(folds.slots + hop * slots),
        pair_folds(folds.pairs + work.begin),
        pairs(work.count) {}

  // Bit j: whether pair i sees slot m + j, j < 4.
  __device__ unsigned of(int i, int m) const {
    const unsigned valid = m + 4 <= count ? 15u : (1u << (count - m)) - 1;
    if (all || i >= pairs) return valid;
    const int64_t fold = checked_id(pair_folds[i], kMostFolds);
    unsigned seen = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (m + j < count) seen |= static_cast<unsigned>(slot_folds[m + j] >> fold & 1) << j;
    return seen;
  }
};

// alpha [P, MS] holds scores and receives weights (eq. 10), with the maximum subtracted; those of
// slots that a pair does not see, and beyond the count, become 0.
template <class A>
__device__ void softmax_rows(const Team& team, int P, const SeenSlots& slots, A* alpha,
                             int stride) {
  constexpr int kQuads = kMaxSlots / (4 * kSoftmaxLanes);
  const int count = slots.count;
  for_rows<kSoftmaxLanes>(team, P, [&](int i, int lane) {
    if (i >= P) return;  // a whole warp, because P is a multiple of its four rows
    A* row = alpha + i * stride;
    // Not row[0]: another lane stores to it below, and shuffles do not order memory.
    A top = A(-INFINITY);
    Vec4<A> e[kQuads];
    unsigned seen[kQuads];
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      const int m = 4 * (lane + q * kSoftmaxLanes);
      seen[q] = 0;
      if (m >= count) continue;
      seen[q] = slots.of(i, m);
      e[q] = load4(row + m);
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (seen[q] >> j & 1 && e[q].x[j] > top) top = e[q].x[j];
    }
    top = lane_max<kSoftmaxLanes>(top);
    A total = A(0);
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      if (4 * (lane + q * kSoftmaxLanes) >= count) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        e[q].x[j] = seen[q] >> j & 1 ? std::exp(e[q].x[j] - top) : A(0);
        total += e[q].x[j];
      }
    }
    total = lane_sum<kSoftmaxLanes>(total);
    const A scale = total == A(0) ? A(0) : A(1) / total;  // 0 of a pair that sees no slot
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      const int m = 4 * (lane + q * kSoftmaxLanes);
      if (m >= count) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j) e[q].x[j] *= scale;
      store4_shared(row + m, e[q]);
    }
  });
}

// One hop for all pairs of the block (eq. 9-12, 14): leaves the weights in alpha [P, MS], adds rho
// to xi and writes o + rho, or rho if o is replaced, to u and u W_e + b_e to o_next, all [P, DS];
// u may be o.
// Starts after a barrier and ends with one.
template <int kD, int kRows, class S, class A>
__device__ void propagate_hop(const AttentionArgs<S>& args, const SlotFoldsCuda& folds,
                              const AttentionPlan& plan, const Team& team, const Tiles<A>& tiles,
                              const WorkItem& work, int p, A* o, A* u, A* o_next, A* xi, A* alpha) {
  constexpr int kPair = kPairRows<kD, kRows>;
  const int D = kD > 0 ? kD : args.width, DP = round_up4(D), ds = bank_stride(DP);
  const int64_t hop = work.group * args.hops + p;
  const int count = static_cast<int>(checked_id(args.counts[hop], args.slots + 1));
  const int MP = round_up4(count), P = plan.pairs, ms = plan.stride_m;
  if (count > 0) {
    const A *const key = tiles.at(2 * p, plan.all_tiles), *const value =
                                                              tiles.at(2 * p + 1, plan.all_tiles);
    if (!plan.all_tiles) {
      build_tiles<kD>(args, plan, team, tiles, work.group, 2 * p, plan.tiles);
      team.sync();
    }
    product_rows_rows<kRows, kD>(
        team, P, MP, DP, o, ds, key, ds, Zero<A>(),
        [&](int i, int m, const Vec4<A>& x) { store4_shared(alpha + i * ms + m, x); });
    team.sync();
    softmax_rows(team, P, SeenSlots(folds, args.slots, hop, count, work), alpha, ms);
    if (plan.tiles == 1) build_tiles<kD>(args, plan, team, tiles, work.group, 2 * p + 1, 1);
    team.sync();
    product_rows_cols<kPair, 0>(team, P, DP, MP, alpha, ms, value, ds, Zero<A>(),
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
  product_rows_cols<kPair, kD>(
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
