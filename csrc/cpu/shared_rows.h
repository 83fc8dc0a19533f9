// Rows of tables that processes share: where they are, and sums of what comes back.
#pragma once

#include <cstdint>

namespace ekpnet {

// Row i of `count` is at position p = i factor mod count, in shard p shards / count; each of the
// processes has shards / processes of them, in order.
struct RowSharing {
  int64_t count, factor, shards, processes;

  int64_t first_position(int64_t shard) const { return (count * shard + shards - 1) / shards; }
};

// Where the rows are that some parts of a batch touch.
struct RowPlaces {
  int32_t* rows;    // [N] rows of the process that has them, by process, then by part
  int32_t* order;   // [N] position of each of `rows` among the ids
  int32_t* places;  // [N] position of each id in `rows`
  int32_t* counts;  // [processes, parts]
};

// ids [N], part after part, of `lengths` [parts]; at least 0 and below `count`.
void place_rows(const RowSharing& sharing, const int32_t* ids, const int64_t* lengths,
                int64_t parts, const RowPlaces& out);

// out [n, size]: rows of table [?, size].
template <class T>
void take_rows(T* out, int64_t size, const T* table, const int32_t* rows, int64_t n);

// total [u, size]: total[positions[i]] += rows[picked[i]], or rows[i], for i from 0 to n - 1 in
// this order.
template <class T>
void add_rows(T* total, int64_t size, const int32_t* positions, int64_t n, const T* rows,
              const int32_t* picked);

// Sums of squares of rows of table [?, size]; those from starts[s] on, and before the next start,
// are added to norms[s], in their order.
template <class T>
void square_norms(const T* table, int64_t size, const int32_t* rows, int64_t n,
                  const int64_t* starts, int64_t num_starts, double* norms);

}  // namespace ekpnet
