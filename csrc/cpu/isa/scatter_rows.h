// The gradient of a table row: a sum over the slots and pairs that name it.
#pragma once

#include "cpu/isa/group_worker.h"
#include "cpu/row_references.h"

namespace ekpnet {
namespace {

// Rows of a range of the references in dentity [n, C, D].
template <class T, int kWidthBytes, int kWidth>
void scatter_rows(const AttentionArgs<T>& args, const AttentionGrads<T>& grads, int64_t range,
                  T* dentity) {
  using VD = Vector<T, kWidthBytes>;
  const RowReferences& references = *grads.references;
  const int64_t C = args.channels;
  const Width<kWidth> D{args.width};
  const int64_t first = references.first_row(range), end = references.first_row(range + 1);
  fill(dentity + first * C * D, ((end < args.num_rows ? end : args.num_rows) - first) * C * D,
       T(0));
  const int64_t size = part_size<T>(D);
  references.for_each_slot(range, [&](int64_t at) {
    const T* part = grads.parts + at * size;
    int32_t ids[2];
    __builtin_memcpy(ids, part, sizeof(ids));
    T* drow = dentity + ids[0] * C * D;
    if (C == 2) {
      const T* factors = part + kPartFactors<T>;
      axpy<VD>(D, factors[0], args.relation + ids[1] * C * D + D, drow);
      axpy<VD>(D, factors[1], part + kPartGradient<T>, drow + D);
    } else {
      axpy<VD>(D, T(1), part + kPartGradient<T>, drow);
    }
  });
  references.for_each_pair(range, [&](int64_t b) {
    axpy<VD>(D, T(1), grads.ditem + b * D, dentity + args.items[b] * C * D);
  });
}

}  // namespace
}  // namespace ekpnet
