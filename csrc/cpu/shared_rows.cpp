#include "cpu/shared_rows.h"

#include <algorithm>
#include <vector>

namespace ekpnet {

void place_rows(const RowSharing& sharing, const int32_t* ids, const int64_t* lengths,
                int64_t parts, const RowPlaces& out) {
  const int64_t each = sharing.shards / sharing.processes, keys = sharing.processes * parts;
  std::vector<int64_t> bases(sharing.processes);
  for (int64_t process = 0; process < sharing.processes; ++process)
    bases[process] = sharing.first_position(process * each);
  int64_t N = 0;
  for (int64_t part = 0; part < parts; ++part) N += lengths[part];
  thread_local std::vector<int32_t> kept_rows;
  thread_local std::vector<int16_t> kept_keys;
  std::vector<int32_t>& row_of = kept_rows;
  std::vector<int16_t>& key_of = kept_keys;
  row_of.resize(std::max<size_t>(row_of.size(), N));
  key_of.resize(std::max<size_t>(key_of.size(), N));
  std::vector<int64_t> at(keys + 1);
  int64_t i = 0;
  for (int64_t part = 0; part < parts; ++part)
    for (const int64_t end = i + lengths[part]; i < end; ++i) {
      const int64_t position = ids[i] * sharing.factor % sharing.count;
      const int64_t process = position * sharing.shards / sharing.count / each;
      row_of[i] = static_cast<int32_t>(position - bases[process]);
      key_of[i] = static_cast<int16_t>(process * parts + part);
      ++at[key_of[i] + 1];
    }
  for (int64_t key = 0; key < keys; ++key) {
    out.counts[key] = static_cast<int32_t>(at[key + 1]);
    at[key + 1] += at[key];
  }
  for (i = 0; i < N; ++i) {
    const int64_t place = at[key_of[i]]++;
    out.rows[place] = row_of[i];
    out.order[place] = static_cast<int32_t>(i);
    out.places[i] = static_cast<int32_t>(place);
  }
}

namespace {

constexpr int64_t kAhead = 16;  // rows that are asked for before they are read
constexpr int64_t kLine = 64;   // bytes

template <class T>
void ask_for(const T* row, int64_t size) {
  for (int64_t at = 0; at < size; at += kLine / static_cast<int64_t>(sizeof(T)))
    __builtin_prefetch(row + at);
}

}  // namespace

template <class T>
void take_rows(T* __restrict out, int64_t size, const T* __restrict table, const int32_t* rows,
               int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    if (i + kAhead < n) ask_for(table + rows[i + kAhead] * size, size);
    const T* from = table + rows[i] * size;
    for (int64_t k = 0; k < size; ++k) out[i * size + k] = from[k];
  }
}

template <class T>
void add_rows(T* __restrict total, int64_t size, const int32_t* positions, int64_t n,
              const T* __restrict rows, const int32_t* picked) {
  for (int64_t i = 0; i < n; ++i) {
    if (i + kAhead < n) ask_for(total + positions[i + kAhead] * size, size);
    T* to = total + positions[i] * size;
    const T* from = rows + (picked != nullptr ? picked[i] : i) * size;
    for (int64_t k = 0; k < size; ++k) to[k] += from[k];
  }
}

template <class T>
void square_norms(const T* table, int64_t size, const int32_t* rows, int64_t n,
                  const int64_t* starts, int64_t num_starts, double* norms) {
  // Sums side by side, always so many of so many squares: what a compiler makes of a vector's width
  // does not change the order.
  constexpr int64_t kSums = 8, kBlock = 8 * kSums;
  std::fill(norms, norms + num_starts, 0.0);
  for (int64_t i = 0; i < n; ++i) {
    if (i + kAhead < n) ask_for(table + rows[i + kAhead] * size, size);
    const T* x = table + rows[i] * size;
    double norm = 0;
    for (int64_t begin = 0; begin < size; begin += kBlock) {
      const int64_t end = std::min(begin + kBlock, size);
      T sums[kSums] = {};
      int64_t k = begin;
      for (; k + kSums <= end; k += kSums)
        for (int64_t j = 0; j < kSums; ++j) sums[j] += x[k + j] * x[k + j];
      for (int64_t j = 0; k + j < end; ++j) sums[j] += x[k + j] * x[k + j];
      for (int64_t j = 0; j < kSums; ++j) norm += sums[j];
    }
    const int64_t* next = std::upper_bound(starts, starts + num_starts, int64_t{rows[i]});
    norms[next - starts - 1] += norm;
  }
}

template void take_rows(float*, int64_t, const float*, const int32_t*, int64_t);
template void take_rows(double*, int64_t, const double*, const int32_t*, int64_t);
template void add_rows(float*, int64_t, const int32_t*, int64_t, const float*, const int32_t*);
template void add_rows(double*, int64_t, const int32_t*, int64_t, const double*, const int32_t*);
template void square_norms(const float*, int64_t, const int32_t*, int64_t, const int64_t*, int64_t,
                           double*);
template void square_norms(const double*, int64_t, const int32_t*, int64_t, const int64_t*, int64_t,
                           double*);

}  // namespace ekpnet
