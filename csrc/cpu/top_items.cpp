#include "cpu/top_items.h"

#include <algorithm>
#include <functional>
#include <vector>

#include "common/score_key.h"

namespace ekpnet {
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
      const uint64_t key = score_key(scores[i], i);
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
      items[u * args.k + j] = j < static_cast<int64_t>(best.size()) ? item_of_key(best[j]) : -1;
  }
}

}  // namespace ekpnet
