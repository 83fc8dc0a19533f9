#include <cmath>

#include "cuda/block_sum.cuh"
#include "cuda/list_loss.h"
#include "cuda/pair_loss.cuh"

namespace ekpnet {
namespace {

constexpr int kThreads = 128, kMostBlocks = 512;

// log(1 + exp(x)) and its derivative.
template <class A>
__device__ A softplus(A x, A* slope) {
  const A e = std::exp(x < A(0) ? x : -x);
  *slope = (x < A(0) ? e : A(1)) / (A(1) + e);
  return (x < A(0) ? A(0) : x) + std::log1p(e);
}

// BPR (Rendle et al. 2009): of each positive, -log sigmoid(positive - negative), by the mean over
// the list's negatives; or the sampled softmax: of each positive, its cross-entropy against the
// negatives, whose logits lack the logarithm of the probability that one draw takes them; that of
// their number is added here. A list without either side has no loss.
// A warp owns a group, half of it a list, a lane a pair; sums in double.
template <class S>
__global__ void __launch_bounds__(kThreads)
    list_loss_kernel(const PairLossArgs<S> args, const ListLoss loss, const int64_t* group_indptr,
                     const int64_t num_groups, const S* logit, S* dlogit, double* losses) {
  static_assert(2 * kListPairs == kWarp);
  const int lane = threadIdx.x % kListPairs, half = threadIdx.x % kWarp / kListPairs;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  const S weight = S(1) / pair_divisor(args);
  double sum = 0;
  for (int64_t g = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
       g < num_groups; g += warps) {
    const int64_t begin = group_indptr[g], pairs = group_indptr[g + 1] - begin;
    check_group(group_indptr, g, num_groups, args.num_pairs);
    const int64_t lists = ceil_div(pairs, kListPairs);
    for (int64_t pair_of_lists = 0; pair_of_lists < lists; pair_of_lists += 2) {
      const int64_t list = pair_of_lists + half;
      const int64_t first = list < lists ? pairs * list / lists : 0;
      const int64_t end = list < lists ? pairs * (list + 1) / lists : 0;
      const bool mine = first + lane < end;
      const int64_t b = begin + first + lane;
      S x = mine ? logit[b] : S(0);
      if (mine && args.offset != nullptr) x += args.offset[b];
      const bool real = mine && (args.real == nullptr || args.real[b] != S(0));
      const bool positive = real && args.labels[b] > S(0), negative = real && !positive;
      const unsigned of_half = (1u << kListPairs) - 1;
      const unsigned positives =
          __ballot_sync(kAllLanes, positive) >> (half * kListPairs) & of_half;
      const unsigned negatives =
          __ballot_sync(kAllLanes, negative) >> (half * kListPairs) & of_half;
      const int N = __popc(negatives);
      S term = S(0), gradient = S(0);
      if (loss == ListLoss::kBpr) {
        for (int k = 0; k < kListPairs; ++k) {
          const S other = __shfl_sync(kAllLanes, x, half * kListPairs + k);
          S slope;
          if (positive && (negatives >> k & 1)) {
            term += softplus(other - x, &slope);
            gradient -= slope;
          } else if (negative && (positives >> k & 1)) {
            softplus(x - other, &slope);
            gradient += slope;
          }
        }
        term = N > 0 ? term / S(N) : S(0);
        gradient = N > 0 ? gradient * weight / S(N) : S(0);
      } else {
        const S top = lane_max<kListPairs>(negative ? x : S(-INFINITY));
        const S share = negative ? std::exp(x - top) : S(0);
        const S shares = lane_sum<kListPairs>(share);
        S slope = S(0);
        if (positive && N > 0) term = softplus(top + std::log(shares / S(N)) - x, &slope);
        const S slopes = lane_sum<kListPairs>(slope);
        if (N > 0) gradient = positive ? -slope * weight : share * (slopes * weight / shares);
      }
      if (mine) dlogit[b] = real ? gradient : S(0);
      sum += static_cast<double>(term);
    }
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) losses[blockIdx.x] = sum;
}

}  // namespace

int64_t list_loss_blocks(int64_t num_groups) {
  const int64_t blocks = ceil_div(num_groups, kThreads / kWarp);
  return blocks < 1 ? 1 : blocks < kMostBlocks ? blocks : kMostBlocks;
}

template <class S>
void launch_list_loss(const PairLossArgs<S>& pairs, ListLoss loss, const int64_t* group_indptr,
                      int64_t num_groups, const S* logit, S* dlogit, double* losses,
                      cudaStream_t stream) {
  launch(list_loss_kernel<S>, list_loss_blocks(num_groups), kThreads, 0, stream, pairs, loss,
         group_indptr, num_groups, logit, dlogit, losses);
}

template void launch_list_loss(const PairLossArgs<float>&, ListLoss, const int64_t*, int64_t,
                               const float*, float*, double*, cudaStream_t);
template void launch_list_loss(const PairLossArgs<double>&, ListLoss, const int64_t*, int64_t,
                               const double*, double*, double*, cudaStream_t);

}  // namespace ekpnet
