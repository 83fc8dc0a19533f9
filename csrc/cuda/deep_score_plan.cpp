#include <algorithm>

#include "cuda/deep_score.h"

namespace ekpnet {

DeepScorePlan plan_deep_score(int64_t num_pairs, int64_t width, int hidden, int value_bytes,
                              bool backward) {
  constexpr int64_t kGoodBytes = 80 * 1024;  // two blocks fit one multiprocessor of an A100
  DeepScorePlan plan = {};
  plan.width = round_up4(static_cast<int>(width));
  plan.stride = bank_stride(plan.width);
  const int64_t row = static_cast<int64_t>(plan.stride) * value_bytes;
  plan.weights_shared = hidden > 0 && plan.width * row <= kGoodBytes / 2;
  const int64_t weights = plan.weights_shared ? plan.width * row : 0;
  // Forward two rows of activations per pair, backward those of every layer and two gradients.
  const int activation_rows = backward ? hidden + 1 : 2, gradient_rows = backward ? 2 : 0;
  plan.activations_shared = true;
  for (plan.pairs = kMostDeepPairs; plan.pairs > 4; plan.pairs /= 2)
    if (weights + plan.pairs * (activation_rows + gradient_rows) * row <= kGoodBytes) break;
  plan.shared_bytes = weights + plan.pairs * (activation_rows + gradient_rows) * row;
  if (plan.shared_bytes > kGoodBytes) {
    plan.activations_shared = false;
    for (plan.pairs = 16; plan.pairs > 4; plan.pairs /= 2)
      if (weights + plan.pairs * gradient_rows * row <= kGoodBytes) break;
    plan.shared_bytes = weights + plan.pairs * gradient_rows * row;
    plan.activation_values = static_cast<int64_t>(plan.pairs) * activation_rows * plan.stride;
  }
  const int64_t tiles = ceil_div(num_pairs, plan.pairs);
  // Blocks that add up in a fixed order: enough for every GPU, and 64 MiB of sums at most.
  const int64_t sums = (hidden * (width + 1) + 1) * width * value_bytes;
  const int64_t most = backward ? std::clamp<int64_t>((int64_t{1} << 26) / sums, 1, 528) : 4096;
  plan.blocks = std::min(tiles, most);
  return plan;
}

}  // namespace ekpnet
