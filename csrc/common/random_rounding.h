// Rounding at random (Gupta et al. 2015) of a bfloat16 table that an optimizer steps.
//
// Adam's steps are soon smaller than half the distance between neighbouring bfloat16 numbers;
// rounding to nearest would lose every one of them. Rounded at random they move a value as far as
// they should on average. A float32 copy of the table would do so too, but takes the memory that is
// to be saved.
#pragma once

#include "common/bf16.h"
#include "common/random.h"

namespace ekpnet {

// Away from zero with the probability that makes the mean exact, else towards it; the lowest 16
// bits of `random` decide.
EKPNET_HOST_DEVICE inline Bf16 rounded_at_random(float x, uint64_t random) {
  FloatBits wide;
  wide.value = x;
  if ((wide.bits & 0x7f800000u) == 0x7f800000u) return rounded(x);  // not finite
  return {static_cast<uint16_t>((wide.bits + static_cast<uint32_t>(random & 0xffff)) >> 16)};
}

// Random numbers of a step: 16 bits an element, four elements a draw, by place in the table.
EKPNET_HOST_DEVICE inline uint64_t rounding_stream(int64_t seed, int64_t step) {
  return stream_key(static_cast<uint64_t>(seed), static_cast<uint64_t>(step), 0, 0);
}
EKPNET_HOST_DEVICE inline uint64_t rounding_bits(uint64_t stream, int64_t at) {
  return random_bits(stream, static_cast<uint64_t>(at) / 4) >> (at % 4 * 16);
}

}  // namespace ekpnet
