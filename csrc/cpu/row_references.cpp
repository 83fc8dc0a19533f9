#include "cpu/row_references.h"

#include <algorithm>

#include "cpu/team.h"

namespace ekpnet {
namespace {

// Ranges of a thread, so that one that others hold up leaves some to the rest.
constexpr int64_t kRangesPerThread = 4;

// From the number of references to each range, [ranges] behind `starts`, their positions.
void add_up(int64_t* starts, int64_t ranges, int64_t begin) {
  starts[0] = begin;
  for (int64_t range = 0; range < ranges; ++range) starts[range + 1] += starts[range];
}

}  // namespace

void RowReferences::sort(const RowIds& ids, int64_t chunks, int64_t threads) {
  const int64_t most = threads > 1 ? std::min(kRangesPerThread * threads, kMaxRanges) : 1;
  const int64_t last = std::max<int64_t>(ids.num_rows - 1, 0);
  for (shift_ = 0; last >> shift_ >= most;) ++shift_;
  num_ranges_ = (last >> shift_) + 1;
  num_chunks_ = chunks;
  const size_t pairs = ids.num_groups > 0 ? ids.group_indptr[ids.num_groups] : 0;
  pairs_.resize(std::max(pairs_.size(), pairs));  // memory is kept from batch to batch
  slot_starts_.assign(num_chunks_ * (num_ranges_ + 1), 0);
  pair_starts_.assign(num_chunks_ * (num_ranges_ + 1), 0);
  run_chunks(num_chunks_, threads, [&](int64_t chunk) { sort_chunk(ids, chunk); });
}

void RowReferences::sort_chunk(const RowIds& ids, int64_t chunk) {
  const int64_t H = ids.hops, M = ids.slots;
  const int64_t first = ids.num_groups * chunk / num_chunks_;
  const int64_t last = ids.num_groups * (chunk + 1) / num_chunks_;
  int64_t* starts = slot_starts_.data() + chunk * (num_ranges_ + 1);
  if (num_ranges_ == 1) {
    for (int64_t hop = first * H; hop < last * H; ++hop) starts[1] += 2 * ids.counts[hop];
  } else {
    for (int64_t hop = first * H; hop < last * H; ++hop)
      for (int64_t slot = hop * M; slot < hop * M + ids.counts[hop]; ++slot) {
        ++starts[(ids.heads[slot] >> shift_) + 1];
        ++starts[(ids.tails[slot] >> shift_) + 1];
      }
  }
  add_up(starts, num_ranges_, 2 * first * H * M);

  int64_t at[kMaxRanges];
  const int64_t first_pair = ids.group_indptr[first], last_pair = ids.group_indptr[last];
  starts = pair_starts_.data() + chunk * (num_ranges_ + 1);
  for (int64_t b = first_pair; b < last_pair; ++b) ++starts[(ids.items[b] >> shift_) + 1];
  add_up(starts, num_ranges_, first_pair);
  std::copy(starts, starts + num_ranges_, at);
  for (int64_t b = first_pair; b < last_pair; ++b) pairs_[at[ids.items[b] >> shift_]++] = b;
}

}  // namespace ekpnet
