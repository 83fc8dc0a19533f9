#include "cpu/batching.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <vector>

#include "common/random.h"

namespace ekpnet {
namespace {

// Fisher-Yates.
void shuffle_range(uint64_t key, int64_t n, int64_t* order) {
  for (int64_t i = n - 1; i > 0; --i)
    std::swap(order[i], order[bounded(random_bits(key, i), i + 1)]);
}

// Gives entity ids consecutive numbers in order of first appearance.
class RowNumbering {
 public:
  RowNumbering(int64_t max_ids, int32_t* rows) : rows_(rows) {
    const size_t size = std::bit_ceil(static_cast<size_t>(2 * max_ids + 2));
    shift_ = 64 - std::countr_zero(size);
    mask_ = size - 1;
    slots_.assign(size, Slot{0, -1});
  }

  int32_t number(int32_t id) {
    size_t i = static_cast<uint64_t>(id) * kGoldenGamma >> shift_;
    for (; slots_[i].row != -1; i = (i + 1) & mask_)
      if (slots_[i].id == id) return slots_[i].row;
    slots_[i] = {id, static_cast<int32_t>(size_)};
    rows_[size_] = id;
    return static_cast<int32_t>(size_++);
  }

  int64_t size() const { return size_; }

 private:
  struct Slot {
    int32_t id, row;
  };
  std::vector<Slot> slots_;
  size_t mask_;
  int shift_;
  int32_t* rows_;
  int64_t size_ = 0;
};

}  // namespace

void shuffle_user_pairs(const int64_t* user_indptr, uint64_t seed, uint64_t epoch, int64_t begin,
                        int64_t end, int64_t* order) {
  for (int64_t u = begin; u < end; ++u) {
    const int64_t first = user_indptr[u], n = user_indptr[u + 1] - first;
    std::iota(order + first, order + first + n, first);
    shuffle_range(stream_key(seed, epoch, u, 1), n, order + first);
  }
}

void shuffle(uint64_t seed, uint64_t epoch, int64_t n, int64_t* order) {
  std::iota(order, order + n, 0);
  shuffle_range(stream_key(seed, epoch, 0, 2), n, order);
}

int64_t localize_batch(const BatchArgs& args, const BatchRows& out) {
  const int64_t H = args.hops, M = args.slots;
  RowNumbering numbering(2 * args.num_groups * H * M + args.num_pairs + args.num_extra, out.rows);
  for (int64_t g = 0; g < args.num_groups; ++g) {
    const int64_t u = args.group_users[g];
    for (int64_t p = 0; p < H; ++p) {
      const int64_t from = (u * H + p) * M, to = (g * H + p) * M;
      const int32_t count = args.counts[u * H + p];
      out.counts[g * H + p] = count;
      for (int64_t m = 0; m < count; ++m) {
        out.heads[to + m] = numbering.number(args.heads[from + m]);
        out.tails[to + m] = numbering.number(args.tails[from + m]);
        out.relations[to + m] = args.relations[from + m];
      }
      for (int64_t m = count; m < M; ++m)
        out.heads[to + m] = out.tails[to + m] = out.relations[to + m] = 0;
    }
  }
  for (int64_t b = 0; b < args.num_pairs; ++b) out.items[b] = numbering.number(args.items[b]);
  for (int64_t x = 0; x < args.num_extra; ++x) out.extra[x] = numbering.number(args.extra[x]);
  return numbering.size();
}

}  // namespace ekpnet
