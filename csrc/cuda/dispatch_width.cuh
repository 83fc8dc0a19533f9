// Kernels are compiled for the widths that people use and once for any other.
#pragma once

#include <type_traits>

namespace ekpnet {

// Calls f with the width as a constant, 0 for one without a kernel of its own. float64 is there to
// check gradients, so it has the general kernel alone; bfloat16 is for wide rows.
template <class S, class F>
void dispatch_width(int width, F f) {
  if constexpr (std::is_same_v<S, float>) {
    switch (width) {
      case 4:
        return f(std::integral_constant<int, 4>());
      case 8:
        return f(std::integral_constant<int, 8>());
      default:
        break;
    }
  }
  if constexpr (!std::is_same_v<S, double>) {
    switch (width) {
      case 16:
        return f(std::integral_constant<int, 16>());
      case 32:
        return f(std::integral_constant<int, 32>());
      case 64:
        return f(std::integral_constant<int, 64>());
      default:
        break;
    }
  }
  f(std::integral_constant<int, 0>());
}

}  // namespace ekpnet
