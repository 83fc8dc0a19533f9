// CPU bindings of the wide part's features and logits.
#include <optional>
#include <vector>

#include "bindings/checks.h"
#include "bindings/parallel.h"
#include "cpu/dispatch.h"

namespace ekpnet {
namespace {

using Tensors = std::vector<Tensor>;

// Users near each history, for the source that is of users.
struct NearUsers {
  const std::optional<Tensor>&indptr, &users, &values;

  void check(int64_t G, int64_t U) const {
    STD_TORCH_CHECK(indptr.has_value() && users.has_value() && values.has_value(),
                    "near_indptr, near_users and near_values: found none, expected them with a"
                    " source of users");
    check_tensor(*indptr, "near_indptr", ScalarType::Long, {G + 1});
    check_tensor(*users, "near_users", ScalarType::Int, {-1});
    const int64_t entries = users->size(0);
    check_tensor(*values, "near_values", ScalarType::Float, {entries});
    check_indptr(data<int64_t>(*indptr), G, entries, "near_indptr");
    check_ids(data<int32_t>(*users), entries, U, "near_users", "users");
  }
};

// The checked arguments, and what they point to.
struct WideInputs {
  std::vector<AffinitySource> sources;
  std::vector<Affinity> affinities;
  std::vector<Response> responses;
  WideArgs args{};

  WideInputs(const Tensor& history_indptr, const Tensor& history_items, const Tensors& indptrs,
             const Tensors& neighbours, const Tensors& values, const Tensors& transposed,
             const Tensor& of_affinities, const Tensor& means, const Tensor& of_responses,
             const Tensor& constants, int64_t of_users, const Tensor& user_means,
             const NearUsers& near) {
    check_tensor(means, "means", ScalarType::Float, {-1, -1});
    check_tensor(user_means, "user_means", ScalarType::Float, {-1});
    const int64_t A = means.size(0), I = means.size(1), U = user_means.size(0);
    check_tensor(history_indptr, "history_indptr", ScalarType::Long, {-1});
    check_tensor(history_items, "history_items", ScalarType::Int, {-1});
    STD_TORCH_CHECK(history_indptr.size(0) >= 1, "history_indptr is empty, expected a 0 at least");
    check_indptr(data<int64_t>(history_indptr), history_indptr.size(0) - 1, history_items.size(0),
                 "history_indptr");
    check_ids(data<int32_t>(history_items), history_items.size(0), I, "history_items", "items");
    STD_TORCH_CHECK(indptrs.size() == values.size() && neighbours.size() == values.size() &&
                        transposed.size() == values.size(),
                    "indptrs, neighbours, values and transposed have ", indptrs.size(), ", ",
                    neighbours.size(), ", ", values.size(), " and ", transposed.size(),
                    " tensors, expected as many");
    check_tensor(of_affinities, "affinities", ScalarType::Long, {A, 3});
    check_range("affinities", A, 0, kMaxAffinities);
    check_range("of_users", of_users, -1, static_cast<int64_t>(values.size()) - 1);
    take_affinities(data<int64_t>(of_affinities), A, I, data<float>(means), values.size());
    for (size_t s = 0; s < values.size(); ++s) {
      if (static_cast<int64_t>(s) == of_users) {
        take_rows(s, AffinitySource::kUsers, indptrs, neighbours, values, U);
        for (auto& affinity : affinities)
          if (affinity.source == of_users) affinity.mean = data<float>(user_means);
        near.check(history_indptr.size(0) - 1, U);
      } else {
        take_source(s, indptrs, neighbours, values, transposed, I);
      }
    }
    check_columns();
    const int64_t N = of_responses.size(0);
    check_tensor(of_responses, "responses", ScalarType::Long, {N, 2});
    check_tensor(constants, "constants", ScalarType::Float, {N, 2});
    for (int64_t r = 0; r < N; ++r) {
      const int64_t* row = data<int64_t>(of_responses) + 2 * r;
      check_range("affinity of a response", row[0], 0, A - 1);
      check_range("scale of a response", row[1], 0, 3);
      const bool is_signed = row[1] == Response::kSigned;
      const auto& affinity = affinities[row[0]];
      STD_TORCH_CHECK(!is_signed || affinity.first < affinity.end,
                      "responses holds scale 3 of affinity ", row[0], ", expected one of vectors");
      const float* constant = data<float>(constants) + 2 * r;
      STD_TORCH_CHECK((is_signed || constant[0] > 0) && constant[1] >= 0 &&
                          (row[1] < Response::kByMean || constant[1] > 0),
                      "constants holds ", constant[0], ", ", constant[1], " at row ", r,
                      ", expected them above 0");
      responses.push_back({static_cast<Response::Scale>(row[1]), row[0], constant[0], constant[1],
                           nullptr, nullptr});
    }
    args = {I,
            data<int64_t>(history_indptr),
            data<int32_t>(history_items),
            of_users < 0 ? nullptr : data<int64_t>(*near.indptr),
            of_users < 0 ? nullptr : data<int32_t>(*near.users),
            of_users < 0 ? nullptr : data<float>(*near.values),
            static_cast<int64_t>(sources.size()),
            sources.data(),
            A,
            affinities.data(),
            N,
            responses.data(),
            0,
            nullptr};
  }

  void set_curves(const Tensor& knots, const Tensor& slopes, const Tensor& item_terms) {
    const int64_t N = responses.size();
    check_tensor(slopes, "slopes", ScalarType::Float, {N, -1});
    const int64_t P = slopes.size(1);
    check_tensor(knots, "knots", ScalarType::Float, {N, P + 1});
    check_tensor(item_terms, "item_terms", ScalarType::Float, {args.num_items});
    for (int64_t r = 0; r < N; ++r) {
      responses[r].knots = data<float>(knots) + r * (P + 1);
      responses[r].slopes = data<float>(slopes) + r * P;
    }
    args.pieces = P;
    args.item_terms = data<float>(item_terms);
  }

 private:
  void take_affinities(const int64_t* rows, int64_t A, int64_t I, const float* means,
                       int64_t num_sources) {
    for (int64_t a = 0; a < A; ++a) {
      const int64_t* row = rows + 3 * a;
      check_range("source of an affinity", row[0], 0, num_sources - 1);
      STD_TORCH_CHECK(a == 0 || row[0] >= rows[3 * (a - 1)], "affinities falls from source ",
                      rows[3 * (a - 1)], " to ", row[0], ", expected rising sources");
      affinities.push_back({row[0], row[1], row[2], means + a * I});
    }
  }

  void take_source(size_t s, const Tensors& indptrs, const Tensors& neighbours,
                   const Tensors& values, const Tensors& transposed, int64_t I) {
    bool vectors = false;
    for (const auto& affinity : affinities)
      vectors |= affinity.source == static_cast<int64_t>(s) && affinity.first < affinity.end;
    if (indptrs[s].numel() == 0) {
      check_tensor(values[s], "values", ScalarType::Float, {I, vectors ? -1 : I});
      const int64_t width = values[s].size(1);
      if (vectors) check_tensor(transposed[s], "transposed", ScalarType::Float, {width, I});
      sources.push_back({vectors ? AffinitySource::kVectors : AffinitySource::kDense, nullptr,
                         nullptr, data<float>(values[s]), width,
                         vectors ? data<float>(transposed[s]) : nullptr});
      return;
    }
    take_rows(s, AffinitySource::kNeighbours, indptrs, neighbours, values, I);
  }

  void take_rows(size_t s, AffinitySource::Kind kind, const Tensors& indptrs,
                 const Tensors& neighbours, const Tensors& values, int64_t n) {
    check_tensor(indptrs[s], "indptrs", ScalarType::Long, {n + 1});
    check_tensor(neighbours[s], "neighbours", ScalarType::Int, {-1});
    const int64_t entries = neighbours[s].size(0);
    check_tensor(values[s], "values", ScalarType::Float, {entries});
    check_indptr(data<int64_t>(indptrs[s]), n, entries, "indptrs");
    // The neighbours themselves are checked where they are read: most calls read few of them.
    sources.push_back({kind, data<int64_t>(indptrs[s]), data<int32_t>(neighbours[s]),
                       data<float>(values[s]), 0, nullptr});
  }

  void check_columns() const {
    for (const auto& affinity : affinities) {
      const auto& source = sources[affinity.source];
      const int64_t width = source.kind == AffinitySource::kVectors ? source.width : 0;
      STD_TORCH_CHECK(
          affinity.first >= 0 && affinity.first <= affinity.end && affinity.end <= width,
          "affinities holds columns ", affinity.first, " to ", affinity.end,
          ", expected them within ", width);
    }
  }
};

WidePairs wide_pairs(const Tensor& group_indptr, const Tensor& items, int64_t G, int64_t I) {
  check_tensor(group_indptr, "group_indptr", ScalarType::Long, {G + 1});
  check_tensor(items, "items", ScalarType::Int, {-1});
  check_indptr(data<int64_t>(group_indptr), G, items.size(0), "group_indptr");
  check_ids(data<int32_t>(items), items.size(0), I, "items", "items");
  return {items.size(0), data<int64_t>(group_indptr), data<int32_t>(items)};
}

Tensor wide_features_cpu(const Tensor& history_indptr, const Tensor& history_items,
                         const Tensors& indptrs, const Tensors& neighbours, const Tensors& values,
                         const Tensors& transposed, const Tensor& affinities, const Tensor& means,
                         const Tensor& responses, const Tensor& constants, int64_t of_users,
                         const Tensor& user_means, const std::optional<Tensor>& near_indptr,
                         const std::optional<Tensor>& near_users,
                         const std::optional<Tensor>& near_values, const Tensor& group_indptr,
                         const Tensor& items) {
  const WideInputs inputs(history_indptr, history_items, indptrs, neighbours, values, transposed,
                          affinities, means, responses, constants, of_users, user_means,
                          {near_indptr, near_users, near_values});
  const int64_t G = history_indptr.size(0) - 1;
  const WidePairs pairs = wide_pairs(group_indptr, items, G, inputs.args.num_items);
  Tensor out = empty({inputs.args.num_responses, pairs.num_pairs}, ScalarType::Float);
  const auto& kernels = isa_kernels().wide_part;
  const int64_t workspace = kernels.workspace_size(inputs.args);
  for_each_piece(G, kPairGroups, [&](int64_t begin, int64_t end) {
    kernels.features(inputs.args, pairs, begin, end, mutable_data<float>(out),
                     thread_buffer<float>(workspace));
  });
  return out;
}

Tensor wide_logits_cpu(const Tensor& history_indptr, const Tensor& history_items,
                       const Tensors& indptrs, const Tensors& neighbours, const Tensors& values,
                       const Tensors& transposed, const Tensor& affinities, const Tensor& means,
                       const Tensor& responses, const Tensor& constants, int64_t of_users,
                       const Tensor& user_means, const std::optional<Tensor>& near_indptr,
                       const std::optional<Tensor>& near_users,
                       const std::optional<Tensor>& near_values, const Tensor& knots,
                       const Tensor& slopes, const Tensor& item_terms,
                       const std::optional<Tensor>& group_indptr,
                       const std::optional<Tensor>& items) {
  WideInputs inputs(history_indptr, history_items, indptrs, neighbours, values, transposed,
                    affinities, means, responses, constants, of_users, user_means,
                    {near_indptr, near_users, near_values});
  inputs.set_curves(knots, slopes, item_terms);
  const auto& args = inputs.args;
  const int64_t G = history_indptr.size(0) - 1;
  const auto& kernels = isa_kernels().wide_part;
  const int64_t workspace = kernels.workspace_size(args);
  STD_TORCH_CHECK(group_indptr.has_value() == items.has_value(),
                  "group_indptr and items: found one of them, expected both or neither");
  if (!items.has_value()) {
    Tensor out = empty({G, args.num_items}, ScalarType::Float);
    float* logits = mutable_data<float>(out);
    for_each_piece(G, kHistories, [&](int64_t begin, int64_t end) {
      kernels.catalogue_logits(args, begin, end, logits, thread_buffer<float>(workspace));
    });
    return out;
  }
  const WidePairs pairs = wide_pairs(*group_indptr, *items, G, args.num_items);
  Tensor out = empty({pairs.num_pairs}, ScalarType::Float);
  float* logits = mutable_data<float>(out);
  for_each_piece(G, kPairGroups, [&](int64_t begin, int64_t end) {
    kernels.pair_logits(args, pairs, begin, end, logits, thread_buffer<float>(workspace));
  });
  return out;
}

}  // namespace
}  // namespace ekpnet

STABLE_TORCH_LIBRARY_IMPL(ekpnet, CPU, m) {
  m.impl("wide_features", TORCH_BOX(&ekpnet::wide_features_cpu));
  m.impl("wide_logits", TORCH_BOX(&ekpnet::wide_logits_cpu));
}
