#include "cuda/dispatch_width.cuh"
#include "cuda/ripple_attention.cuh"

namespace ekpnet {
namespace {

// Propagation of user groups through all hops (eq. 8-16).
// score = key . o, alpha = softmax(score), rho = alpha value, xi += rho, o = (o + rho) W_e + b_e.
// z [B, (H + 1) D], match [B], alpha [B, H, M]; any may be null; inputs as in AttentionArgs.
// A block owns up to P pairs of one group: tiles and item rows stay in shared memory over all hops.
// Accumulates in float (double for double); every sum has one fixed order.
template <int kD, int kRows, class S>
__global__ void __launch_bounds__(kAttentionThreads, (kBlocksAtOnce<kD, kRows, Compute<S>>))
    ripple_attention_forward_kernel(const AttentionArgs<S> args, const SlotFoldsCuda folds,
                                    const AttentionPlan plan, S* z, S* match, S* alpha_out) {
  using A = Compute<S>;
  using F = Fragment<kD, A>;
  const Team team = block_team();
  const WorkItem work = find_work(args.group_indptr, args.num_groups, plan.shift, blockIdx.x);
  // There is a thread for every group, so all are checked; its own before a block reads its pairs.
  const int64_t g = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (g < args.num_groups) check_group(args.group_indptr, g, args.num_groups, args.num_pairs);
  check_group(args.group_indptr, work.group, args.num_groups, args.num_pairs);
  if (work.count <= 0) return;

  SharedRows<A> rows{reinterpret_cast<A*>(shared_memory())};
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
  if (plan.all_tiles) build_tiles<kD>(args, plan, team, tiles, work.group, 0, 2 * H);
  team.sync();
  for (int p = 0; p < H; ++p) {
    const int64_t hop = work.group * H + p;
    propagate_hop<kD, kRows>(args, folds, plan, team, tiles, work, p, o, o, o_next, xi, alpha);
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
void launch_ripple_attention_forward(const AttentionArgs<S>& args, const SlotFoldsCuda& folds,
                                     const AttentionPlan& plan, S* z, S* match, S* alpha,
                                     cudaStream_t stream) {
  if (args.num_pairs == 0) return;
  dispatch_width<S>(args.width, [&](auto width) {
    constexpr int kD = decltype(width)::value;
    const auto kernel = plan.tile_rows == 1 ? ripple_attention_forward_kernel<kD, 1, S>
                                            : ripple_attention_forward_kernel<kD, 4, S>;
    launch(kernel, plan.items, plan.threads, plan.shared_bytes, stream, args, folds, plan, z, match,
           alpha);
  });
}

#define EKPNET_INSTANTIATE(S)                                                                  \
  template void launch_ripple_attention_forward(const AttentionArgs<S>&, const SlotFoldsCuda&, \
                                                const AttentionPlan&, S*, S*, S*, cudaStream_t);
EKPNET_INSTANTIATE(float)
EKPNET_INSTANTIATE(Bf16)
EKPNET_INSTANTIATE(double)
#undef EKPNET_INSTANTIATE

}  // namespace ekpnet
