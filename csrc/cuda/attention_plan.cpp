#include <algorithm>
#include <bit>

#include "cuda/ripple_attention.h"

namespace ekpnet {
namespace {

constexpr int64_t kGoodBytes = 80 * 1024;   // two blocks fit one multiprocessor of an A100
constexpr int64_t kSmallBytes = 99 * 1024;  // that a block can ask for on the smallest GPUs
constexpr int64_t kGoodItems = 512;         // some for every multiprocessor of every GPU
constexpr int64_t kSumBytes = 4 << 20;      // of gradients of W_e, a sum per team

// `rows_d` rows of D values and `rows_m` rows of M weights are kept per pair.
AttentionPlan plan(int64_t num_groups, int64_t num_pairs, int hops, int slots, int width,
                   int value_bytes, int rows_d, int rows_m) {
  AttentionPlan p = {};
  p.width = round_up4(width);
  p.slots = round_up4(slots);
  p.stride_d = bank_stride(p.width);
  p.stride_m = bank_stride(p.slots);
  const auto fits = [&](int pairs, int tiles, int64_t limit) {
    p.pairs = pairs;
    p.tiles = tiles;
    const int64_t values =
        static_cast<int64_t>(p.width + tiles * p.slots) * p.stride_d +
        static_cast<int64_t>(pairs) * (rows_d * p.stride_d + rows_m * p.stride_m);
    p.shared_bytes = (values * value_bytes + 15) / 16 * 16;
    return p.shared_bytes <= limit;
  };
  const int64_t mean = num_groups > 0 ? ceil_div(num_pairs, num_groups) : 1;
  int wanted =
      static_cast<int>(std::bit_ceil(static_cast<uint64_t>(std::clamp<int64_t>(mean, 4, 64))));
  // Groups are cut rather than that multiprocessors have nothing to do; pieces of fewer pairs would
  // be about their slots more than about pairs.
  while (wanted > 16 && num_pairs / wanted < kGoodItems) wanted /= 2;
  const auto found = [&](int least, int64_t limit) {
    for (int pairs = wanted; pairs >= std::min(wanted, least); pairs /= 2)
      for (int tiles : {2 * hops, 2, 1})
        if (fits(pairs, tiles, limit)) return true;
    return false;
  };
  // What fits nowhere is refused by `check_plan`.
  found(16, kGoodBytes) || found(4, kSmallBytes) || found(4, kMostSharedBytes);
  p.all_tiles = p.tiles == 2 * hops;
  p.shift = std::countr_zero(static_cast<unsigned>(p.pairs));
  p.items = num_groups + (num_pairs >> p.shift);
  const int in_row = std::max(p.slots, p.width) / 4;
  p.threads = std::clamp<int>(std::bit_floor(static_cast<unsigned>(p.pairs * in_row)), kWarp,
                              kAttentionThreads);
  p.tile_rows = p.pairs / 4 * (p.slots / 4) >= p.threads ? 4 : 1;
  return p;
}

}  // namespace

AttentionPlan plan_attention_forward(int64_t num_groups, int64_t num_pairs, int hops, int slots,
                                     int width, int value_bytes) {
  AttentionPlan p = plan(num_groups, num_pairs, hops, slots, width, value_bytes, 3, 1);
  p.teams = p.items;
  return p;
}

AttentionPlan plan_attention_backward(int64_t num_groups, int64_t num_pairs, int hops, int slots,
                                      int width, int value_bytes) {
  AttentionPlan p =
      plan(num_groups, num_pairs, hops, slots, width, value_bytes, 3 * hops + 5, hops + 1);
  // Few enough that adding up their sums is no work.
  const int64_t sums = kSumBytes / (static_cast<int64_t>(width) * width * value_bytes);
  p.teams = std::min(p.items, std::clamp<int64_t>(sums, 128, 1024));
  return p;
}

}  // namespace ekpnet
