// The order of items in a ranking, as integers.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace ekpnet {

// Unsigned key whose order is the order of the scores, with the item id behind it so that ties go
// to the lower id; keys are distinct, which makes a selection unique. NaN ranks last.
EKPNET_HOST_DEVICE inline uint64_t score_key(float score, int64_t item) {
  union {
    float value;
    uint32_t bits;
  } word;
  word.value = score == 0.0f ? 0.0f : score;  // -0 ties with +0
  uint32_t ordered = word.bits & 0x80000000u ? ~word.bits : word.bits | 0x80000000u;
  if (score != score) ordered = 0;  // below -infinity
  return static_cast<uint64_t>(ordered) << 32 | (0xffffffffu - static_cast<uint32_t>(item));
}

EKPNET_HOST_DEVICE inline int32_t item_of_key(uint64_t key) {
  return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(key));
}

}  // namespace ekpnet
