#include <algorithm>
#include <bit>

#include "cuda/ripple_attention.h"

namespace ekpnet {
namespace {

constexpr int64_t kGoodBytes = 80 * 1024;  // two blocks fit one multiprocessor of an A100

// `rows_d` rows of D values and `rows_m` rows of M weights are kept per pair.
AttentionPlan plan(int64_t num_groups, int64_t num_pairs, int slots, int width, int value_bytes,
                   int rows_d, int rows_m) {
  AttentionPlan p = {};
  p.width = round_up4(width);
  p.slots = round_up4(slots);
  p.stride_d = bank_stride(p.width);
  p.stride_m = bank_stride(p.slots);
  const auto lay = [&](int team, int pairs, bool one_tile) {
    p.team = team;
    p.pairs = pairs;
    p.shift = std::countr_zero(static_cast<unsigned>(pairs));
    p.one_tile = one_tile;
    const int64_t values =
        static_cast<int64_t>(p.width) * p.stride_d +
        static_cast<int64_t>(one_tile ? 1 : 2) * p.slots * p.stride_d +
        static_cast<int64_t>(pairs) * (rows_d * p.stride_d + rows_m * p.stride_m);
    p.team_bytes = (values * value_bytes + 15) / 16 * 16;
    return p.team_bytes * (kAttentionThreads / team);
  };
  const int64_t mean = num_groups > 0 ? ceil_div(num_pairs, num_groups) : 1;
  const int wanted =
      static_cast<int>(std::bit_ceil(static_cast<uint64_t>(std::clamp<int64_t>(mean, 4, 64))));
  // A warp per small group; whole blocks where four teams do not fit or groups are large.
  if (wanted <= 16 && lay(kWarp, wanted, false) <= kGoodBytes) return p;
  for (int pairs = wanted; pairs >= std::min(wanted, 16); pairs /= 2)
    if (lay(kAttentionThreads, pairs, false) <= kGoodBytes) return p;
  for (int pairs = std::min(wanted, 16); pairs >= 4; pairs /= 2)
    if (lay(kAttentionThreads, pairs, true) <= kMostSharedBytes) return p;
  return p;
}

}  // namespace

AttentionPlan plan_attention_forward(int64_t num_groups, int64_t num_pairs, int slots, int width,
                                     int value_bytes) {
  return plan(num_groups, num_pairs, slots, width, value_bytes, 3, 1);
}

AttentionPlan plan_attention_backward(int64_t num_groups, int64_t num_pairs, int hops, int slots,
                                      int width, int value_bytes) {
  AttentionPlan p = plan(num_groups, num_pairs, slots, width, value_bytes, 2 * hops + 5, hops + 1);
  // Enough teams for every GPU, few enough that adding up their sums is no work.
  p.teams = std::min<int64_t>(num_groups, p.team == kWarp ? 1024 : 512);
  return p;
}

}  // namespace ekpnet
