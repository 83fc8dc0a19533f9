// Argument checks that list_loss shares between devices: dtypes and shapes, not values.
#pragma once

#include "bindings/checks.h"

namespace ekpnet {

inline void check_list_loss(const Tensor& logits, const Tensor& labels, const Tensor& lists,
                            int64_t loss) {
  check_tensor(logits, "logits", logits.scalar_type(), {-1});
  check_tensor(labels, "labels", logits.scalar_type(), {logits.size(0)});
  check_tensor(lists, "lists", ScalarType::Long, {-1});
  STD_TORCH_CHECK(lists.size(0) >= 1, "lists is empty, expected at least one row pointer");
  STD_TORCH_CHECK(loss == 1 || loss == 2, "loss is ", loss, ", expected 1 or 2");
}

}  // namespace ekpnet
