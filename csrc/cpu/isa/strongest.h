// The strongest of many sums, of which none is NaN.
#pragma once

#include <bit>
#include <cstdint>

namespace ekpnet {

// A sum of nothing. No sum of products is -0, because 0 is added to each: -0 + 0 = 0.
constexpr float kNothing = -0.0f;

inline bool is_met(float sum) {
  return std::bit_cast<uint32_t>(sum) != std::bit_cast<uint32_t>(kNothing);
}

constexpr int64_t kSlack = 16;  // elements that may be written behind those that are found

struct StrongestKernels {
  // As soon as a row has a product for so many columns, it is faster to look at all columns.
  int64_t columns_of_product;
  // Columns, rising, of the sums [n] that are met and at least `floor`, and these sums; their
  // number.
  int64_t (*collect)(const float* sums, int64_t n, float floor, int32_t* columns, float* values);
  // A number that `count` <= n of the values reach, and no more but for equal ones; count >= 1.
  // `keys` is room for n + kSlack.
  float (*reached_by)(int64_t n, int64_t count, const float* values, int32_t* keys);
  // Leaves the `count` <= n largest of the values, of equal ones the first, with their columns, in
  // order. `keys` as above.
  void (*keep)(int64_t n, int64_t count, int32_t* columns, float* values, int32_t* keys);
};

}  // namespace ekpnet
