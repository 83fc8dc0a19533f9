// The gradient of a table row: a sum over the slots and pairs that name it.
#pragma once

#include "cpu/isa/group_worker.h"
#include "cpu/row_references.h"

namespace ekpnet {
namespace {

// Rows of a range of `references` in dentity [n, C, D].
template <class T, int kWidthBytes, int kWidth>
void scatter_rows(const AttentionArgs<T>& args, const AttentionGrads<T>& grads,
                  const RowReferences& references, int64_t range, T* dentity) {
  using VD = Vector<T, kWidthBytes>;
  const int64_t C = args.channels;
  const Width<kWidth> D{args.width};
  const int64_t first = references.first_row(range), end = references.first_row(range + 1);
  fill(dentity + first * C * D, ((end < args.num_rows ? end : args.num_rows) - first) * C * D,
       T(0));
  references.for_each_slot(range, [&](int64_t reference) {
    const int64_t slot = reference / 2, tail = reference % 2;
    const T* dpsi = (tail ? grads.dvalue : grads.dkey) + slot * D;
    T* drow = dentity + (tail ? args.tails : args.heads)[slot] * C * D;
    if (C == 2) {
      const T* factors = grads.factors + slot * 4 + tail * 2;
      axpy<VD>(D, factors[0], args.relation + args.relations[slot] * C * D + D, drow);
      axpy<VD>(D, factors[1], dpsi, drow + D);
    } else {
      axpy<VD>(D, T(1), dpsi, drow);
    }
  });
  references.for_each_pair(range, [&](int64_t b) {
    axpy<VD>(D, T(1), grads.ditem + b * D, dentity + args.items[b] * C * D);
  });
}

}  // namespace
}  // namespace ekpnet
