#include "common/score_key.h"
#include "cuda/device.cuh"
#include "cuda/top_items.h"

namespace ekpnet {
namespace {

constexpr int kThreads = 256, kDigits = 256;
constexpr int64_t kPartItems = 1 << 17;  // of a block; a bit each fits beside any other memory

// The largest of up to `sorted` wanted keys, a power of two, into keys [sorted] in falling order;
// returns how many there are. key_of(i), i < n, gives distinct keys, or 0 for none.
// The smallest of them is found digit by digit from the top with counts in shared memory, then
// everything at or above it is collected and sorted there. Counts are integers, so the order of the
// atomic additions does not show.
template <class KeyOf>
__device__ int largest_keys(int64_t n, int most, int sorted, uint64_t* keys, KeyOf key_of) {
  __shared__ int counts[kDigits];
  __shared__ int taken, wanted;
  __shared__ bool found;
  __shared__ uint64_t prefix;
  for (int i = threadIdx.x; i < sorted; i += kThreads) keys[i] = 0;
  if (threadIdx.x == 0) {
    taken = 0;
    prefix = 0;
    wanted = most;
    found = false;
  }
  __syncthreads();
  // `prefix` ends as the beginning of the last wanted key, or as 0 where fewer are left.
  for (int shift = 56; shift >= 0 && !found; shift -= 8) {
    for (int i = threadIdx.x; i < kDigits; i += kThreads) counts[i] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += kThreads) {
      const uint64_t key = key_of(i);
      const bool candidate = shift == 56 || key >> (shift + 8) == prefix >> (shift + 8);
      if (candidate && key != 0) atomicAdd(counts + (key >> shift & 255), 1);
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
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const uint64_t key = key_of(i);
    if (key >= bar && key != 0) {
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
  return taken;
}

// The K best unseen items of a part of one user's items per block.
// scores [n, I], seen CSR [n + 1]; items [n, K] of the only part, or keys [n, parts, K], 0 where
// none is left; order as in TopItemsCudaArgs.
__global__ void __launch_bounds__(kThreads)
    top_items_kernel(const TopItemsCudaArgs args, unsigned parts, int sorted) {
  uint64_t* keys = reinterpret_cast<uint64_t*>(shared_memory());
  unsigned* mask = reinterpret_cast<unsigned*>(keys + sorted);
  const int64_t user = blockIdx.x / parts, part = blockIdx.x % parts, I = args.num_items;
  const int64_t first = part * kPartItems;
  const int64_t n = I - first < kPartItems ? I - first : kPartItems;
  const float* scores = args.scores + user * I + first;
  check_group(args.seen_indptr, user, args.num_users, args.num_seen);
  const int32_t* seen = args.seen + args.seen_indptr[user];
  const int num_seen = static_cast<int>(args.seen_indptr[user + 1] - args.seen_indptr[user]);
  for (int i = threadIdx.x; i < (n + 31) / 32; i += kThreads) mask[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < num_seen; i += kThreads) {
    const int64_t item = checked_id(seen[i], I) - first;
    if (item >= 0 && item < n) atomicOr(mask + item / 32, 1u << (item % 32));
  }
  __syncthreads();
  const int taken =
      largest_keys(n, static_cast<int>(args.k), sorted, keys, [&](int64_t i) -> uint64_t {
        return mask[i / 32] >> (i % 32) & 1 ? 0 : score_key(scores[i], first + i);
      });
  for (int i = threadIdx.x; i < args.k; i += kThreads) {
    if (parts > 1)
      args.keys[(user * parts + part) * args.k + i] = keys[i];
    else
      args.items[user * args.k + i] = i < taken ? item_of_key(keys[i]) : -1;
  }
}

// The K best of the parts' best, keys [n, parts, K]. A block per user.
__global__ void __launch_bounds__(kThreads)
    top_parts_kernel(const TopItemsCudaArgs args, int64_t parts, int sorted) {
  uint64_t* keys = reinterpret_cast<uint64_t*>(shared_memory());
  const int64_t user = blockIdx.x, n = parts * args.k;
  const uint64_t* found = args.keys + user * n;
  const int taken =
      largest_keys(n, static_cast<int>(args.k), sorted, keys, [&](int64_t i) { return found[i]; });
  for (int i = threadIdx.x; i < args.k; i += kThreads)
    args.items[user * args.k + i] = i < taken ? item_of_key(keys[i]) : -1;
}

}  // namespace

int64_t top_items_parts(int64_t num_items) {
  return num_items > kPartItems ? ceil_div(num_items, kPartItems) : 1;
}

void launch_top_items(const TopItemsCudaArgs& args, cudaStream_t stream) {
  int sorted = 2;
  while (sorted < args.k) sorted *= 2;
  const int64_t parts = top_items_parts(args.num_items);
  const int64_t items = args.num_items < kPartItems ? args.num_items : kPartItems;
  launch(top_items_kernel, args.num_users * parts, kThreads, sorted * 8 + ceil_div(items, 32) * 4,
         stream, args, static_cast<unsigned>(parts), sorted);
  if (parts > 1)
    launch(top_parts_kernel, args.num_users, kThreads, sorted * 8, stream, args, parts, sorted);
}

}  // namespace ekpnet
