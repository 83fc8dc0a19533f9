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
// chunk of groups after chunk. One of slots is 2 slot for its head and 2 slot + 1 for its tail.
class RowReferences {
 public:
  // References of a batch, sorted by so many threads.
  void sort(const RowIds& ids, int64_t threads);

  int64_t num_ranges() const { return num_ranges_; }
  int64_t first_row(int64_t range) const { return range << shift_; }

  // Calls f(2 slot + is tail) for every reference of slots to the range, in order.
  template <class F>
  void for_each_slot(int64_t range, F f) const {
    for (int64_t chunk = 0; chunk < num_chunks_; ++chunk) {
      const int64_t* starts = slot_starts_.data() + chunk * (num_ranges_ + 1) + range;
      for (int64_t i = starts[0]; i < starts[1]; ++i) f(slots_[i]);
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
  std::vector<int64_t> slots_, pairs_;
  std::vector<int64_t> slot_starts_, pair_starts_;  // [chunks, ranges + 1]
};

}  // namespace ekpnet
