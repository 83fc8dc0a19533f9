// CPU binding of ekpnet_gradients.
#include <algorithm>
#include <optional>
#include <tuple>

#include "bindings/cpu_checks.h"
#include "bindings/cpu_launch.h"
#include "bindings/deep_score.h"
#include "common/bf16.h"
#include "cpu/dispatch.h"

namespace ekpnet {
namespace {

constexpr int64_t kRowGrain = 512, kTripleGrain = 128;

template <class T>
const EkpnetKernels<T>& ekpnet_kernels() {
  if constexpr (sizeof(T) == 4)
    return isa_kernels().ekpnet_f32;
  else
    return isa_kernels().ekpnet_f64;
}

// Adds l2 times the values to their gradient; returns l2 / 2 times the sum of their squares as a T:
// what does not fit there does not fit into the gradient's square either, and must be told.
template <class T>
double add_decay(const T* x, int64_t n, double l2, T* grad) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) {
    squares += static_cast<double>(x[i]) * x[i];
    grad[i] += static_cast<T>(l2) * x[i];
  }
  return static_cast<T>(l2 / 2 * squares);
}

// `gather` of the kernels from a bfloat16 table.
double gather_bf16(const Bf16* table, int64_t size, const int32_t* rows, int64_t begin, int64_t end,
                   float* out) {
  double squares = 0;
  for (int64_t i = begin; i < end; ++i)
    for (int64_t d = 0; d < size; ++d) {
      const float x = rows[i] < 0 ? 0.0f : widened(table[rows[i] * size + d]);
      out[i * size + d] = x;
      squares += static_cast<double>(x) * x;
    }
  return squares;
}

// The rows that the batch touches, copied out of the table; adds their sum of squares.
template <class T>
Tensor gathered(const Tensor& table, ScalarType dtype, const Tensor& rows, double* squares) {
  check_channels(table);
  check_table(table, dtype);
  check_tensor(rows, "rows", ScalarType::Int, {-1});
  const int64_t n = rows.size(0), size = table.size(1) * table.size(2);
  const int32_t* ids = data<int32_t>(rows);
  for (int64_t i = 0; i < n; ++i)
    STD_TORCH_CHECK(ids[i] < table.size(0), "rows holds id ", ids[i], " at position ", i,
                    ", expected below ", table.size(0), " (rows of table)");
  Tensor entity = empty({n, table.size(1), table.size(2)}, dtype);
  T* out = mutable_data<T>(entity);
  std::vector<double> parts((n + kRowGrain - 1) / kRowGrain);
  for_each_piece(n, kRowGrain, [&](int64_t begin, int64_t end) {
    double* const part = &parts[begin / kRowGrain];
    if (table.scalar_type() == dtype)
      *part = ekpnet_kernels<T>().gather(data<T>(table), size, ids, begin, end, out);
    else if constexpr (sizeof(T) == 4)
      *part = gather_bf16(data<Bf16>(table), size, ids, begin, end, out);
  });
  for (double part : parts) *squares += part;
  return entity;
}

template <class T>
SlotFolds checked_folds(const Tensor& slot_folds, const Tensor& pair_folds,
                        const AttentionArgs<T>& args) {
  check_tensor(slot_folds, "slot_folds", ScalarType::Long,
               {args.num_groups, args.hops, args.slots});
  check_tensor(pair_folds, "pair_folds", ScalarType::Int, {args.num_pairs});
  const int32_t* of_pairs = data<int32_t>(pair_folds);
  check_ids(of_pairs, args.num_pairs, 64, "pair_folds", "folds");
  const int last = *std::max_element(of_pairs, of_pairs + args.num_pairs);
  return {data<int64_t>(slot_folds), of_pairs, last + 1};
}

using Gradients =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Gradients ekpnet_gradients_cpu(
    const Tensor& table, const Tensor& relation, const Tensor& W_e, const Tensor& b_e,
    const std::optional<Tensor>& weights, const std::optional<Tensor>& biases,
    const std::optional<Tensor>& w_out, const std::optional<Tensor>& b_out, const Tensor& rows,
    const Tensor& heads, const Tensor& relations, const Tensor& tails, const Tensor& counts,
    const Tensor& group_indptr, const Tensor& items, const Tensor& labels,
    const std::optional<Tensor>& offset, const Tensor& triple_heads, const Tensor& triple_relations,
    const Tensor& triple_tails, const Tensor& triple_labels,
    const std::optional<Tensor>& slot_folds, const std::optional<Tensor>& pair_folds,
    const std::optional<Tensor>& real, const std::optional<Tensor>& real_pairs,
    const std::optional<Tensor>& /*entity_keys*/, const std::optional<Tensor>& /*references*/,
    const std::optional<Tensor>& /*relation_keys*/, const std::optional<Tensor>& /*references*/,
    int64_t activation, int64_t loss, double lambda1, double lambda2, double lambda3) {
  return dispatch_float(relation, "relation", [&](auto zero) {
    using T = decltype(zero);
    const ScalarType dtype = relation.scalar_type();
    double squares = 0;
    const Tensor entity = gathered<T>(table, dtype, rows, &squares);
    EkpnetArgs<T> args = {};
    args.attention = checked_attention<T>(
        {entity, relation, W_e, b_e, heads, relations, tails, counts, group_indptr, items, false});
    args.triples = checked_triples<T>(entity, relation, triple_heads, triple_relations,
                                      triple_tails, triple_labels);
    const int64_t B = args.attention.num_pairs;
    const int64_t R = args.attention.num_relations, H = args.attention.hops;
    const int64_t D = args.attention.width, C = args.attention.channels;
    const int64_t K = (H + 1) * D, triples = args.triples.num_triples;
    STD_TORCH_CHECK(B > 0, "items is empty, expected at least one pair");
    check_tensor(labels, "labels", dtype, {B});
    check_labels(data<T>(labels), B, "labels");
    check_rate("lambda1", lambda1);
    check_rate("lambda2", lambda2);
    check_rate("lambda3", lambda3);
    if (offset) check_tensor(*offset, "offset", dtype, {B});
    STD_TORCH_CHECK(slot_folds.has_value() == pair_folds.has_value(),
                    "slot_folds and pair_folds must be given together");
    if (slot_folds) args.folds = checked_folds(*slot_folds, *pair_folds, args.attention);
    args.deep = weights.has_value();
    STD_TORCH_CHECK(args.deep == biases.has_value() && args.deep == w_out.has_value() &&
                        args.deep == b_out.has_value(),
                    "weights, biases, w_out and b_out must be given together");
    if (args.deep) {
      const Tensor z = empty({0, K}, dtype);
      args.layers = deep_score_args<T>(z, *weights, *biases, *w_out, *b_out, activation);
    }
    STD_TORCH_CHECK(loss >= 0 && loss <= 2, "loss is ", loss,
                    ", expected 0 (cross-entropy), 1 (bpr) or 2 (softmax)");
    args.loss = static_cast<PairLoss>(loss);
    STD_TORCH_CHECK(real.has_value() == real_pairs.has_value(),
                    "real and real_pairs must be given together");
    if (real) {
      check_tensor(*real, "real", dtype, {B});
      check_tensor(*real_pairs, "real_pairs", dtype, {});
      args.real = data<T>(*real);
    }
    const double size = real ? static_cast<double>(*data<T>(*real_pairs)) : B;
    args.labels = data<T>(labels);
    args.offset = offset ? data<T>(*offset) : nullptr;
    args.pair_weight = static_cast<T>(1 / size);
    args.triple_weight = static_cast<T>(lambda1 / 2 / size);

    const int64_t layers = args.deep ? args.layers.hidden : 0, width = args.deep ? K : 0;
    const int64_t shared = R * C * D + D * D + D + layers * (K * K + K) + width + args.deep;
    const int64_t chunks =
        chunks_of_groups(args.attention, shared * static_cast<int64_t>(sizeof(T)));
    Tensor ditem = empty({B, D}, dtype);
    Tensor dtriple = empty({triples, D}, dtype);
    Tensor drelation_chunks = empty({chunks, R, C, D}, dtype);
    Tensor dW_e_chunks = empty({chunks, D, D}, dtype), db_e_chunks = empty({chunks, D}, dtype);
    Tensor dweights_chunks = empty({chunks, layers, K, K}, dtype);
    Tensor dbiases_chunks = empty({chunks, layers, K}, dtype);
    Tensor dw_out_chunks = empty({chunks, width}, dtype);
    Tensor db_out_chunks = empty({chunks, args.deep ? 1 : 0}, dtype);
    EkpnetSums<T> sums = {};
    sums.attention.ditem = mutable_data<T>(ditem);
    sums.attention.num_chunks = chunks;
    sums.attention.drelation_chunks = zeroed<T>(drelation_chunks);
    sums.attention.dW_e_chunks = mutable_data<T>(dW_e_chunks);
    sums.attention.db_e_chunks = mutable_data<T>(db_e_chunks);
    place_parts(args.attention, sums.attention);
    sums.layers.num_chunks = chunks;
    sums.layers.dweights_chunks = mutable_data<T>(dweights_chunks);
    sums.layers.dbiases_chunks = mutable_data<T>(dbiases_chunks);
    sums.layers.dw_out_chunks = mutable_data<T>(dw_out_chunks);
    sums.layers.db_out_chunks = mutable_data<T>(db_out_chunks);
    sums.triple_chunks = lambda1 > 0 ? (triples + kTripleGrain - 1) / kTripleGrain : 0;
    sums.dtriple = mutable_data<T>(dtriple);
    std::vector<uint8_t> touched(chunks * R);
    std::vector<double> of_pairs(chunks), kg(sums.triple_chunks);
    sums.touched = touched.data();
    sums.pairs = of_pairs.data();
    sums.kg = kg.data();
    if (sums.triple_chunks == 0) args.triples.num_triples = 0;

    const auto& kernels = ekpnet_kernels<T>();
    const int64_t workspace = kernels.workspace_size(args);
    const int64_t all = chunks + sums.triple_chunks, threads = num_threads();
    Chunks left(all, threads);
    auto work = [&](int64_t slot) {
      kernels.chunks(args, sums, left, slot, thread_buffer<T>(workspace));
    };
    run_team(all, threads, Work(work));

    const int64_t n = args.attention.num_rows;
    Tensor dentity = empty({n, C, D}, dtype), drelation = empty({R, C, D}, dtype);
    Tensor dW_e = empty({D, D}, dtype), db_e = empty({D}, dtype);
    Tensor dweights = empty({layers, K, K}, dtype), dbiases = empty({layers, K}, dtype);
    Tensor dw_out = empty({width}, dtype), db_out = empty({args.deep ? 1 : 0}, dtype);
    T *drows = mutable_data<T>(dentity), *drelations = mutable_data<T>(drelation);
    for_each_chunk(sums.attention.references->num_ranges(),
                   [&](int64_t range) { kernels.scatter(args, sums, range, drows); });
    sum_chunks(sums.attention.drelation_chunks, chunks, R * C * D, drelations);
    sum_chunks(sums.attention.dW_e_chunks, chunks, D * D, mutable_data<T>(dW_e));
    sum_chunks(sums.attention.db_e_chunks, chunks, D, mutable_data<T>(db_e));
    sum_chunks(sums.layers.dweights_chunks, chunks, layers * K * K, mutable_data<T>(dweights));
    sum_chunks(sums.layers.dbiases_chunks, chunks, layers * K, mutable_data<T>(dbiases));
    sum_chunks(sums.layers.dw_out_chunks, chunks, width, mutable_data<T>(dw_out));
    sum_chunks(sums.layers.db_out_chunks, chunks, args.deep ? 1 : 0, mutable_data<T>(db_out));

    for (int64_t k = 0; k < args.triples.num_triples; ++k) {
      T* dr = drelations + args.triples.relations[k] * C * D;
      for (int64_t d = 0; d < D; ++d) dr[d] += sums.dtriple[k * D + d];
    }
    for (int64_t c = 1; c < chunks; ++c)
      for (int64_t r = 0; r < R; ++r) touched[r] |= touched[c * R + r];
    for (int64_t k = 0; k < triples; ++k) touched[data<int32_t>(triple_relations)[k]] = 1;

    Tensor terms = empty({4}, ScalarType::Double);
    double* term = mutable_data<double>(terms);
    std::fill(term, term + 4, 0.0);
    for (double part : of_pairs) term[0] += part / size;
    for (double part : kg) term[1] += part * lambda1 / 2 / size;
    term[2] = add_decay(data<T>(W_e), D * D, lambda2 / size, mutable_data<T>(dW_e)) +
              add_decay(data<T>(b_e), D, lambda2 / size, mutable_data<T>(db_e));
    if (args.deep)
      term[2] +=
          add_decay(args.layers.weights, layers * K * K, lambda2 / size,
                    mutable_data<T>(dweights)) +
          add_decay(args.layers.biases, layers * K, lambda2 / size, mutable_data<T>(dbiases)) +
          add_decay(args.layers.w_out, K, lambda2 / size, mutable_data<T>(dw_out)) +
          add_decay(args.layers.b_out, 1, lambda2 / size, mutable_data<T>(db_out));
    term[3] = lambda3 / size / 2 * squares;
    for (int64_t r = 0; r < R; ++r)
      if (touched[r])
        term[3] += add_decay(args.attention.relation + r * C * D, C * D, lambda3 / size,
                             drelations + r * C * D);
    return Gradients(terms, dentity, drelation, dW_e, db_e, dweights, dbiases, dw_out, db_out);
  });
}

}  // namespace
}  // namespace ekpnet

STABLE_TORCH_LIBRARY_IMPL(ekpnet, CPU, m) {
  m.impl("ekpnet_gradients", TORCH_BOX(&ekpnet::ekpnet_gradients_cpu));
}
