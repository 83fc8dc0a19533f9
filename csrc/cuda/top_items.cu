#include "common/score_key.h"
#include "cuda/device.cuh"
#include "cuda/top_items.h"

namespace ekpnet {
namespace {

constexpr int kThreads = 256, kDigits = 256;
constexpr int64_t kMaskBytes = 48 * 1024;  // of shared memory: a bit per item, up to 393,216 items

// The K best unseen items of one user per block.
// scores [n, I], seen CSR [n + 1], items [n, K]; order as in TopItemsCudaArgs.
// Scores and ids make distinct 64-bit keys; the K-th best is found digit by digit from the top with
// counts in shared memory, then everything at or above it is collected and sorted there.
// Counts are integers, so the order of the atomic additions does not show.
__global__ void __launch_bounds__(kThreads)
    top_items_kernel(const TopItemsCudaArgs args, int mask_words, int sorted) {
  __shared__ int counts[kDigits];
  __shared__ int taken, wanted;
  __shared__ bool found;
  __shared__ uint64_t prefix;
  uint64_t* keys = reinterpret_cast<uint64_t*>(shared_memory());
  unsigned* mask = reinterpret_cast<unsigned*>(keys + sorted);
  const int64_t user = blockIdx.x, I = args.num_items;
  const float* scores = args.scores + user * I;
  const int32_t* seen = args.seen + args.seen_indptr[user];
  const int num_seen = static_cast<int>(args.seen_indptr[user + 1] - args.seen_indptr[user]);
  for (int i = threadIdx.x; i < mask_words; i += kThreads) mask[i] = 0;
  for (int i = threadIdx.x; i < sorted; i += kThreads) keys[i] = 0;
  __syncthreads();
  if (mask_words > 0)
    for (int i = threadIdx.x; i < num_seen; i += kThreads) {
      const int64_t item = checked_id(seen[i], I);
      atomicOr(mask + item / 32, 1u << (item % 32));
    }
  if (threadIdx.x == 0) {
    taken = 0;
    prefix = 0;
    wanted = static_cast<int>(args.k);
    found = false;
  }
  __syncthreads();
  const auto unseen = [&](int64_t item) {
    if (mask_words > 0) return (mask[item / 32] >> (item % 32) & 1) == 0;
    int low = 0, high = num_seen;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (seen[middle] < item)
        low = middle + 1;
      else
        high = middle;
    }
    return low == num_seen || seen[low] != item;
  };
  // `prefix` ends as the beginning of the K-th best key, or as 0 where fewer items are left.
  for (int shift = 56; shift >= 0 && !found; shift -= 8) {
    for (int i = threadIdx.x; i < kDigits; i += kThreads) counts[i] = 0;
    __syncthreads();
    for (int64_t item = threadIdx.x; item < I; item += kThreads) {
      const uint64_t key = score_key(scores[item], item);
      const bool candidate = shift == 56 || key >> (shift + 8) == prefix >> (shift + 8);
      if (candidate && unseen(item)) atomicAdd(counts + (key >> shift & 255), 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int left = wanted, digit = kDigits - 1;
      while (digit > 0 && counts[digit] < left) left -= counts[digit--];
      wanted = left;
      found = counts[digit] == left;  // every key that begins so is wanted
      prefix |= static_cast<uint64_t>(digit) << shift;
    }
    __syncthreads();
  }
  const uint64_t bar = prefix;
  for (int64_t item = threadIdx.x; item < I; item += kThreads) {
    const uint64_t key = score_key(scores[item], item);
    if (key >= bar && unseen(item)) {
      const int at = atomicAdd(&taken, 1);
      if (at < sorted) keys[at] = key;
    }
  }
  __syncthreads();
  for (int size = 2; size <= sorted; size *= 2)
    for (int step = size / 2; step > 0; step /= 2) {
      for (int i = threadIdx.x; i < sorted; i += kThreads) {
        const int j = i ^ step;
        if (j <= i) continue;
        const bool falling = (i & size) == 0;
        const uint64_t a = keys[i], b = keys[j];
        if (falling ? a < b : a > b) {
          keys[i] = b;
          keys[j] = a;
        }
      }
      __syncthreads();
    }
  for (int i = threadIdx.x; i < args.k; i += kThreads)
    args.items[user * args.k + i] = i < taken ? item_of_key(keys[i]) : -1;
}

}  // namespace

void launch_top_items(const TopItemsCudaArgs& args, cudaStream_t stream) {
  int sorted = 2;
  while (sorted < args.k) sorted *= 2;
  int64_t words = ceil_div(args.num_items, 32);
  if (words * 4 > kMaskBytes) words = 0;
  launch(top_items_kernel, args.num_users, kThreads, sorted * 8 + words * 4, stream, args,
         static_cast<int>(words), sorted);
}

}  // namespace ekpnet
