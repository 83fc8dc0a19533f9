// One step of Adam on the rows of a table, whatever computes it.
#pragma once

namespace ekpnet {

// Hyper-parameters of one step, with the bias corrections of Kingma & Ba 2015 folded in:
// step_size = lr / (1 - beta1^t), scale2 = 1 / (1 - beta2^t).
struct AdamStep {
  double beta1, beta2, eps, step_size, scale2, l2;
};

}  // namespace ekpnet
