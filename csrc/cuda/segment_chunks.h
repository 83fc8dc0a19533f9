// How sorted references are cut into the work of a segmented sum.
#pragma once

#include <cstdint>

namespace ekpnet {

constexpr int kSegmentChunk = 8;  // references, each behind a chain of four reads

inline int64_t segment_chunks(int64_t num_references) {
  return (num_references + kSegmentChunk - 1) / kSegmentChunk;
}

}  // namespace ekpnet
