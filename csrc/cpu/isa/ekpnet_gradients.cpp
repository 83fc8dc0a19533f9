// A group's pairs go forward through hops and layers and back again before the next ones start, so
// that nothing is computed twice and neither z nor a hidden layer is written to memory.
#include "cpu/isa/ekpnet_gradients.h"

#include <algorithm>

#include "cpu/isa/group_worker.h"
#include "cpu/isa/isa_kernels.h"
#include "cpu/isa/layer_stack.h"
#include "cpu/isa/pair_losses.h"
#include "cpu/isa/scatter_rows.h"
#include "cpu/isa/triple_score.h"

namespace ekpnet {
namespace {

static_assert(kGroupBlock <= kLayerBlock && kGroupBlock == kListPairs);

template <class T, int kWidthBytes, int kWidth>
int64_t workspace_of(const EkpnetArgs<T>& args) {
  int64_t attention = 0, layers = 0;
  Workspace<T>(args.attention, strides_of<T, kWidthBytes>(args.attention), args.folds.count,
               nullptr, &attention);
  if (args.deep) LayerStack<T>(args.layers, nullptr, &layers);
  return attention + layers;
}

// Loss and gradients of a chunk of groups.
template <class T, int kWidthBytes, int kWidth>
void run_group_chunk(const EkpnetArgs<T>& args, const EkpnetSums<T>& sums, int64_t chunk,
                     GroupWorker<T, kWidthBytes, kWidth>& worker, LayerStack<T>& stack) {
  const AttentionArgs<T>& a = args.attention;
  const int64_t D = a.width, R = a.num_relations, chunks = sums.attention.num_chunks;
  T logit[kGroupBlock + EKPNET_VECTOR_BYTES / sizeof(T)];
  worker.begin_chunk(sums.attention, chunk);
  if (args.deep) stack.clear_gradients();
  double loss = 0;
  const int64_t last = a.num_groups * (chunk + 1) / chunks;
  for (int64_t g = a.num_groups * chunk / chunks; g < last; ++g) {
    worker.build_tiles(g, true);
    worker.clear_group_gradients();
    const int64_t first = a.group_indptr[g], pairs = a.group_indptr[g + 1] - first;
    const int64_t blocks = (pairs + kGroupBlock - 1) / kGroupBlock;
    for (int64_t block = 0; block < blocks; ++block) {
      // Lists are cut evenly, so that few are without a negative; other pairs into whole blocks.
      const bool whole = args.loss == PairLoss::kCrossEntropy;
      const int64_t from = whole ? block * kGroupBlock : list_begin(pairs, blocks, block);
      const int64_t to = whole ? from + kGroupBlock : list_begin(pairs, blocks, block + 1);
      const int64_t begin = first + from, P = (to < pairs ? to : pairs) - from;
      const T* offset = args.offset != nullptr ? args.offset + begin : nullptr;
      const T* real = args.real != nullptr ? args.real + begin : nullptr;
      T* ditem = sums.attention.ditem + begin * D;
      if (args.deep) {
        worker.propagate(g, begin, P, stack.input(), stack.stride(), nullptr);
        stack.propagate(P);
        stack.write_logits(P, logit);
        loss += pair_loss(args.loss, P, args.labels + begin, offset, real, args.pair_weight, logit);
        const T* dz = stack.propagate_backward(P, logit);
        worker.propagate_backward(g, P, dz, stack.stride(), nullptr, ditem);
      } else {
        worker.propagate(g, begin, P, nullptr, 0, logit);
        loss += pair_loss(args.loss, P, args.labels + begin, offset, real, args.pair_weight, logit);
        worker.propagate_backward(g, P, nullptr, 0, logit, ditem);
      }
    }
    worker.write_group_gradients(g, sums.attention, chunk);
    for (int64_t hop = g * a.hops; hop < (g + 1) * a.hops; ++hop)
      for (int64_t m = 0; m < a.counts[hop]; ++m)
        sums.touched[chunk * R + a.relations[hop * a.slots + m]] = 1;
  }
  sums.pairs[chunk] = loss;
  worker.write_shared_gradients(sums.attention, chunk);
  if (args.deep) stack.write_gradients(sums.layers, chunk);
}

// Loss and gradients of a chunk of triples.
template <class T>
void run_triple_chunk(const EkpnetArgs<T>& args, const EkpnetSums<T>& sums, int64_t chunk) {
  const TripleLossArgs<T>& t = args.triples;
  const int64_t D = t.width;
  T x[kMaxPadded];
  double loss = 0;
  const int64_t last = t.num_triples * (chunk + 1) / sums.triple_chunks;
  for (int64_t k = t.num_triples * chunk / sums.triple_chunks; k < last; ++k) {
    triple_score(t, k, x);
    T sum = 0;
    for (int64_t d = 0; d < D; ++d) {
      const T miss = x[d] - T(t.labels[k]);
      sum += miss * miss;
      sums.dtriple[k * D + d] = T(2) * args.triple_weight * miss * x[d] * (T(1) - x[d]);
    }
    loss += sum;
  }
  sums.kg[chunk] = loss;
}

template <class T, int kWidthBytes, int kWidth>
void run_all_chunks(const EkpnetArgs<T>& args, const EkpnetSums<T>& sums, Chunks& chunks,
                    int64_t slot, T* workspace) {
  int64_t chunk = chunks.take(slot);
  if (chunk < 0) return;
  const AttentionArgs<T>& a = args.attention;
  int64_t used = 0;
  Workspace<T>(a, strides_of<T, kWidthBytes>(a), args.folds.count, nullptr, &used);
  GroupWorker<T, kWidthBytes, kWidth> worker(a, workspace, args.folds);
  LayerStack<T> stack(args.layers, workspace + used, nullptr);
  if (args.deep) stack.load_parameters(true, true);
  const int64_t groups = sums.attention.num_chunks;
  for (; chunk >= 0; chunk = chunks.take(slot)) {
    if (chunk < groups)
      run_group_chunk<T, kWidthBytes, kWidth>(args, sums, chunk, worker, stack);
    else
      run_triple_chunk(args, sums, chunk - groups);
  }
}

template <class T>
double gather(const T* table, int64_t size, const int32_t* rows, int64_t begin, int64_t end,
              T* out) {
  using V = Vector<T>;
  constexpr int64_t kAhead = 12, kLanes = EKPNET_VECTOR_BYTES / sizeof(T);
  double total = 0;
  for (int64_t i = begin; i < end; ++i) {
    if (i + kAhead < end) prefetch(table + rows[i + kAhead] * size, size);
    if (rows[i] < 0) {
      std::fill_n(out + i * size, size, T(0));
      continue;
    }
    const T* from = table + rows[i] * size;
    V squares{};
    T rest = 0;
    int64_t d = 0;
    for (; d + kLanes <= size; d += kLanes) {
      const V x = load<V>(from + d);
      squares += x * x;
      store(out + i * size + d, x);
    }
    for (; d < size; ++d) {
      rest += from[d] * from[d];
      out[i * size + d] = from[d];
    }
    total += reduce<T, kLanes>(squares, Sum()) + rest;
  }
  return total;
}

template <class T>
int64_t workspace_size(const EkpnetArgs<T>& args) {
  return with_width<T>(args.attention.width,
                       [&](auto bytes, auto width) { return workspace_of<T, bytes, width>(args); });
}

template <class T>
void chunks(const EkpnetArgs<T>& args, const EkpnetSums<T>& sums, Chunks& chunks, int64_t slot,
            T* workspace) {
  with_width<T>(args.attention.width, [&](auto bytes, auto width) {
    run_all_chunks<T, bytes, width>(args, sums, chunks, slot, workspace);
  });
}

template <class T>
void scatter(const EkpnetArgs<T>& args, const EkpnetSums<T>& sums, int64_t range, T* dentity) {
  const AttentionArgs<T>& a = args.attention;
  const RowReferences& references = *sums.attention.references;
  const int64_t row_begin = references.first_row(range), row_end = references.first_row(range + 1);
  with_width<T>(a.width, [&](auto bytes, auto width) {
    scatter_rows<T, bytes, width>(a, sums.attention, range, dentity);
    using VD = Vector<T, bytes>;
    const Width<width> D{a.width};
    const int64_t row = a.channels * D;
    const TripleLossArgs<T>& t = args.triples;
    for (int64_t k = 0; k < t.num_triples; ++k) {
      const int64_t head = t.heads[k], tail = t.tails[k];
      if (head >= row_begin && head < row_end)
        axpy<VD>(D, T(1), sums.dtriple + k * D, dentity + head * row);
      if (tail >= row_begin && tail < row_end)
        axpy<VD>(D, T(-1), sums.dtriple + k * D, dentity + tail * row);
    }
  });
}

template <class T>
constexpr EkpnetKernels<T> kKernels = {workspace_size<T>, gather<T>, chunks<T>, scatter<T>};

}  // namespace

namespace EKPNET_ISA {
const EkpnetKernels<float>& ekpnet_f32() { return kKernels<float>; }
}  // namespace EKPNET_ISA

#if defined(EKPNET_FLOAT64)
namespace float64 {
const EkpnetKernels<double>& ekpnet() { return kKernels<double>; }
}  // namespace float64
#endif

}  // namespace ekpnet
