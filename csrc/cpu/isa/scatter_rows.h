// The gradient of a table row: a sum over the slots and pairs that name it.
#pragma once

#include "cpu/isa/group_worker.h"

namespace ekpnet {
namespace {

// Rows [row_begin, row_end) of dentity [n, C, D].
template <class T, int kWidthBytes, int kWidth>
void scatter_rows(const AttentionArgs<T>& args, const AttentionGrads<T>& grads, int64_t row_begin,
                  int64_t row_end, T* dentity) {
  using VD = Vector<T, kWidthBytes>;
  const int64_t H = args.hops, M = args.slots, C = args.channels;
  const Width<kWidth> D{args.width};
  fill(dentity + row_begin * C * D, (row_end - row_begin) * C * D, T(0));
  // References to this range's rows, as 2 slot for a head and 2 slot + 1 for a tail. They are
  // picked without a branch, because no processor foresees whose row is next.
  constexpr int64_t kSlots = 512;
  int64_t mine[2 * kSlots];
  const uint64_t range = row_end - row_begin;
  const auto is_mine = [&](int32_t row) {
    return static_cast<uint64_t>(static_cast<int64_t>(row) - row_begin) < range;
  };
  const int64_t hops_at_once = kSlots / M;
  for (int64_t first = 0; first < args.num_groups * H; first += hops_at_once) {
    int64_t n = 0;
    for (int64_t hop = first; hop < first + hops_at_once && hop < args.num_groups * H; ++hop)
      for (int64_t slot = hop * M; slot < hop * M + args.counts[hop]; ++slot) {
        mine[n] = 2 * slot;
        n += is_mine(args.heads[slot]);
        mine[n] = 2 * slot + 1;
        n += is_mine(args.tails[slot]);
      }
    for (int64_t i = 0; i < n; ++i) {
      const int64_t slot = mine[i] / 2, tail = mine[i] % 2;
      const T* dpsi = (tail ? grads.dvalue : grads.dkey) + slot * D;
      T* drow = dentity + (tail ? args.tails : args.heads)[slot] * C * D;
      if (C == 2) {
        const T* factors = grads.factors + slot * 4 + tail * 2;
        axpy<VD>(D, factors[0], args.relation + args.relations[slot] * C * D + D, drow);
        axpy<VD>(D, factors[1], dpsi, drow + D);
      } else {
        axpy<VD>(D, T(1), dpsi, drow);
      }
    }
  }
  for (int64_t b = 0; b < args.num_pairs; ++b)
    if (is_mine(args.items[b]))
      axpy<VD>(D, T(1), grads.ditem + b * D, dentity + args.items[b] * C * D);
}

}  // namespace
}  // namespace ekpnet
