#include <algorithm>

#include "cuda/deep_score.h"

namespace ekpnet {

DeepScorePlan plan_deep_score(int64_t num_pairs, int64_t width, int hidden, int value_bytes,
                              bool backward) {
  constexpr int64_t kGoodBytes = 80 * 1024;  // two blocks fit one multiprocessor of an A100
  constexpr int64_t kGoodTiles = 256;        // about two for every multiprocessor of a large GPU
  DeepScorePlan plan = {};
  plan.width = round_up4(static_cast<int>(width));
  plan.stride = bank_stride(plan.width);
  const int64_t row = static_cast<int64_t>(plan.stride) * value_bytes;
  // Forward two rows of activations per pair, backward those of every layer and two gradients.
  const int activation_rows = backward ? hidden + 1 : 2, gradient_rows = backward ? 2 : 0;
  const auto fits = [&](LayerMemory memory, int most_pairs) {
    const int64_t weights = memory == LayerMemory::kAllShared ? plan.width * row : 0;
    const int rows = gradient_rows + (memory == LayerMemory::kDevice ? 0 : activation_rows);
    plan.memory = memory;
    for (plan.pairs = most_pairs;; plan.pairs /= 2) {
      plan.shared_bytes = weights + plan.pairs * rows * row;
      if (plan.shared_bytes <= kGoodBytes || plan.pairs == 4) break;
    }
    return weights <= kGoodBytes / 2 && plan.shared_bytes <= kGoodBytes;
  };
  // Fewer pairs rather than that multiprocessors have nothing to do.
  const int most_pairs = ceil_div(num_pairs, kMostDeepPairs) < kGoodTiles ? 16 : kMostDeepPairs;
  // float64, which is there to check gradients, has kernels for device memory alone.
  if (value_bytes == 8 || !((hidden > 0 && fits(LayerMemory::kAllShared, most_pairs)) ||
                            fits(LayerMemory::kActivationsShared, most_pairs))) {
    fits(LayerMemory::kDevice, 16);
    plan.activation_values = static_cast<int64_t>(plan.pairs) * activation_rows * plan.stride;
  }
  plan.tile_rows = plan.pairs < kMostDeepPairs ? 2 : 4;
  const int64_t tiles = ceil_div(num_pairs, plan.pairs);
  // Blocks that add up in a fixed order: enough for every GPU, and 64 MiB of sums at most.
  const int64_t sums = (hidden * (width + 1) + 1) * width * value_bytes;
  const int64_t most = backward ? std::clamp<int64_t>((int64_t{1} << 26) / sums, 1, 528) : 4096;
  plan.blocks = std::min(tiles, most);
  return plan;
}

}  // namespace ekpnet
