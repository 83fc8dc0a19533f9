// bfloat16 as a storage type: the upper half of a float. Arithmetic is always in float.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace ekpnet {

struct Bf16 {
  uint16_t bits;
};

union FloatBits {
  float value;
  uint32_t bits;
};

EKPNET_HOST_DEVICE inline float widened(Bf16 x) {
  FloatBits wide;
  wide.bits = uint32_t{x.bits} << 16;
  return wide.value;
}

// To nearest, ties to even.
EKPNET_HOST_DEVICE inline Bf16 rounded(float x) {
  FloatBits wide;
  wide.value = x;
  if (x != x) return {0x7fc0};
  return {static_cast<uint16_t>((wide.bits + 0x7fff + ((wide.bits >> 16) & 1)) >> 16)};
}

}  // namespace ekpnet
