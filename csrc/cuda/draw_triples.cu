#include "cuda/device.cuh"
#include "cuda/draw_triples.h"
#include "triple_draw.h"

namespace ekpnet {
namespace {

// One true triple and its corruption per thread; the draw is a hash of its counters, so the GPU
// draws what the CPU does.
template <class Relation>
__global__ void draw_triples_kernel(const DrawTriplesArgs<Relation> args) {
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < args.count;
       k += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const TriplePair drawn =
        draw_triple(args.num_entities, args.indptr, args.relations, args.tails, args.key, k);
    args.out_heads[k] = drawn.head;
    args.out_tails[k] = drawn.tail;
    args.out_relations[k] = args.out_relations[args.count + k] = drawn.relation;
    args.out_heads[args.count + k] = drawn.corrupt_head;
    args.out_tails[args.count + k] = drawn.corrupt_tail;
  }
}

}  // namespace

template <class Relation>
void launch_draw_triples(const DrawTriplesArgs<Relation>& args, cudaStream_t stream) {
  constexpr int kThreads = 128;
  launch(draw_triples_kernel<Relation>, grid_size(args.count, kThreads), kThreads, 0, stream, args);
}

template void launch_draw_triples(const DrawTriplesArgs<uint8_t>&, cudaStream_t);
template void launch_draw_triples(const DrawTriplesArgs<int16_t>&, cudaStream_t);
template void launch_draw_triples(const DrawTriplesArgs<int32_t>&, cudaStream_t);

}  // namespace ekpnet
