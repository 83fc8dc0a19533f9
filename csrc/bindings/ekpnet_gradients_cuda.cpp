// CUDA binding of ekpnet_gradients.
#include <optional>
#include <tuple>

#include "bindings/cuda_sorting.h"
#include "bindings/deep_score_cuda.h"
#include "bindings/ripple_attention_cuda.h"
#include "bindings/triple_loss.h"
#include "cuda/ekpnet_gradients.h"
#include "cuda/list_loss.h"

namespace ekpnet {
namespace {

// References to rows in the order of the rows: given, or made here.
struct BatchReferences {
  Tensor entity_keys, entity_references, relation_keys, relation_references;
};

template <class S>
BatchReferences sorted_here(const AttentionArgs<S>& args, const TripleLossArgs<S>& triples,
                            const Tensor& beside, cudaStream_t stream) {
  const int64_t slots = args.num_groups * args.hops * args.slots;
  const int64_t entities = 2 * slots + args.num_pairs + 2 * triples.num_triples;
  const int64_t relations = slots + triples.num_triples;
  const auto empty_ids = [&](int64_t n) { return empty_beside(beside, {n}, ScalarType::Int); };
  const BatchReferences found = {empty_ids(entities), empty_ids(entities), empty_ids(relations),
                                 empty_ids(relations)};
  launch_batch_references(args, triples, mutable_data<int32_t>(found.entity_keys),
                          mutable_data<int32_t>(found.entity_references),
                          mutable_data<int32_t>(found.relation_keys),
                          mutable_data<int32_t>(found.relation_references), stream);
  check_launch();
  BatchReferences sorted = {empty_ids(entities), empty_ids(entities), empty_ids(relations),
                            empty_ids(relations)};
  sort_references(found.entity_keys, found.entity_references, args.num_rows, sorted.entity_keys,
                  sorted.entity_references, stream);
  sort_references(found.relation_keys, found.relation_references, args.num_relations,
                  sorted.relation_keys, sorted.relation_references, stream);
  return sorted;
}

template <class S>
SortedReferences<S> as_sorted(const Tensor& keys, const Tensor& references, const Tensor& parts) {
  return {keys.size(0), data<int32_t>(keys), data<int32_t>(references), mutable_data<S>(parts)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>
ekpnet_gradients_cuda(
    const Tensor& table, const Tensor& relation, const Tensor& W_e, const Tensor& b_e,
    const std::optional<Tensor>& weights, const std::optional<Tensor>& biases,
    const std::optional<Tensor>& w_out, const std::optional<Tensor>& b_out, const Tensor& rows,
    const Tensor& heads, const Tensor& relations, const Tensor& tails, const Tensor& counts,
    const Tensor& group_indptr, const Tensor& items, const Tensor& labels,
    const std::optional<Tensor>& offset, const Tensor& triple_heads, const Tensor& triple_relations,
    const Tensor& triple_tails, const Tensor& triple_labels,
    const std::optional<Tensor>& slot_folds, const std::optional<Tensor>& pair_folds,
    const std::optional<Tensor>& real, const std::optional<Tensor>& real_pairs,
    const std::optional<Tensor>& entity_keys, const std::optional<Tensor>& entity_references,
    const std::optional<Tensor>& relation_keys, const std::optional<Tensor>& relation_references,
    int64_t activation, int64_t loss, double lambda1, double lambda2, double lambda3) {
  STD_TORCH_CHECK(slot_folds.has_value() == pair_folds.has_value(),
                  "slot_folds and pair_folds must be given together");
  STD_TORCH_CHECK(loss >= 0 && loss <= 2, "loss is ", loss,
                  ", expected 0 (cross-entropy), 1 (bpr) or 2 (softmax)");
  const bool deep = weights.has_value(), sorted = entity_keys.has_value();
  STD_TORCH_CHECK(
      deep == biases.has_value() && deep == w_out.has_value() && deep == b_out.has_value(),
      "weights, biases, w_out and b_out must be given together");
  STD_TORCH_CHECK(real.has_value() == real_pairs.has_value(),
                  "real and real_pairs must be given together");
  STD_TORCH_CHECK(
      sorted == entity_references.has_value() && sorted == relation_keys.has_value() &&
          sorted == relation_references.has_value(),
      "entity_keys, entity_references, relation_keys and relation_references must be given"
      " together");
  check_same_device(table, "table",
                    {{&relation, "relation"},
                     {&rows, "rows"},
                     {&labels, "labels"},
                     {&triple_heads, "triple_heads"},
                     {&triple_relations, "triple_relations"},
                     {&triple_tails, "triple_tails"},
                     {&triple_labels, "triple_labels"}});
  for (const auto& [tensor, name] : {std::pair(&weights, "weights"),
                                     {&biases, "biases"},
                                     {&w_out, "w_out"},
                                     {&b_out, "b_out"},
                                     {&offset, "offset"},
                                     {&slot_folds, "slot_folds"},
                                     {&pair_folds, "pair_folds"},
                                     {&real, "real"},
                                     {&real_pairs, "real_pairs"},
                                     {&entity_keys, "entity_keys"},
                                     {&entity_references, "entity_references"},
                                     {&relation_keys, "relation_keys"},
                                     {&relation_references, "relation_references"}})
    if (*tensor) check_same_device(table, "table", {{&**tensor, name}});
  check_rate("lambda1", lambda1);
  check_rate("lambda2", lambda2);
  check_rate("lambda3", lambda3);
  return dispatch_float(relation, "relation", [&](auto zero) {
    using S = decltype(zero);
    const ScalarType dtype = relation.scalar_type();
    check_channels(table);
    check_table(table, dtype);
    check_tensor(rows, "rows", ScalarType::Int, {-1});
    const int64_t n = rows.size(0);
    Tensor entity = empty_beside(table, {n, table.size(1), table.size(2)}, dtype);
    const auto args = attention_on_device<S>(
        {entity, relation, W_e, b_e, heads, relations, tails, counts, group_indptr, items, false});
    auto triples = triple_loss_args<S>(entity, relation, triple_heads, triple_relations,
                                       triple_tails, triple_labels);
    const int64_t G = args.num_groups, B = args.num_pairs, H = args.hops, M = args.slots;
    const int64_t R = args.num_relations, C = args.channels, D = args.width, K = (H + 1) * D;
    STD_TORCH_CHECK(B > 0, "items is empty, expected at least one pair");
    STD_TORCH_CHECK(2 * G * H * M + B + 2 * triples.num_triples < INT32_MAX, "the batch has ",
                    2 * G * H * M + B + 2 * triples.num_triples,
                    " references to rows, expected below 2^31");
    check_tensor(labels, "labels", dtype, {B});
    if (offset) check_tensor(*offset, "offset", dtype, {B});
    SlotFoldsCuda folds;
    if (slot_folds) {
      check_tensor(*slot_folds, "slot_folds", ScalarType::Long, {G, H, M});
      check_tensor(*pair_folds, "pair_folds", ScalarType::Int, {B});
      folds = {data<int64_t>(*slot_folds), data<int32_t>(*pair_folds)};
    }
    if (real) check_tensor(*real, "real", dtype, {B});
    if (real) check_tensor(*real_pairs, "real_pairs", dtype, {});
    const int64_t entities = 2 * G * H * M + B + 2 * triples.num_triples;
    const int64_t named = G * H * M + triples.num_triples;
    if (sorted) {
      check_tensor(*entity_keys, "entity_keys", ScalarType::Int, {entities});
      check_tensor(*entity_references, "entity_references", ScalarType::Int, {entities});
      check_tensor(*relation_keys, "relation_keys", ScalarType::Int, {named});
      check_tensor(*relation_references, "relation_references", ScalarType::Int, {named});
    }
    const auto here = [&](std::initializer_list<int64_t> shape) {
      return empty_beside(table, shape, dtype);
    };
    const auto sums = [&](int64_t blocks) {
      return empty_beside(table, {blocks}, ScalarType::Double);
    };
    const PairLossArgs<S> pairs = {B, data<S>(labels), offset ? data<S>(*offset) : nullptr,
                                   real ? data<S>(*real) : nullptr,
                                   real ? data<S>(*real_pairs) : nullptr};
    Tensor dentity = here({n, C, D}), drelation = here({R, C, D});
    Tensor z = here({deep ? B : 0, K}), match = here({deep ? 0 : B});
    Tensor dz = here({deep ? B : 0, K}), dmatch = here({deep ? 0 : B});
    Tensor logit = here({deep && loss != 0 ? B : 0}), dlogit = here({deep && loss != 0 ? B : 0});
    const auto plan_back =
        plan_attention_backward(G, B, args.hops, args.slots, args.width, sizeof(S));
    const auto plan_there =
        plan_attention_forward(G, B, args.hops, args.slots, args.width, sizeof(S));
    const OnDevice device(table);
    check_plan(plan_back, table, device);
    check_plan(plan_there, table, device);

    Tensor row_squares = sums(gradient_blocks(n * C * D));
    const auto gather = [&](const auto* from) {
      using T = std::remove_cvref_t<decltype(*from)>;
      launch_gather_rows<T, S>(
          {n, C * D, table.size(0), from, data<int32_t>(rows), mutable_data<S>(entity),
           mutable_data<S>(dentity), R * C * D, mutable_data<S>(drelation)},
          mutable_data<double>(row_squares), device.stream);
    };
    if (table.scalar_type() == dtype)
      gather(data<S>(table));
    else if constexpr (std::is_same_v<S, float>)
      gather(data<Bf16>(table));
    launch_ripple_attention_forward(args, folds, plan_there, deep ? mutable_data<S>(z) : nullptr,
                                    deep ? nullptr : mutable_data<S>(match),
                                    static_cast<S*>(nullptr), device.stream);
    check_launch();

    DecayArgs<S> decay = {};
    const auto add_parameter = [&](int64_t parts, const Tensor& of_parts, const S* x, int64_t size,
                                   Tensor& out) {
      decay.parameters[decay.num_parameters++] = {parts, size, data<S>(of_parts), x,
                                                  mutable_data<S>(out)};
    };
    DeepScoreArgs<S> layers = {};
    DeepScorePlan plan = {};
    if (deep) {
      layers = deep_score_args<S>(z, *weights, *biases, *w_out, *b_out, activation);
      plan = plan_deep_score(B, K, layers.hidden, sizeof(S), true);
    }
    const int64_t hidden = layers.hidden, width = deep ? K : 0, blocks = plan.blocks;
    Tensor dweights = here({hidden, K, K}), dbiases = here({hidden, K});
    Tensor dw_out = here({width}), db_out = here({deep ? 1 : 0});
    Tensor dweights_blocks = here({blocks, hidden, K, K}),
           dbiases_blocks = here({blocks, hidden, K});
    Tensor dw_out_blocks = here({blocks, K}), db_out_blocks = here({blocks, 1});
    const bool lists = loss != 0;
    Tensor losses = sums(lists ? list_loss_blocks(G) : deep ? blocks : gradient_blocks(B));
    const auto list_loss = [&](const Tensor& logit, Tensor& dlogit) {
      launch_list_loss(pairs, static_cast<ListLoss>(loss), args.group_indptr, G, data<S>(logit),
                       mutable_data<S>(dlogit), mutable_data<double>(losses), device.stream);
    };
    if (deep) {
      const DeepWorkspace<S> padded(table, layers, plan, device.stream);
      DeepScoreGradsCuda<S> of_layers = {nullptr,
                                         mutable_data<S>(dz),
                                         mutable_data<S>(dweights_blocks),
                                         mutable_data<S>(dbiases_blocks),
                                         mutable_data<S>(dw_out_blocks),
                                         mutable_data<S>(db_out_blocks)};
      if (lists) {
        // A list's pairs are those of several blocks: all logits come first.
        const auto forward = plan_deep_score(B, K, layers.hidden, sizeof(S), false);
        const Tensor activations =
            empty_beside(table, {forward.blocks, forward.activation_values}, dtype);
        launch_deep_score_forward(layers, forward, padded.weights, mutable_data<S>(activations),
                                  mutable_data<S>(logit), device.stream);
        list_loss(logit, dlogit);
        of_layers.dlogit = data<S>(dlogit);
        launch_deep_score_backward(layers, plan, padded.weights,
                                   mutable_data<S>(padded.activations), of_layers, device.stream);
      } else {
        launch_deep_score_gradients(layers, plan, padded.weights,
                                    mutable_data<S>(padded.activations), of_layers, pairs,
                                    mutable_data<double>(losses), device.stream);
      }
      if (hidden > 0) {
        add_parameter(blocks, dweights_blocks, layers.weights, hidden * K * K, dweights);
        add_parameter(blocks, dbiases_blocks, layers.biases, hidden * K, dbiases);
      }
      add_parameter(blocks, dw_out_blocks, layers.w_out, K, dw_out);
      add_parameter(blocks, db_out_blocks, layers.b_out, 1, db_out);
    } else if (lists) {
      list_loss(match, dmatch);
    } else {
      launch_pair_loss(pairs, data<S>(match), mutable_data<S>(dmatch), mutable_data<double>(losses),
                       device.stream);
    }
    check_launch();

    const AttentionWorkspace<S> workspace(table, args, plan_back, deep ? data<S>(dz) : nullptr,
                                          deep ? nullptr : data<S>(dmatch));
    Tensor dW_e = here({D, D}), db_e = here({D});
    const AttentionGradsCuda<S>& grads = workspace.grads;
    launch_ripple_attention_backward(args, folds, plan_back, grads, device.stream);
    check_launch();
    add_parameter(plan_back.teams, workspace.dW_e_teams, args.W_e, D * D, dW_e);
    add_parameter(plan_back.teams, workspace.db_e_teams, args.b_e, D, db_e);

    const int64_t kg_blocks = lambda1 > 0 ? triple_loss_blocks(triples.num_triples, args.width) : 0;
    Tensor kg = sums(kg_blocks);
    if (kg_blocks > 0) launch_triple_loss_forward(triples, mutable_data<double>(kg), device.stream);
    const BatchReferences order = sorted ? BatchReferences{*entity_keys, *entity_references,
                                                           *relation_keys, *relation_references}
                                         : sorted_here(args, triples, table, device.stream);
    Tensor parts = here({2, segment_chunks(entities), C * D});
    Tensor relation_parts = here({2, segment_chunks(named), C * D});
    const BatchSumArgs<S> batch = {args, grads, triples, pairs.real_pairs,
                                   pairs.real_pairs != nullptr ? lambda1 / 2 : lambda1 / 2 / B};
    launch_batch_entity_sum(batch, as_sorted<S>(order.entity_keys, order.entity_references, parts),
                            mutable_data<S>(dentity), device.stream);
    launch_batch_relation_sum(
        batch, as_sorted<S>(order.relation_keys, order.relation_references, relation_parts),
        mutable_data<S>(drelation), device.stream);
    check_launch();

    decay.num_relations = R;
    decay.relation_size = C * D;
    decay.relation = args.relation;
    decay.drelation = mutable_data<S>(drelation);
    decay.num_references = named;
    decay.relation_keys = data<int32_t>(order.relation_keys);
    decay.size = pairs.real_pairs;
    decay.num_pairs = B;
    decay.lambda2 = lambda2;
    decay.lambda3 = lambda3;
    const int64_t of_parameters = parameter_blocks(decay), of_relations = relation_blocks(decay);
    Tensor squares = sums(of_parameters + of_relations);
    double* const square = mutable_data<double>(squares);
    launch_decay(decay, square, device.stream);
    Tensor terms = sums(4);
    launch_terms<S>(
        {data<double>(losses), data<double>(kg), square, square + of_parameters,
         data<double>(row_squares), losses.size(0), kg_blocks, of_parameters, of_relations,
         row_squares.size(0), pairs.real_pairs, B, lambda1, lambda2, lambda3},
        mutable_data<double>(terms), device.stream);
    check_launch();
    return std::tuple(terms, dentity, drelation, dW_e, db_e, dweights, dbiases, dw_out, db_out);
  });
}

}  // namespace
}  // namespace ekpnet

EKPNET_CUDA_OPS(m) { m.impl("ekpnet_gradients", TORCH_BOX(&ekpnet::ekpnet_gradients_cuda)); }
