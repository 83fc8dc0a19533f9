// The inputs of ripple_attention as raw pointers, for every device.
#pragma once

#include <cstdint>

namespace ekpnet {

constexpr int kMaxHops = 4, kMaxSlots = 64, kMaxWidth = 128;

// One call's inputs. C = 2 channels: rank-1 semantic attention, (v, gamma) per row (eq. 8);
// C = 1: psi is the identity and a row is v alone (EKP_no, EKP_frame).
template <class T>
struct AttentionArgs {
  int64_t num_groups;           // G
  int64_t num_pairs;            // B
  int64_t num_rows;             // n, rows of `entity`
  int64_t num_relations;        // R
  int hops;                     // H
  int slots;                    // M
  int width;                    // D
  int channels;                 // C
  const T* entity;              // [n, C, D]
  const T* relation;            // [R, C, D]
  const T* W_e;                 // [D, D]
  const T* b_e;                 // [D]
  const int32_t* heads;         // [G, H, M], rows of `entity`
  const int32_t* relations;     // [G, H, M]
  const int32_t* tails;         // [G, H, M], rows of `entity`
  const int32_t* counts;        // [G, H], valid slots of a hop
  const int64_t* group_indptr;  // [G + 1], pairs of group g: group_indptr[g] .. group_indptr[g + 1]
  const int32_t* items;         // [B], rows of `entity`
  // What a hop with triples makes of the item: false: (o + rho) W_e + b_e (eq. 12), true:
  // rho W_e + b_e.
  bool replace = false;
};

}  // namespace ekpnet
