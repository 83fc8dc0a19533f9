// Entry points of the propagation (cpu/isa/group_worker.h).
#include "cpu/isa/ripple_attention.h"

#include "cpu/isa/group_worker.h"
#include "cpu/isa/isa_kernels.h"
#include "cpu/isa/scatter_rows.h"

namespace ekpnet {
namespace {

template <class T, int kWidthBytes, int kWidth>
void forward_pairs(const AttentionArgs<T>& args, int64_t begin, int64_t end, T* z, T* match,
                   T* alpha, T* workspace) {
  GroupWorker<T, kWidthBytes, kWidth> worker(args, workspace);
  const int64_t width = (args.hops + 1) * args.width;
  // First group that ends behind `begin`.
  int64_t lo = 0, hi = args.num_groups;
  while (lo < hi) {
    const int64_t mid = (lo + hi) / 2;
    if (args.group_indptr[mid + 1] <= begin)
      lo = mid + 1;
    else
      hi = mid;
  }
  for (int64_t g = lo; begin < end; ++g) {
    const int64_t stop = args.group_indptr[g + 1] < end ? args.group_indptr[g + 1] : end;
    if (begin == stop) continue;
    worker.build_tiles(g, false);
    for (; begin < stop; begin += kGroupBlock) {
      const int64_t P = stop - begin < kGroupBlock ? stop - begin : kGroupBlock;
      if (z) prefetch(z + begin * width, P * width);
      worker.propagate(g, begin, P, z ? z + begin * width : nullptr, width,
                       match ? match + begin : nullptr);
      if (alpha) {
        const int64_t H = args.hops, M = args.slots;
        for (int64_t i = 0; i < P; ++i)
          for (int64_t p = 0; p < H; ++p) {
            const int64_t count = args.counts[g * H + p];
            for (int64_t m = 0; m < M; ++m)
              alpha[((begin + i) * H + p) * M + m] = m < count ? worker.alpha(p, i)[m] : T(0);
          }
      }
    }
    begin = stop;
  }
}

template <class T, int kWidthBytes, int kWidth>
void backward_chunk(const AttentionArgs<T>& args, const AttentionGrads<T>& grads, int64_t chunk,
                    T* workspace) {
  const int64_t first = args.num_groups * chunk / grads.num_chunks;
  const int64_t last = args.num_groups * (chunk + 1) / grads.num_chunks;
  GroupWorker<T, kWidthBytes, kWidth> worker(args, workspace);
  const int64_t width = (args.hops + 1) * args.width;
  worker.begin_chunk(grads, chunk);
  for (int64_t g = first; g < last; ++g) {
    worker.build_tiles(g, true);
    worker.clear_group_gradients();
    for (int64_t begin = args.group_indptr[g]; begin < args.group_indptr[g + 1];
         begin += kGroupBlock) {
      const int64_t left = args.group_indptr[g + 1] - begin;
      const int64_t P = left < kGroupBlock ? left : kGroupBlock;
      prefetch(grads.dz + begin * width, P * width);
      prefetch(grads.ditem + begin * args.width, P * args.width);
      worker.propagate(g, begin, P, nullptr, 0, nullptr);
      worker.propagate_backward(g, P, grads.dz + begin * width, width, grads.dmatch + begin,
                                grads.ditem + begin * args.width);
    }
    worker.write_group_gradients(g, grads, chunk);
  }
  worker.write_shared_gradients(grads, chunk);
}

template <class T>
int64_t workspace_size(const AttentionArgs<T>& args) {
  return with_width<T>(args.width, [&](auto bytes, auto) {
    int64_t size = 0;
    Workspace<T>(args, strides_of<T, bytes>(args), 1, nullptr, &size);
    return size;
  });
}

template <class T>
void forward(const AttentionArgs<T>& args, int64_t begin, int64_t end, T* z, T* match,
             T* workspace) {
  with_width<T>(args.width, [&](auto bytes, auto width) {
    forward_pairs<T, bytes, width>(args, begin, end, z, match, nullptr, workspace);
  });
}

template <class T>
void weights(const AttentionArgs<T>& args, int64_t begin, int64_t end, T* alpha, T* workspace) {
  with_width<T>(args.width, [&](auto bytes, auto width) {
    forward_pairs<T, bytes, width>(args, begin, end, nullptr, nullptr, alpha, workspace);
  });
}

template <class T>
void backward(const AttentionArgs<T>& args, const AttentionGrads<T>& grads, int64_t chunk,
              T* workspace) {
  with_width<T>(args.width, [&](auto bytes, auto width) {
    backward_chunk<T, bytes, width>(args, grads, chunk, workspace);
  });
}

template <class T>
void scatter(const AttentionArgs<T>& args, const AttentionGrads<T>& grads, int64_t range,
             T* dentity) {
  with_width<T>(args.width, [&](auto bytes, auto width) {
    scatter_rows<T, bytes, width>(args, grads, range, dentity);
  });
}

template <class T>
constexpr AttentionKernels<T> kKernels = {workspace_size<T>, forward<T>, weights<T>, backward<T>,
                                          scatter<T>};

}  // namespace

namespace EKPNET_ISA {
const AttentionKernels<float>& attention_f32() { return kKernels<float>; }
}  // namespace EKPNET_ISA

#if defined(EKPNET_FLOAT64)
namespace float64 {
const AttentionKernels<double>& attention() { return kKernels<double>; }
}  // namespace float64
#endif

}  // namespace ekpnet
