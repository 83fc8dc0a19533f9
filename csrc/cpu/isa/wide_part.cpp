#include "cpu/isa/wide_part.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/isa/arena.h"
#include "cpu/isa/isa_kernels.h"
#include "cpu/isa/vectors.h"

namespace ekpnet {
namespace {

using V = Vector<float>;
constexpr int kLanes = sizeof(V) / sizeof(float);
// Items whose vectors meet all histories while they are in a cache, in panels of so many as `gemm`
// takes at once.
constexpr int64_t kTile = 240;
constexpr int64_t kPanel = (EKPNET_VECTOR_BYTES > 16 || kVectorRegisters == 32 ? 3 : 2) * kLanes;
static_assert(kTile % kPanel == 0);
constexpr int64_t kPacked = 4;  // histories for which a tile is copied, which takes time itself

// Floats in whole cache lines, as an arena hands them out.
constexpr int64_t whole_lines(int64_t n) { return round_up(n, 16); }

// y = log(max(a, 0) f + added), or a f where it is signed; or its curve added to y.
struct Responding {
  float factor;  // of the sum over the history
  const Response& response;
  int64_t pieces;

  V feature(V a) const {
    if (response.scale == Response::kSigned) return a * factor;
    a = a < V{} ? V{} : a;
    return logarithm_f32(a * factor + response.added);
  }

  V curve(V x) const {
    V sum{};
    for (int64_t p = 0; p < pieces; ++p) {
      const float slope = response.slopes[p];
      if (slope == 0.0f) continue;
      const float begin = response.knots[p], end = response.knots[p + 1];
      V y = x;
      if (p > 0) y = y < V{} + begin ? V{} + begin : y;
      if (p + 1 < pieces) y = y > V{} + end ? V{} + end : y;
      sum += (y - begin) * slope;
    }
    return sum;
  }

  template <class F>
  void each(int64_t n, const float* a, float* y, F f) const {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(y + i, f(load<V>(a + i), load<V>(y + i)));
    if (i == n) return;
    float last_a[kLanes] = {}, last_y[kLanes] = {};
    std::copy(a + i, a + n, last_a);
    std::copy(y + i, y + n, last_y);
    store(last_y, f(load<V>(last_a), load<V>(last_y)));
    std::copy(last_y, last_y + (n - i), y + i);
  }

  void write_features(int64_t n, const float* a, float* y) const {
    each(n, a, y, [&](V a, V) { return feature(a); });
  }
  void add_curve(int64_t n, const float* a, float* y) const {
    each(n, a, y, [&](V a, V y) { return y + curve(feature(a)); });
  }
  float curve_at_zero() const { return curve(feature(V{}))[0]; }
};

// One history's items, and the factors of the responses to it.
class History {
 public:
  History(const WideArgs& args, int64_t g, float* factors)
      : args_(args),
        items_(args.history_items + args.history_indptr[g]),
        length_(args.history_indptr[g + 1] - args.history_indptr[g]),
        users_(args.near_users + (args.near_indptr ? args.near_indptr[g] : 0)),
        near_(args.near_values + (args.near_indptr ? args.near_indptr[g] : 0)),
        num_users_(args.near_indptr ? args.near_indptr[g + 1] - args.near_indptr[g] : 0),
        factors_(factors) {
    const float root = std::sqrt(static_cast<float>(length_));
    const float share = length_ > 0 ? 1 / root : 0.0f;
    for (int64_t r = 0; r < args.num_responses; ++r) {
      const Response& response = args.responses[r];
      float factor = share;
      if (response.scale == Response::kRootOfLength) factor = length_ > 0 ? 1.0f : 0.0f;
      if (response.scale == Response::kByMean) {
        double mean = 0;
        const Affinity& affinity = args.affinities[response.affinity];
        each_row(args.sources[affinity.source], [&](int32_t row, float x) {
          mean += static_cast<double>(x) * affinity.mean[row];
        });
        mean = std::max(mean * share, 0.0);
        factor = share / static_cast<float>(mean + response.smoothing);
      }
      if (response.scale == Response::kSigned) {
        const double norm = norm_of_sum(args.affinities[response.affinity]) * share;
        factor = share / static_cast<float>(std::sqrt(norm + response.smoothing));
      }
      factors_[r] = factor;
    }
  }

  int64_t length() const { return length_; }
  const int32_t* items() const { return items_; }
  Responding response(int64_t r) const { return {factors_[r], args_.responses[r], args_.pieces}; }

  // Entries that its items have in a source.
  int64_t entries(const AffinitySource& source) const {
    int64_t n = 0;
    each_row(source, [&](int32_t row, float) { n += source.indptr[row + 1] - source.indptr[row]; });
    return n;
  }
  // Rows of a source that are summed.
  int64_t rows(const AffinitySource& source) const {
    return source.kind == AffinitySource::kUsers ? num_users_ : length_;
  }

  void sum_vectors(const AffinitySource& source, float* sum) const {
    std::fill(sum, sum + source.width, 0.0f);
    for (int64_t j = 0; j < length_; ++j)
      axpy<V>(source.width, 1.0f, source.values + items_[j] * source.width, sum);
  }

  // Four rows at a time, because they come from memory, which has several on their way as fast as
  // one; each item's sum is taken in the history's order.
  void sum_dense(const AffinitySource& source, float* sums) const {
    const int64_t I = args_.num_items;
    std::fill(sums, sums + I, 0.0f);
    int64_t j = 0;
    for (; j + 4 <= length_; j += 4) {
      const float* rows[4];
      for (int64_t k = 0; k < 4; ++k) rows[k] = source.values + items_[j + k] * I;
      int64_t i = 0;
      for (; i + kLanes <= I; i += kLanes) {
        V sum = load<V>(sums + i);
        for (const float* row : rows) sum += load<V>(row + i);
        store(sums + i, sum);
      }
      for (; i < I; ++i)
        for (const float* row : rows) sums[i] += row[i];
    }
    for (; j < length_; ++j) axpy<V>(I, 1.0f, source.values + items_[j] * I, sums);
  }

  // f(neighbour, value) over the rows of its items, or of the users near it.
  template <class F>
  void each_neighbour(const AffinitySource& source, F f) const {
    each_row(source, [&](int32_t row, float x) {
      const int64_t begin = source.indptr[row], end = source.indptr[row + 1];
      uint32_t top = 0;  // of ids that would be written outside of the sums
      for (int64_t n = begin; n < end; ++n)
        top = std::max(top, static_cast<uint32_t>(source.items[n]));
      if (begin < end && top >= args_.num_items)
        throw std::runtime_error("neighbours holds an item outside of 0 to " +
                                 std::to_string(args_.num_items - 1));
      for (int64_t n = begin; n < end; ++n) f(source.items[n], x * source.values[n]);
    });
  }

  // Adds to `sums`, which are 0 where nothing is.
  void sum_neighbours(const AffinitySource& source, float* sums) const {
    each_neighbour(source, [&](int32_t item, float x) { sums[item] += x; });
  }

  // The same sum for one item; in the same order, so the same bits.
  float sum_of(const AffinitySource& source, int32_t item) const {
    float sum = 0.0f;
    each_row(source, [&](int32_t row, float x) {
      const int32_t* begin = source.items + source.indptr[row];
      const int32_t* end = source.items + source.indptr[row + 1];
      const int32_t* at = std::lower_bound(begin, end, item);
      if (at != end && *at == item) sum += x * source.values[at - source.items];
    });
    return sum;
  }

 private:
  // Norm of the sum of the items' vectors.
  double norm_of_sum(const Affinity& affinity) const {
    const AffinitySource& source = args_.sources[affinity.source];
    double squares = 0;
    for (int64_t d = affinity.first; d < affinity.end; ++d) {
      double sum = 0;
      for (int64_t j = 0; j < length_; ++j) sum += source.values[items_[j] * source.width + d];
      squares += sum * sum;
    }
    return std::sqrt(squares);
  }

  // f(row, weight) over the rows of a source that are summed.
  template <class F>
  void each_row(const AffinitySource& source, F f) const {
    if (source.kind == AffinitySource::kUsers) {
      for (int64_t n = 0; n < num_users_; ++n) f(users_[n], near_[n]);
    } else {
      for (int64_t j = 0; j < length_; ++j) f(items_[j], 1.0f);
    }
  }

  const WideArgs& args_;
  const int32_t* items_;
  int64_t length_;
  const int32_t* users_;
  const float* near_;
  int64_t num_users_;
  float* factors_;
};

// Affinities of the same vectors: products of parts of them are shared.
struct Parts {
  int64_t count = 0;
  int64_t ends[2 * kMaxAffinities + 1];

  Parts(const Affinity* first, const Affinity* last) {
    for (const Affinity* a = first; a != last; ++a) {
      ends[count++] = a->first;
      ends[count++] = a->end;
    }
    std::sort(ends, ends + count);
    count = std::unique(ends, ends + count) - ends;
  }
};

// a [affinities] of one item's vector and the sum of a history's; `stride` between affinities.
void multiply_vectors(const Parts& parts, const Affinity* first, const Affinity* last,
                      const float* item, const float* sum, float* a, int64_t stride) {
  float of_parts[2 * kMaxAffinities];
  for (int64_t part = 0; part + 1 < parts.count; ++part) {
    const int64_t begin = parts.ends[part];
    of_parts[part] = dot<V>(parts.ends[part + 1] - begin, item + begin, sum + begin);
  }
  for (const Affinity* affinity = first; affinity != last; ++affinity, a += stride) {
    *a = 0.0f;
    for (int64_t part = 0; part + 1 < parts.count; ++part)
      if (parts.ends[part] >= affinity->first && parts.ends[part + 1] <= affinity->end)
        *a += of_parts[part];
  }
}

// Affinities [first, last) of a source.
template <class F>
void each_source(const WideArgs& args, F f) {
  int64_t first = 0;
  while (first < args.num_affinities) {
    int64_t last = first;
    while (last < args.num_affinities &&
           args.affinities[last].source == args.affinities[first].source)
      ++last;
    f(args.sources[args.affinities[first].source], first, last);
    first = last;
  }
}

template <class F>
void each_response(const WideArgs& args, int64_t affinity, F f) {
  for (int64_t r = 0; r < args.num_responses; ++r)
    if (args.responses[r].affinity == affinity) f(r);
}

int64_t longest_vectors(const WideArgs& args) {
  int64_t width = 0;
  for (int64_t s = 0; s < args.num_sources; ++s)
    if (args.sources[s].kind == AffinitySource::kVectors)
      width = std::max(width, args.sources[s].width);
  return whole_lines(width);
}

// Sums of a source's affinities for the pairs of one group.
class PairSums {
 public:
  PairSums(const WideArgs& args, float* sums, float* vector)
      : args_(args), sums_(sums), vector_(vector) {
    std::fill(sums, sums + args.num_items, 0.0f);
  }

  // f(affinity, a [n]) for the affinities [first, last) of a source.
  template <class F>
  void of(const AffinitySource& source, int64_t first, int64_t last, const History& history,
          int64_t n, const int32_t* items, float* a, F f) {
    switch (source.kind) {
      case AffinitySource::kNeighbours:
      case AffinitySource::kUsers:
        of_neighbours(source, history, n, items, a);
        break;
      case AffinitySource::kDense:
        of_dense(source, history, n, items, a);
        break;
      case AffinitySource::kVectors: {
        const Parts parts(args_.affinities + first, args_.affinities + last);
        history.sum_vectors(source, vector_);
        for (int64_t b = 0; b < n; ++b)
          multiply_vectors(parts, args_.affinities + first, args_.affinities + last,
                           source.values + items[b] * source.width, vector_, a + b, n);
        for (int64_t k = first; k < last; ++k) f(k, a + (k - first) * n);
        return;
      }
    }
    f(first, a);
  }

 private:
  // Four rows at a time, as `History::sum_dense`.
  void of_dense(const AffinitySource& source, const History& history, int64_t n,
                const int32_t* items, float* a) const {
    const int64_t I = args_.num_items, length = history.length();
    std::fill(a, a + n, 0.0f);
    int64_t j = 0;
    for (; j + 4 <= length; j += 4) {
      const float* rows[4];
      for (int64_t k = 0; k < 4; ++k) rows[k] = source.values + history.items()[j + k] * I;
      for (int64_t b = 0; b < n; ++b) {
        float sum = a[b];
        for (const float* row : rows) sum += row[items[b]];
        a[b] = sum;
      }
    }
    for (; j < length; ++j) {
      const float* row = source.values + history.items()[j] * I;
      for (int64_t b = 0; b < n; ++b) a[b] += row[items[b]];
    }
  }

  void of_neighbours(const AffinitySource& source, const History& history, int64_t n,
                     const int32_t* items, float* a) {
    // Looking a row up takes some steps for each of its halvings.
    constexpr int64_t kStepsOfSearch = 12;
    const int64_t entries = history.entries(source);
    if (n * history.rows(source) * kStepsOfSearch < 2 * entries) {
      for (int64_t b = 0; b < n; ++b) a[b] = history.sum_of(source, items[b]);
      return;
    }
    history.sum_neighbours(source, sums_);
    for (int64_t b = 0; b < n; ++b) a[b] = sums_[items[b]];
    if (entries >= args_.num_items) {
      std::fill(sums_, sums_ + args_.num_items, 0.0f);
      return;
    }
    history.each_neighbour(source, [&](int32_t item, float) { sums_[item] = 0.0f; });
  }

  const WideArgs& args_;
  float* sums_;
  float* vector_;
};

constexpr int64_t kPairsAtOnce = 1024;

int64_t workspace_size(const WideArgs& args) {
  const int64_t I = whole_lines(args.num_items), A = args.num_affinities;
  const int64_t of_tile = (kHistories + longest_vectors(args)) * kTile;  // products, the tile
  return 4 * I                                 // sums, ids, their affinities, their curves
         + kHistories * longest_vectors(args)  // sums of vectors
         + std::max(kHistories, kPairGroups) * whole_lines(args.num_responses)  // factors
         + std::max(of_tile, kPairsAtOnce * A)                                  // affinities
         + 64;
}

// f(history, first pair, n, affinity, sums) for the pairs of the groups, some at a time; one source
// after the other for all groups, because rows of one that groups share stay in a cache.
template <class F>
void each_pairs(const WideArgs& args, const WidePairs& pairs, int64_t begin, int64_t end,
                float* workspace, F f) {
  Arena<float> arena(workspace);
  PairSums sums(args, arena.take(whole_lines(args.num_items)), arena.take(longest_vectors(args)));
  float* factors = arena.take(kPairGroups * whole_lines(args.num_responses));
  float* a = arena.take(kPairsAtOnce * args.num_affinities);
  std::vector<History> histories;
  std::vector<int64_t> groups;  // that have pairs
  histories.reserve(end - begin);
  for (int64_t g = begin; g < end; ++g) {
    if (pairs.group_indptr[g] == pairs.group_indptr[g + 1]) continue;
    histories.emplace_back(args, g, factors + (g - begin) * whole_lines(args.num_responses));
    groups.push_back(g);
  }
  each_source(args, [&](const AffinitySource& source, int64_t first, int64_t last) {
    for (size_t h = 0; h < histories.size(); ++h) {
      const History& history = histories[h];
      const int64_t g = groups[h];
      for (int64_t b = pairs.group_indptr[g]; b < pairs.group_indptr[g + 1]; b += kPairsAtOnce) {
        const int64_t n = std::min(kPairsAtOnce, pairs.group_indptr[g + 1] - b);
        sums.of(
            source, first, last, history, n, pairs.items + b, a,
            [&](int64_t affinity, const float* of_pairs) { f(history, b, n, affinity, of_pairs); });
      }
    }
  });
}

void features(const WideArgs& args, const WidePairs& pairs, int64_t begin, int64_t end, float* out,
              float* workspace) {
  each_pairs(args, pairs, begin, end, workspace,
             [&](const History& history, int64_t b, int64_t n, int64_t affinity, const float* a) {
               each_response(args, affinity, [&](int64_t r) {
                 history.response(r).write_features(n, a, out + r * pairs.num_pairs + b);
               });
             });
}

void pair_logits(const WideArgs& args, const WidePairs& pairs, int64_t begin, int64_t end,
                 float* out, float* workspace) {
  for (int64_t b = pairs.group_indptr[begin]; b < pairs.group_indptr[end]; ++b)
    out[b] = args.item_terms[pairs.items[b]];
  each_pairs(args, pairs, begin, end, workspace,
             [&](const History& history, int64_t b, int64_t n, int64_t affinity, const float* a) {
               each_response(args, affinity,
                             [&](int64_t r) { history.response(r).add_curve(n, a, out + b); });
             });
}

// Adds the curves of a source's neighbours to the logits [I] of one history.
void add_neighbours(const WideArgs& args, const History& history, const AffinitySource& source,
                    int64_t affinity, float* sums, float* ids_room, float* few, float* curves,
                    float* out) {
  const int64_t I = args.num_items;
  if (4 * history.entries(source) >= I) {
    history.sum_neighbours(source, sums);
    each_response(args, affinity, [&](int64_t r) { history.response(r).add_curve(I, sums, out); });
    std::fill(sums, sums + I, 0.0f);
    return;
  }
  // Few items are reached: the others share one value.
  int32_t* ids = reinterpret_cast<int32_t*>(ids_room);
  int64_t n = 0;
  history.each_neighbour(source, [&](int32_t item, float x) {
    if (sums[item] == 0.0f) ids[n++] = item;
    sums[item] += x;
  });
  float of_others = 0.0f;
  each_response(args, affinity,
                [&](int64_t r) { of_others += history.response(r).curve_at_zero(); });
  for (int64_t i = 0; i < I; ++i) out[i] += of_others;
  // A sum that came to 0 on its way has its item twice: the second time nothing is left of it.
  for (int64_t i = 0; i < n; ++i) {
    few[i] = sums[ids[i]];
    sums[ids[i]] = 0.0f;
    curves[i] = -of_others;
  }
  each_response(args, affinity, [&](int64_t r) { history.response(r).add_curve(n, few, curves); });
  for (int64_t i = 0; i < n; ++i) out[ids[i]] += curves[i];
}

// Panels [panels, width, kPanel] of the items [begin, begin + n), one after the other: in rows as
// far apart as a catalogue is long, each would be in a page of memory of its own. Zeros follow up
// to whole vectors, with which the last panel ends: [width, at most kPanel].
void pack(const AffinitySource& source, int64_t I, int64_t begin, int64_t n, float* panels) {
  for (int64_t d = 0; d < source.width; ++d) {
    const float* row = source.transposed + d * I + begin;
    for (int64_t first = 0; first < n; first += kPanel) {
      const int64_t some = std::min(kPanel, n - first), columns = round_up(some, kLanes);
      float* to = panels + first * source.width + d * columns;
      if (some == kPanel) {
        unrolled<kPanel / kLanes>(
            [&](auto v) { store(to + v * kLanes, load<V>(row + first + v * kLanes)); });
        continue;
      }
      std::copy(row + first, row + first + some, to);
      std::fill(to + some, to + columns, 0.0f);
    }
  }
}

// Adds the curves of vectors to the logits [G, I] of some histories. `sums` has room for the
// vectors of the histories, `a` for their products with those of a tile and for the tile.
void add_vectors(const WideArgs& args, const AffinitySource& source, int64_t first, int64_t last,
                 const std::vector<History>& histories, float* sums, int64_t stride, float* a,
                 float* out) {
  const int64_t I = args.num_items, count = histories.size();
  for (int64_t h = 0; h < count; ++h) histories[h].sum_vectors(source, sums + h * stride);
  float* const panels = a + kHistories * kTile;
  for (int64_t begin = 0; begin < I; begin += kTile) {
    const int64_t n = std::min(kTile, I - begin);
    const bool packed = count >= kPacked || n < kTile;
    if (packed) pack(source, I, begin, n, panels);
    int64_t done = 0;  // columns of the vectors that the products have
    for (int64_t k = first; k < last; ++k) {
      const Affinity& affinity = args.affinities[k];
      const bool goes_on = k > first && affinity.first == args.affinities[k - 1].first;
      if (!goes_on) done = affinity.first;
      for (int64_t at = 0; at < n; at += kPanel) {
        const int64_t columns = round_up(std::min(kPanel, n - at), kLanes);
        const float* panel = packed ? panels + at * source.width + done * columns
                                    : source.transposed + done * I + begin + at;
        gemm<V>(count, columns, affinity.end - done, sums + done, stride, 1, panel,
                packed ? columns : I, a + at, kTile, goes_on);
      }
      done = affinity.end;
      for (int64_t h = 0; h < count; ++h)
        each_response(args, k, [&](int64_t r) {
          histories[h].response(r).add_curve(n, a + h * kTile, out + h * I + begin);
        });
    }
  }
}

void catalogue_logits(const WideArgs& args, int64_t begin, int64_t end, float* out,
                      float* workspace) {
  const int64_t I = args.num_items, count = end - begin;
  Arena<float> arena(workspace);
  float* sums = arena.take(whole_lines(I));
  float* ids = arena.take(whole_lines(I));
  float* few = arena.take(whole_lines(I));
  float* curves = arena.take(whole_lines(I));
  const int64_t stride = longest_vectors(args);
  float* vectors = arena.take(kHistories * stride);
  float* factors = arena.take(kHistories * whole_lines(args.num_responses));
  float* a = arena.take((kHistories + stride) * kTile);
  std::fill(sums, sums + I, 0.0f);
  std::vector<History> histories;
  histories.reserve(count);
  for (int64_t h = 0; h < count; ++h) {
    histories.emplace_back(args, begin + h, factors + h * whole_lines(args.num_responses));
    std::copy(args.item_terms, args.item_terms + I, out + (begin + h) * I);
  }
  each_source(args, [&](const AffinitySource& source, int64_t first, int64_t last) {
    if (source.kind == AffinitySource::kVectors)
      return add_vectors(args, source, first, last, histories, vectors, stride, a, out + begin * I);
    for (int64_t h = 0; h < count; ++h) {
      float* logits = out + (begin + h) * I;
      if (source.kind != AffinitySource::kDense) {
        add_neighbours(args, histories[h], source, first, sums, ids, few, curves, logits);
        continue;
      }
      histories[h].sum_dense(source, few);
      each_response(args, first,
                    [&](int64_t r) { histories[h].response(r).add_curve(I, few, logits); });
    }
  });
}

}  // namespace

namespace EKPNET_ISA {
const WideKernels& wide_part() {
  static const WideKernels kernels = {workspace_size, features, pair_logits, catalogue_logits};
  return kernels;
}
}  // namespace EKPNET_ISA

}  // namespace ekpnet
