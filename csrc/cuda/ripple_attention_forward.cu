#include "cuda/dispatch_width.cuh"
#include "cuda/ripple_attention.cuh"

namespace ekpnet {
namespace {

// Propagation of user groups through all hops (eq. 8-16).
// score = key . o, alpha = softmax(score), rho = alpha value, xi += rho, o = (o + rho) W_e + b_e.
// z [B, (H + 1) D], match [B], alpha [B, H, M]; any may be null; inputs as in AttentionArgs.
// A team owns up to P pairs of one group: tiles and item rows stay in shared memory over all hops.
// Accumulates in float (double for double); every sum has one fixed order.
template <int kD, class S>
__global__ void __launch_bounds__(kAttentionThreads, 2)
    ripple_attention_forward_kernel(const AttentionArgs<S> args, const AttentionPlan plan, S* z,
                                    S* match, S* alpha_out) {
  using A = Compute<S>;
  using F = Fragment<kD, A>;
  const Team team{static_cast<int>(threadIdx.x) % plan.team, plan.team};
  const int place = threadIdx.x / plan.team;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * (blockDim.x / plan.team) + place;
  if (item >= args.num_groups + (args.num_pairs >> plan.shift)) return;
  const WorkItem work = find_work(args.group_indptr, args.num_groups, plan.shift, item);
  if (work.count <= 0) return;
  checked_id(static_cast<int32_t>(work.begin), args.num_pairs);
  checked_id(static_cast<int32_t>(work.begin + work.count - 1), args.num_pairs);

  SharedRows<A> rows{reinterpret_cast<A*>(shared_memory() + place * plan.team_bytes)};
  const Tiles<A> tiles = take_tiles(rows, plan);
  const int D = kD > 0 ? kD : args.width, ds = bank_stride(round_up4(D));
  const int P = plan.pairs, H = args.hops;
  A* o = rows.take(P, ds);
  A* o_next = rows.take(P, ds);
  A* xi = rows.take(P, ds);
  A* alpha = rows.take(P, plan.stride_m);
  load_W_e(args, team, tiles.W_e, ds);
  load_items<kD>(args, team, work.begin, work.count, P, o, ds);
  for (int i = team.rank; i < P * ds; i += team.size) xi[i] = A(0);
  team.sync();
  for (int p = 0; p < H; ++p) {
    const int64_t hop = work.group * H + p;
    propagate_hop<kD>(args, plan, team, tiles, hop, o, o, o_next, xi, alpha);
    if (z)
      for_rows<F::kLanes>(team, work.count, [&](int i, int lane) {
        if (i < work.count)
          F::load(xi + i * ds, lane, D).store(z + ((work.begin + i) * (H + 1) + p) * D, lane, D);
      });
    if (alpha_out) {
      const int count = args.counts[hop], M = args.slots;
      for (int at = team.rank; at < work.count * M; at += team.size) {
        const int i = at / M, m = at % M;
        alpha_out[((work.begin + i) * H + p) * M + m] =
            from_compute<S>(m < count ? alpha[i * plan.stride_m + m] : A(0));
      }
      team.sync();
    }
    A* swap = o;
    o = o_next;
    o_next = swap;
  }
  for_rows<F::kLanes>(team, work.count, [&](int i, int lane) {
    const bool mine = i < work.count;
    F product = F::zero(), v = F::zero();
    if (mine) {
      if (z) F::load(o + i * ds, lane, D).store(z + ((work.begin + i) * (H + 1) + H) * D, lane, D);
      product = F::load(xi + i * ds, lane, D);
      const int64_t row = args.items[work.begin + i];
      v = F::load(args.entity + row * args.channels * D, lane, D);
    }
    const A logit = product.dot(v);
    if (mine && match && lane == 0) match[work.begin + i] = from_compute<S>(logit);
  });
}

}  // namespace

template <class S>
void launch_ripple_attention_forward(const AttentionArgs<S>& args, const AttentionPlan& plan, S* z,
                                     S* match, S* alpha, cudaStream_t stream) {
  if (args.num_pairs == 0) return;
  const int teams = kAttentionThreads / plan.team;
  const int64_t items = args.num_groups + (args.num_pairs >> plan.shift);
  dispatch_width<S>(args.width, [&](auto width) {
    launch(ripple_attention_forward_kernel<decltype(width)::value, S>, ceil_div(items, teams),
           kAttentionThreads, plan.team_bytes * teams, stream, args, plan, z, match, alpha);
  });
}

template void launch_ripple_attention_forward(const AttentionArgs<float>&, const AttentionPlan&,
                                              float*, float*, float*, cudaStream_t);
template void launch_ripple_attention_forward(const AttentionArgs<Bf16>&, const AttentionPlan&,
                                              Bf16*, Bf16*, Bf16*, cudaStream_t);
template void launch_ripple_attention_forward(const AttentionArgs<double>&, const AttentionPlan&,
                                              double*, double*, double*, cudaStream_t);

}  // namespace ekpnet
