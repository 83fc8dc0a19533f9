#include "cpu/top_items.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <vector>

namespace ekpnet {
namespace {

// Unsigned key whose order is the order of the scores, with the item id behind it so that ties go
// to the lower id; keys are distinct, which makes the selection unique.
inline uint64_t sort_key(float score, int64_t item) {
  if (score == 0.0f) score = 0.0f;  // -0 ties with +0
  const uint32_t bits = std::bit_cast<uint32_t>(score);
  uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  if (score != score) ordered = 0;  // below -infinity
  return static_cast<uint64_t>(ordered) << 32 | (0xffffffffu - static_cast<uint32_t>(item));
}

}  // namespace

void top_items(const TopItemsArgs& args, int64_t begin, int64_t end, int32_t* items) {
  std::vector<uint64_t> best;  // the candidates so far, at most 2 K
  for (int64_t u = begin; u < end; ++u) {
    const float* scores = args.scores + u * args.num_items;
    const int32_t* seen = args.seen + args.seen_indptr[u];
    const int32_t* seen_end = args.seen + args.seen_indptr[u + 1];
    const auto falling = std::greater<uint64_t>();
    best.clear();
    uint64_t bar = 0;  // the K-th best so far: nothing at or below it can enter
    for (int64_t i = 0; i < args.num_items; ++i) {
      if (seen != seen_end && *seen == i) {
        while (seen != seen_end && *seen == i) ++seen;
        continue;
      }
      const uint64_t key = sort_key(scores[i], i);
      if (key <= bar) continue;
      best.push_back(key);
      if (static_cast<int64_t>(best.size()) == 2 * args.k) {
        std::nth_element(best.begin(), best.begin() + args.k - 1, best.end(), falling);
        best.resize(args.k);
        bar = best.back();
      }
    }
    std::sort(best.begin(), best.end(), falling);
    for (int64_t j = 0; j < args.k; ++j)
      items[u * args.k + j] =
          j < static_cast<int64_t>(best.size())
              ? static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(best[j]))
              : -1;
  }
}

}  // namespace ekpnet
