#include "cuda/dispatch_width.cuh"
#include "cuda/ripple_attention.cuh"

namespace ekpnet {
namespace {

// The first n of four neighbours to device memory; all of them where rows have a kernel's width.
template <int kD, class A>
__device__ void store_some(A* to, int n, const Vec4<A>& x) {
  if constexpr (kD > 0) {
    store4(to, x);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (j < n) to[j] = x.x[j];
  }
}

// dalpha [P, MS] becomes the gradient of the scores: alpha (dalpha - alpha . dalpha).
template <class A>
__device__ void softmax_rows_backward(const Team& team, int P, int count, const A* alpha, A* dalpha,
                                      int stride) {
  for_rows<kSoftmaxLanes>(team, P, [&](int i, int lane) {
    if (i >= P) return;  // a whole warp, because P is a multiple of its four rows
    const A* weights = alpha + i * stride;
    A* row = dalpha + i * stride;
    A mean = A(0);
    for (int m = 4 * lane; m < count; m += 4 * kSoftmaxLanes) {
      const Vec4<A> a = load4(weights + m), d = load4(row + m);
#pragma unroll
      for (int j = 0; j < 4; ++j) mean += a.x[j] * d.x[j];
    }
    mean = lane_sum<kSoftmaxLanes>(mean);
    for (int m = 4 * lane; m < count; m += 4 * kSoftmaxLanes) {
      const Vec4<A> a = load4(weights + m);
      Vec4<A> d = load4(row + m);
#pragma unroll
      for (int j = 0; j < 4; ++j) d.x[j] = a.x[j] * (d.x[j] - mean);
      store4_shared(row + m, d);
    }
  });
}

// Gradient of the propagation; hops are recomputed, then undone in reverse.
// Writes AttentionGradsCuda but for dkey, dvalue and factors; inputs as in AttentionArgs.
// A block takes every `teams`-th piece of work, up to P pairs of a group: what they give to the
// group's slots is theirs alone, and summed by the kernel below. Item rows and weights of all hops
// stay in shared memory; one thread owns each place of the block's sums in device memory.
// Accumulates in float (double for double); every sum has one fixed order, so results repeat.
template <int kD, int kRows, class S>
__global__ void __launch_bounds__(kAttentionThreads, (kBlocksAtOnce<kD, kRows, Compute<S>>))
    ripple_attention_backward_kernel(const AttentionArgs<S> args, const SlotFoldsCuda folds,
                                     const AttentionPlan plan, const AttentionGradsCuda<S> grads) {
  using A = Compute<S>;
  using F = Fragment<kD, A>;
  constexpr int kPair = kPairRows<kD, kRows>;
  const Team team = block_team();
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t g = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; g < args.num_groups;
       g += threads)
    check_group(args.group_indptr, g, args.num_groups, args.num_pairs);
  SharedRows<A> rows{reinterpret_cast<A*>(shared_memory())};
  const Tiles<A> tiles = take_tiles(rows, plan);
  const int D = kD > 0 ? kD : args.width, DP = round_up4(D), ds = bank_stride(DP);
  const int P = plan.pairs, H = args.hops, M = args.slots, ms = plan.stride_m;
  A* const o = rows.take((H + 1) * P, ds);
  A* const u = rows.take(H * P, ds);
  A* const d_o = rows.take((H + 1) * P, ds);  // of o of all hops; before, what z gives to them
  A* const xi = rows.take(P, ds);
  A* const dxi = rows.take(P, ds);
  A* const drho = rows.take(P, ds);
  A* const alpha = rows.take(H * P, ms);
  A* const dalpha = rows.take(P, ms);
  A* const dW_e = grads.dW_e_teams + static_cast<int64_t>(blockIdx.x) * D * D;
  A* const db_e = grads.db_e_teams + static_cast<int64_t>(blockIdx.x) * D;
  for (int i = team.rank; i < D * D; i += team.size) dW_e[i] = A(0);
  for (int i = team.rank; i < D; i += team.size) db_e[i] = A(0);
  load_W_e(args, team, tiles.W_e, ds);

  for (int64_t item = blockIdx.x; item < plan.items; item += plan.teams) {
    const WorkItem work = find_work(args.group_indptr, args.num_groups, plan.shift, item);
    check_group(args.group_indptr, work.group, args.num_groups, args.num_pairs);
    if (work.count <= 0) continue;
    const int count = work.count;
    // The items, and what z and match give to o^H and to every xi (eq. 15, 16).
    for_rows<F::kLanes>(team, P, [&](int i, int lane) {
      if (i >= P) return;
      const bool real = i < count;
      const int64_t b = work.begin + i;
      F v = F::zero(), of_match = F::zero();
      if (real) {
        const int64_t row = checked_id(args.items[b], args.num_rows);
        v = F::load(args.entity + row * args.channels * D, lane, D);
        if (grads.dmatch) of_match.add(to_compute(grads.dmatch[b]), v);
      }
      v.store_shared(o + i * ds, lane, DP);
      of_match.store_shared(dxi + i * ds, lane, DP);
      F::zero().store_shared(xi + i * ds, lane, DP);
      for (int p = 0; p <= H; ++p) {
        F of_z = F::zero();
        if (real && grads.dz) of_z = F::load(grads.dz + (b * (H + 1) + p) * D, lane, D);
        of_z.store_shared(d_o + (p * P + i) * ds, lane, DP);
      }
    });
    if (plan.all_tiles) build_tiles<kD>(args, plan, team, tiles, work.group, 0, 2 * H);
    team.sync();
    for (int p = 0; p < H; ++p)
      propagate_hop<kD, kRows>(args, folds, plan, team, tiles, work, p, o + p * P * ds,
                               u + p * P * ds, o + (p + 1) * P * ds, xi, alpha + p * P * ms);
    for (int p = H - 1; p >= 0; --p) {
      const int64_t hop = work.group * H + p;
      const int slots = args.counts[hop], MP = round_up4(slots);
      const A *const o_p = o + p * P * ds, *const alpha_p = alpha + p * P * ms;
      const A *const key = tiles.at(2 * p, plan.all_tiles), *const value =
                                                                tiles.at(2 * p + 1, plan.all_tiles);
      A* const do_p = d_o + p * P * ds;
      const int64_t of_item = (item * H + p) * M;
      if (slots > 0 && !plan.all_tiles)
        build_tiles<kD>(args, plan, team, tiles, work.group, 2 * p + 2 - plan.tiles, plan.tiles);
      // eq. 12: o_next = u W_e + b_e
      product_rows_rows<kPair, kD>(team, P, DP, DP, do_p + P * ds, ds, tiles.W_e, ds, Zero<A>(),
                                   [&](int i, int d, const Vec4<A>& x) {
                                     const bool passes = !args.replace || slots == 0;
                                     const Vec4<A> dz = load4(do_p + i * ds + d);
                                     Vec4<A> sum = load4(dxi + i * ds + d), both;
#pragma unroll
                                     for (int j = 0; j < 4; ++j) {
                                       sum.x[j] += dz.x[j];
                                       both.x[j] = sum.x[j] + x.x[j];
                                     }
                                     store4_shared(do_p + i * ds + d, passes ? x : Vec4<A>{});
                                     store4_shared(dxi + i * ds + d, sum);
                                     store4_shared(drho + i * ds + d, both);
                                   });
      team.sync();
      if (slots > 0) {
        // eq. 6, 11: rho = alpha value
        product_rows_rows<kRows, kD>(
            team, P, MP, DP, drho, ds, value, ds, Zero<A>(),
            [&](int i, int m, const Vec4<A>& x) { store4_shared(dalpha + i * ms + m, x); });
        product_cols_cols<kRows>(team, MP, DP, P, alpha_p, ms, drho, ds, Zero<A>(),
                                 [&](int m, int d, const Vec4<A>& x) {
                                   A* to = grads.dvalue_items + (of_item + m) * D + d;
                                   if (m < slots) store_some<kD>(to, D - d, x);
                                 });
        team.sync();
        softmax_rows_backward(team, P, slots, alpha_p, dalpha, ms);
        if (plan.tiles == 1) build_tiles<kD>(args, plan, team, tiles, work.group, 2 * p, 1);
        team.sync();
        // eq. 9: score = key . o
        product_rows_cols<kPair, 0>(
            team, P, DP, MP, dalpha, ms, key, ds,
            [&](int i, int d) { return load4(do_p + i * ds + d); },
            [&](int i, int d, const Vec4<A>& x) { store4_shared(do_p + i * ds + d, x); });
        product_cols_cols<kRows>(team, MP, DP, P, dalpha, ms, o_p, ds, Zero<A>(),
                                 [&](int m, int d, const Vec4<A>& x) {
                                   A* to = grads.dkey_items + (of_item + m) * D + d;
                                   if (m < slots) store_some<kD>(to, D - d, x);
                                 });
        team.sync();
      }
    }
    // eq. 12 again, of all hops at once: their rows follow each other.
    product_cols_cols<kRows>(
        team, DP, DP, H * P, u, ds, d_o + P * ds, ds,
        [&](int r, int c) {
          Vec4<A> sum = {};
#pragma unroll
          for (int j = 0; j < 4; ++j)
            if (r < D && c + j < D) sum.x[j] = dW_e[r * D + c + j];
          return sum;
        },
        [&](int r, int c, const Vec4<A>& x) {
          if (r < D) store_some<kD>(dW_e + r * D + c, D - c, x);
        });
    for (int d = team.rank; d < D; d += team.size) {
      A sum = db_e[d];
      for (int i = 0; i < H * P; ++i) sum += d_o[(P + i) * ds + d];
      db_e[d] = sum;
    }
    for_rows<F::kLanes>(team, count, [&](int i, int lane) {
      if (i >= count) return;
      F d = F::load(d_o + i * ds, lane, D);
      if (grads.dmatch)
        d.add(to_compute(grads.dmatch[work.begin + i]), F::load(xi + i * ds, lane, D));
      d.store(grads.ditem + (work.begin + i) * D, lane, D);
    });
    team.sync();
  }
}

constexpr int kSlotThreads = 128;

// What the pieces of a group give to its slots, in their order, and products of it with the rows.
// dkey, dvalue [G, H, M, D], factors [G, H, M, 4] of valid slots of groups with pairs.
// The lanes of a fragment own a slot.
template <int kD, class S>
__global__ void __launch_bounds__(kSlotThreads)
    attention_slots_kernel(const AttentionArgs<S> args, const AttentionPlan plan,
                           const AttentionGradsCuda<S> grads) {
  using A = Compute<S>;
  using F = Fragment<kD, A>;
  const int D = kD > 0 ? kD : args.width, M = args.slots, lane = threadIdx.x % F::kLanes;
  const int64_t slot = (static_cast<int64_t>(blockIdx.x) * kSlotThreads + threadIdx.x) / F::kLanes;
  const int64_t in_group = static_cast<int64_t>(args.hops) * M, group = slot / in_group;
  F dkey = F::zero(), dvalue = F::zero(), h = F::zero(), h_gamma = F::zero();
  F t = F::zero(), t_gamma = F::zero(), r_gamma = F::zero();
  bool mine = group < args.num_groups;
  if (mine) {
    const int64_t begin = args.group_indptr[group], pairs = args.group_indptr[group + 1] - begin;
    mine = pairs > 0 && slot % M < args.counts[slot / M];
    if (mine) {
      const int64_t first = group + (begin >> plan.shift), pieces = ceil_div(pairs, plan.pairs);
      int64_t at = (first * in_group + slot % in_group) * D;
#pragma unroll 4
      for (int64_t i = 0; i < pieces; ++i, at += in_group * D) {
        dkey.add(A(1), F::load(grads.dkey_items + at, lane, D));
        dvalue.add(A(1), F::load(grads.dvalue_items + at, lane, D));
      }
      dkey.store(grads.dkey + slot * D, lane, D);
      dvalue.store(grads.dvalue + slot * D, lane, D);
      if (args.channels == 2) {
        const S* head = args.entity + static_cast<int64_t>(args.heads[slot]) * 2 * D;
        const S* tail = args.entity + static_cast<int64_t>(args.tails[slot]) * 2 * D;
        h = F::load(head, lane, D);
        h_gamma = F::load(head + D, lane, D);
        t = F::load(tail, lane, D);
        t_gamma = F::load(tail + D, lane, D);
        r_gamma = F::load(args.relation + (static_cast<int64_t>(args.relations[slot]) * 2 + 1) * D,
                          lane, D);
      }
    }
  }
  if (args.channels == 1) return;
  const Vec4<A> factors = {
      {dkey.dot(h_gamma), r_gamma.dot(h), dvalue.dot(t_gamma), r_gamma.dot(t)}};
  if (mine && lane == 0) store4(grads.factors + slot * 4, factors);
}

// The rows that references point to, as keys to sort. One thread per slot and per item.
template <class S>
__global__ void attention_references_kernel(const AttentionArgs<S> args, int32_t* entity_keys,
                                            int32_t* entity_references, int32_t* relation_keys,
                                            int32_t* relation_references) {
  const int64_t slots = args.num_groups * args.hops * args.slots;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < slots + args.num_pairs; i += stride) {
    if (i >= slots) {
      entity_keys[slots + i] = args.items[i - slots];
      entity_references[slots + i] = static_cast<int32_t>(slots + i);
      continue;
    }
    const int64_t hop = i / args.slots, g = hop / args.hops;
    const bool valid =
        i % args.slots < args.counts[hop] && args.group_indptr[g] < args.group_indptr[g + 1];
    entity_keys[i] = valid ? args.heads[i] : static_cast<int32_t>(args.num_rows);
    entity_keys[slots + i] = valid ? args.tails[i] : static_cast<int32_t>(args.num_rows);
    relation_keys[i] = valid ? args.relations[i] : static_cast<int32_t>(args.num_relations);
    entity_references[i] = relation_references[i] = static_cast<int32_t>(i);
    entity_references[slots + i] = static_cast<int32_t>(slots + i);
  }
}

}  // namespace

template <class S>
void launch_ripple_attention_backward(const AttentionArgs<S>& args, const SlotFoldsCuda& folds,
                                      const AttentionPlan& plan, const AttentionGradsCuda<S>& grads,
                                      cudaStream_t stream) {
  dispatch_width<S>(args.width, [&](auto width) {
    constexpr int kD = decltype(width)::value;
    const auto kernel = plan.tile_rows == 1 ? ripple_attention_backward_kernel<kD, 1, S>
                                            : ripple_attention_backward_kernel<kD, 4, S>;
    launch(kernel, plan.teams, plan.threads, plan.shared_bytes, stream, args, folds, plan, grads);
    const int64_t slots = args.num_groups * args.hops * args.slots;
    launch(attention_slots_kernel<kD, S>,
           ceil_div(slots * Fragment<kD, Compute<S>>::kLanes, kSlotThreads), kSlotThreads, 0,
           stream, args, plan, grads);
  });
}

template <class S>
void launch_attention_references(const AttentionArgs<S>& args, int32_t* entity_keys,
                                 int32_t* entity_references, int32_t* relation_keys,
                                 int32_t* relation_references, cudaStream_t stream) {
  constexpr int kThreads = 256;
  const int64_t n = args.num_groups * args.hops * args.slots + args.num_pairs;
  launch(attention_references_kernel<S>, grid_size(n, kThreads), kThreads, 0, stream, args,
         entity_keys, entity_references, relation_keys, relation_references);
}

#define EKPNET_INSTANTIATE(S)                                                                      \
  template void launch_ripple_attention_backward(const AttentionArgs<S>&, const SlotFoldsCuda&,    \
                                                 const AttentionPlan&,                             \
                                                 const AttentionGradsCuda<S>&, cudaStream_t);      \
  template void launch_attention_references(const AttentionArgs<S>&, int32_t*, int32_t*, int32_t*, \
                                            int32_t*, cudaStream_t);
EKPNET_INSTANTIATE(float)
EKPNET_INSTANTIATE(Bf16)
EKPNET_INSTANTIATE(double)
#undef EKPNET_INSTANTIATE

}  // namespace ekpnet
