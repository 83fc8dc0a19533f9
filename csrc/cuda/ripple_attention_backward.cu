#include "cuda/dispatch_width.cuh"
#include "cuda/ripple_attention.cuh"

namespace ekpnet {
namespace {

// Adds to a result of the team in device memory, or writes it the first time; always the same
// thread for the same place.
template <int kD, class A>
__device__ void accumulate4(A* to, int n, bool first, const Vec4<A>& x) {
  if constexpr (kD > 0) {
    Vec4<A> sum = x;
    if (!first) {
      const Vec4<A> before = load4(to);
#pragma unroll
      for (int j = 0; j < 4; ++j) sum.x[j] = before.x[j] + x.x[j];
    }
    store4(to, sum);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (j < n) to[j] = first ? x.x[j] : to[j] + x.x[j];
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
// Writes AttentionGradsCuda; inputs as in AttentionArgs.
// A team owns whole groups, P pairs at a time; its sums over pairs lie in device memory, where one
// thread owns each place. Item rows and weights of all hops stay in shared memory.
// Accumulates in float (double for double); every sum has one fixed order, so results repeat.
template <int kD, class S>
__global__ void __launch_bounds__(kAttentionThreads, 2)
    ripple_attention_backward_kernel(const AttentionArgs<S> args, const AttentionPlan plan,
                                     const AttentionGradsCuda<S> grads) {
  using A = Compute<S>;
  using F = Fragment<kD, A>;
  constexpr int kRows = kPairRows<kD>;
  const Team team{static_cast<int>(threadIdx.x) % plan.team, plan.team};
  const int place = threadIdx.x / plan.team;
  const int64_t team_index = static_cast<int64_t>(blockIdx.x) * (blockDim.x / plan.team) + place;
  if (team_index >= plan.teams) return;

  SharedRows<A> rows{reinterpret_cast<A*>(shared_memory() + place * plan.team_bytes)};
  const Tiles<A> tiles = take_tiles(rows, plan);
  const int D = kD > 0 ? kD : args.width, DP = round_up4(D), ds = bank_stride(DP);
  const int P = plan.pairs, H = args.hops, M = args.slots, ms = plan.stride_m;
  A* const o = rows.take((H + 1) * P, ds);
  A* const u = rows.take(H * P, ds);
  A* const xi = rows.take(P, ds);
  A* const dxi = rows.take(P, ds);
  A* do_next = rows.take(P, ds);
  A* do_prev = rows.take(P, ds);
  A* const alpha = rows.take(H * P, ms);
  A* const dalpha = rows.take(P, ms);
  A* const dW_e = grads.dW_e_teams + team_index * D * D;
  A* const db_e = grads.db_e_teams + team_index * D;
  for (int i = team.rank; i < D * D; i += team.size) dW_e[i] = A(0);
  for (int i = team.rank; i < D; i += team.size) db_e[i] = A(0);
  load_W_e(args, team, tiles.W_e, ds);

  for (int64_t g = team_index; g < args.num_groups; g += plan.teams) {
    const int64_t first_pair = args.group_indptr[g], last_pair = args.group_indptr[g + 1];
    checked_id(static_cast<int32_t>(first_pair), args.num_pairs + 1);
    checked_id(static_cast<int32_t>(last_pair), args.num_pairs + 1);
    for (int64_t begin = first_pair; begin < last_pair; begin += P) {
      const int count = static_cast<int>(last_pair - begin < P ? last_pair - begin : P);
      const bool first = begin == first_pair;
      load_items<kD>(args, team, begin, count, P, o, ds);
      for (int i = team.rank; i < P * ds; i += team.size) xi[i] = A(0);
      team.sync();
      for (int p = 0; p < H; ++p)
        propagate_hop<kD>(args, plan, team, tiles, g * H + p, o + p * P * ds, u + p * P * ds,
                          o + (p + 1) * P * ds, xi, alpha + p * P * ms);
      // eq. 15, 16: what z and match give to o^H and to every xi.
      for (int at = team.rank; at < P * DP; at += team.size) {
        const int i = at / DP, d = at % DP;
        const bool real = i < count && d < D;
        const int64_t b = begin + i;
        do_next[i * ds + d] =
            real && grads.dz ? to_compute(grads.dz[(b * (H + 1) + H) * D + d]) : A(0);
        dxi[i * ds + d] = real && grads.dmatch ? to_compute(grads.dmatch[b]) * o[i * ds + d] : A(0);
      }
      team.sync();
      for (int p = H - 1; p >= 0; --p) {
        const int64_t hop = g * H + p, slot = hop * M;
        const int slots = args.counts[hop], MP = round_up4(slots);
        const A *o_p = o + p * P * ds, *alpha_p = alpha + p * P * ms;
        A* const drho = u + p * P * ds;  // u of this hop is done with by then
        if (slots > 0) {
          build_tile<kD, false>(args, team, slot, slots, tiles.value, ds);
          if (!plan.one_tile) build_tile<kD, true>(args, team, slot, slots, tiles.key, ds);
        }
        // eq. 12: o_next = u W_e + b_e
        product_cols_cols(team, DP, DP, P, u + p * P * ds, ds, do_next, ds, Zero<A>(),
                          [&](int r, int c, const Vec4<A>& x) {
                            if (r < D) accumulate4<kD>(dW_e + r * D + c, D - c, false, x);
                          });
        for (int d = team.rank; d < D; d += team.size) {
          A sum = A(0);
          for (int i = 0; i < P; ++i) sum += do_next[i * ds + d];
          db_e[d] += sum;
        }
        team.sync();
        product_rows_rows<kRows, kD>(team, P, DP, DP, do_next, ds, tiles.W_e, ds, Zero<A>(),
                                     [&](int i, int d, const Vec4<A>& x) {
                                       const bool passes = !args.replace || slots == 0;
                                       store4_shared(do_prev + i * ds + d, passes ? x : Vec4<A>{});
                                       Vec4<A> sum = load4(dxi + i * ds + d), both;
                                       const S* dz = grads.dz + ((begin + i) * (H + 1) + p) * D + d;
#pragma unroll
                                       for (int j = 0; j < 4; ++j) {
                                         if (grads.dz && i < count && d + j < D)
                                           sum.x[j] += to_compute(dz[j]);
                                         both.x[j] = sum.x[j] + x.x[j];
                                       }
                                       store4_shared(dxi + i * ds + d, sum);
                                       store4_shared(drho + i * ds + d, both);
                                     });
        team.sync();
        if (slots > 0) {
          // eq. 6, 11: rho = alpha value
          product_rows_rows<kD>(
              team, P, MP, DP, drho, ds, tiles.value, ds, Zero<A>(),
              [&](int i, int m, const Vec4<A>& x) { store4_shared(dalpha + i * ms + m, x); });
          product_cols_cols(team, MP, DP, P, alpha_p, ms, drho, ds, Zero<A>(),
                            [&](int m, int d, const Vec4<A>& x) {
                              if (m < slots)
                                accumulate4<kD>(grads.dvalue + (slot + m) * D + d, D - d, first, x);
                            });
          team.sync();
          softmax_rows_backward(team, P, slots, alpha_p, dalpha, ms);
          if (plan.one_tile) build_tile<kD, true>(args, team, slot, slots, tiles.key, ds);
          team.sync();
          // eq. 9: score = key . o
          product_rows_cols<kRows, 0>(
              team, P, DP, MP, dalpha, ms, tiles.key, ds,
              [&](int i, int d) { return load4(do_prev + i * ds + d); },
              [&](int i, int d, const Vec4<A>& x) { store4_shared(do_prev + i * ds + d, x); });
          product_cols_cols(team, MP, DP, P, dalpha, ms, o_p, ds, Zero<A>(),
                            [&](int m, int d, const Vec4<A>& x) {
                              if (m < slots)
                                accumulate4<kD>(grads.dkey + (slot + m) * D + d, D - d, first, x);
                            });
          team.sync();
        }
        A* swap = do_next;
        do_next = do_prev;
        do_prev = swap;
      }
      for_rows<F::kLanes>(team, count, [&](int i, int lane) {
        if (i >= count) return;
        F d = F::load(do_next + i * ds, lane, D);
        if (grads.dmatch) d.add(to_compute(grads.dmatch[begin + i]), F::load(xi + i * ds, lane, D));
        d.store(grads.ditem + (begin + i) * D, lane, D);
      });
      team.sync();
    }
    if (args.channels == 1 || first_pair == last_pair) continue;
    for (int p = 0; p < H; ++p) {
      const int64_t slot = (g * H + p) * M;
      const int slots = args.counts[g * H + p];
      for_rows<F::kLanes>(team, slots, [&](int m, int lane) {
        F dkey = F::zero(), dvalue = F::zero(), h = F::zero(), h_gamma = F::zero();
        F t = F::zero(), t_gamma = F::zero(), r_gamma = F::zero();
        if (m < slots) {
          const S* head = args.entity + static_cast<int64_t>(args.heads[slot + m]) * 2 * D;
          const S* tail = args.entity + static_cast<int64_t>(args.tails[slot + m]) * 2 * D;
          const S* relation =
              args.relation + static_cast<int64_t>(args.relations[slot + m]) * 2 * D;
          dkey = F::load(grads.dkey + (slot + m) * D, lane, D);
          dvalue = F::load(grads.dvalue + (slot + m) * D, lane, D);
          h = F::load(head, lane, D);
          h_gamma = F::load(head + D, lane, D);
          t = F::load(tail, lane, D);
          t_gamma = F::load(tail + D, lane, D);
          r_gamma = F::load(relation + D, lane, D);
        }
        const Vec4<A> factors = {
            {dkey.dot(h_gamma), r_gamma.dot(h), dvalue.dot(t_gamma), r_gamma.dot(t)}};
        if (m < slots && lane == 0) store4(grads.factors + (slot + m) * 4, factors);
      });
    }
  }
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
void launch_ripple_attention_backward(const AttentionArgs<S>& args, const AttentionPlan& plan,
                                      const AttentionGradsCuda<S>& grads, cudaStream_t stream) {
  const int teams = kAttentionThreads / plan.team;
  dispatch_width<S>(args.width, [&](auto width) {
    launch(ripple_attention_backward_kernel<decltype(width)::value, S>, ceil_div(plan.teams, teams),
           kAttentionThreads, plan.team_bytes * teams, stream, args, plan, grads);
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
  template void launch_ripple_attention_backward(const AttentionArgs<S>&, const AttentionPlan&,    \
                                                 const AttentionGradsCuda<S>&, cudaStream_t);      \
  template void launch_attention_references(const AttentionArgs<S>&, int32_t*, int32_t*, int32_t*, \
                                            int32_t*, cudaStream_t);
EKPNET_INSTANTIATE(float)
EKPNET_INSTANTIATE(Bf16)
EKPNET_INSTANTIATE(double)
#undef EKPNET_INSTANTIATE

}  // namespace ekpnet
