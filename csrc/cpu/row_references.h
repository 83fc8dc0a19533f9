// Who names a row of a batch, range of rows by range of rows, so that threads can sum the gradients
// of different rows side by side without reading everything.
#pragma once

#include <cstdint>
#include <vector>

namespace ekpnet {

// The ids of a batch: rows of its entity table.
struct RowIds {
  int64_t num_groups;           // G
  int64_t num_rows;             // n
  int hops, slots;              // H, M
  const int32_t* heads;         // [G, H, M]
  const int32_t* tails;         // [G, H, M]
  const int32_t* counts;        // [G, H]
  const int64_t* group_indptr;  // [G + 1]
  const int32_t* items;         // [B]
};

// References to rows by ranges of rows, 2^shift each, and within a range in the order of the batch:
// chunk of groups after chunk. What a slot gives to the rows of its head and its tail has a
// position for each, so that a range is read in the order in which it lies in memory.
class RowReferences {
 public:
  static constexpr int64_t kMaxRanges = 64;

  // References of a batch, sorted by so many threads, in so many chunks of groups.
  void sort(const RowIds& ids, int64_t chunks, int64_t threads);

  int64_t num_ranges() const { return num_ranges_; }
  int64_t first_row(int64_t range) const { return range << shift_; }
  int shift() const { return shift_; }  // a row is in range row >> shift

  // Positions of a chunk's first references of slots to each range, [ranges].
  const int64_t* slot_starts(int64_t chunk) const {
    return slot_starts_.data() + chunk * (num_ranges_ + 1);
  }

  // Calls f(position) for every reference of slots to the range, in order.
  template <class F>
  void for_each_slot(int64_t range, F f) const {
    for (int64_t chunk = 0; chunk < num_chunks_; ++chunk) {
      const int64_t* starts = slot_starts(chunk) + range;
      for (int64_t i = starts[0]; i < starts[1]; ++i) f(i);
    }
  }

  // Calls f(pair) for every pair whose item is in the range, in order.
  template <class F>
  void for_each_pair(int64_t range, F f) const {
    for (int64_t chunk = 0; chunk < num_chunks_; ++chunk) {
      const int64_t* starts = pair_starts_.data() + chunk * (num_ranges_ + 1) + range;
      for (int64_t i = starts[0]; i < starts[1]; ++i) f(pairs_[i]);
    }
  }

 private:
  void sort_chunk(const RowIds& ids, int64_t chunk);

  int64_t num_chunks_ = 0, num_ranges_ = 0;
  int shift_ = 0;
  std::vector<int64_t> pairs_;
  std::vector<int64_t> slot_starts_, pair_starts_;  // [chunks, ranges + 1]
};

}  // namespace ekpnet
