#include "cpu/batching.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <vector>

#include "common/random.h"
#include "cpu/team.h"

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
  // Forgets the ids; `rows` receives them from now on.
  void reset(int32_t* rows) {
    rows_ = rows;
    size_ = 0;
    if (slots_.empty()) slots_.resize(1 << 12);
    std::fill(slots_.begin(), slots_.end(), kFree);
    adopt_size();
  }

  int32_t number(int32_t id) {
    size_t i = first_slot(id);
    for (; slots_[i].row != -1; i = (i + 1) & mask_)
      if (slots_[i].id == id) return slots_[i].row;
    const auto row = static_cast<int32_t>(size_);
    slots_[i] = {id, row};
    rows_[size_++] = id;
    if (2 * static_cast<size_t>(size_) > mask_) grow();
    return row;
  }

  int64_t size() const { return size_; }

 private:
  struct Slot {
    int32_t id, row;
  };
  static constexpr Slot kFree{0, -1};

  size_t first_slot(int32_t id) const { return static_cast<uint64_t>(id) * kGoldenGamma >> shift_; }

  void adopt_size() {
    shift_ = 64 - std::countr_zero(slots_.size());
    mask_ = slots_.size() - 1;
  }

  // The number of distinct ids is not known before, and a table for as many as there may be would
  // not stay in the cache.
  void grow() {
    slots_.assign(4 * slots_.size(), kFree);
    adopt_size();
    for (int64_t row = 0; row < size_; ++row) {
      size_t i = first_slot(rows_[row]);
      while (slots_[i].row != -1) i = (i + 1) & mask_;
      slots_[i] = {rows_[row], static_cast<int32_t>(row)};
    }
  }

  std::vector<Slot> slots_;
  size_t mask_ = 0;
  int shift_ = 0;
  int32_t* rows_ = nullptr;
  int64_t size_ = 0;
};

// What a thread numbers with; it keeps the memory from batch to batch.
RowNumbering& thread_numbering() {
  thread_local RowNumbering numbering;
  return numbering;
}

// Bits of the folds of a group's pairs.
int64_t folds_of_group(const BatchArgs& args, int64_t g) {
  int64_t folds = 0;
  for (int64_t b = args.group_indptr[g]; b < args.group_indptr[g + 1]; ++b)
    folds |= int64_t{1} << args.pair_folds[b];
  return folds;
}

// Groups [begin, end) in terms of the rows of `numbering`.
template <bool kFolds>
void number_groups(const BatchArgs& args, int64_t begin, int64_t end, RowNumbering& numbering,
                   const BatchRows& out) {
  const int64_t H = args.hops, M = args.slots;
  for (int64_t g = begin; g < end; ++g) {
    const int64_t u = args.group_users[g];
    const int64_t folds = kFolds ? folds_of_group(args, g) : 0;
    for (int64_t p = 0; p < H; ++p) {
      const int64_t from = (u * H + p) * M, to = (g * H + p) * M;
      int32_t count = 0;
      for (int64_t slot = from; slot < from + args.counts[u * H + p]; ++slot) {
        if constexpr (kFolds) {
          if ((args.slot_folds[slot] & folds) == 0) continue;
          out.slot_folds[to + count] = args.slot_folds[slot];
        }
        out.heads[to + count] = numbering.number(args.heads[slot]);
        out.tails[to + count] = numbering.number(args.tails[slot]);
        out.relations[to + count] = args.relations[slot];
        ++count;
      }
      out.counts[g * H + p] = count;
      for (int64_t m = count; m < M; ++m)
        out.heads[to + m] = out.relations[to + m] = out.tails[to + m] = 0;
      if constexpr (kFolds)
        for (int64_t m = count; m < M; ++m) out.slot_folds[to + m] = 0;
    }
  }
}

void number_any_groups(const BatchArgs& args, int64_t begin, int64_t end, RowNumbering& numbering,
                       const BatchRows& out) {
  if (args.slot_folds != nullptr)
    number_groups<true>(args, begin, end, numbering, out);
  else
    number_groups<false>(args, begin, end, numbering, out);
}

void number_pairs(const BatchArgs& args, RowNumbering& numbering, const BatchRows& out) {
  for (int64_t b = 0; b < args.num_pairs; ++b) out.items[b] = numbering.number(args.items[b]);
  for (int64_t x = 0; x < args.num_extra; ++x) out.extra[x] = numbering.number(args.extra[x]);
}

// The rows of chunks of groups, each numbered apart and by several threads, become those of the
// batch one chunk after the other, which is the order of first appearance in the batch.
int64_t number_by_chunks(const BatchArgs& args, int64_t chunks, int64_t threads,
                         const BatchRows& out) {
  const int64_t H = args.hops, M = args.slots, group = 2 * H * M;
  const auto first_group = [&](int64_t chunk) { return args.num_groups * chunk / chunks; };
  thread_local std::vector<int32_t> kept_rows, kept_sizes;
  std::vector<int32_t>&rows = kept_rows, &sizes = kept_sizes;
  rows.resize(std::max<size_t>(rows.size(), args.num_groups * group));
  sizes.resize(chunks);
  run_chunks(chunks, threads, [&](int64_t chunk) {
    RowNumbering& numbering = thread_numbering();
    numbering.reset(rows.data() + first_group(chunk) * group);
    number_any_groups(args, first_group(chunk), first_group(chunk + 1), numbering, out);
    sizes[chunk] = static_cast<int32_t>(numbering.size());
  });
  RowNumbering& numbering = thread_numbering();
  numbering.reset(out.rows);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    int32_t* of_chunk = rows.data() + first_group(chunk) * group;
    for (int32_t i = 0; i < sizes[chunk]; ++i) of_chunk[i] = numbering.number(of_chunk[i]);
  }
  run_chunks(chunks, threads, [&](int64_t chunk) {
    const int32_t* of_chunk = rows.data() + first_group(chunk) * group;
    for (int64_t hop = first_group(chunk) * H; hop < first_group(chunk + 1) * H; ++hop)
      for (int64_t slot = hop * M; slot < hop * M + out.counts[hop]; ++slot) {
        out.heads[slot] = of_chunk[out.heads[slot]];
        out.tails[slot] = of_chunk[out.tails[slot]];
      }
  });
  number_pairs(args, numbering, out);
  return numbering.size();
}

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

int64_t localize_batch(const BatchArgs& args, int64_t threads, const BatchRows& out) {
  // Of fewer ids, threads cost more than they bring.
  constexpr int64_t kChunkIds = 1 << 14, kMaxChunks = 32;
  const int64_t ids = 2 * args.num_groups * args.hops * args.slots;
  const int64_t chunks = std::min(ids / kChunkIds, kMaxChunks);
  if (threads > 1 && chunks > 1) return number_by_chunks(args, chunks, threads, out);
  RowNumbering& numbering = thread_numbering();
  numbering.reset(out.rows);
  number_any_groups(args, 0, args.num_groups, numbering, out);
  number_pairs(args, numbering, out);
  return numbering.size();
}

}  // namespace ekpnet
