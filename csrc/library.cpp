// Every op of the library `ekpnet`. What is not on this page is not an op.
//
// U users, I items, E entities, R relations, T triples; G user groups and B pairs of a batch;
// H hops, M slots of a ripple set, D width; C channels of a row: 2 = (v, gamma), 1 = v alone;
// n rows that a batch touches; K triples of a loss term; F folds, bit k of a slot's `slot_folds`
// for fold k.
#include <torch/csrc/stable/library.h>

// The tests' emulated GPU has the same ops in a library of another name.
#ifndef EKPNET_LIBRARY
#define EKPNET_LIBRARY ekpnet
#endif

// By hand: one group of arguments a line.
// clang-format off
STABLE_TORCH_LIBRARY(EKPNET_LIBRARY, m) {
  // Graph and ripple sets
  m.def(
      "build_csr("
      "Tensor heads, Tensor relations, Tensor tails, "
      "int num_entities, int num_relations"
      ") -> (Tensor indptr, Tensor relations, Tensor tails)");
  m.def(
      "sample_ripple_sets("
      "Tensor indptr, Tensor relations, Tensor tails, "
      "Tensor seed_indptr, Tensor seeds, Tensor? users, "
      "int hops, int slots, int seed, int epoch, bool repeat"
      ") -> (Tensor heads, Tensor relations, Tensor tails, Tensor counts)");
  m.def(
      "sample_fold_ripple_sets("
      "Tensor indptr, Tensor relations, Tensor tails, "
      "Tensor seed_indptr, Tensor seeds, Tensor seed_folds, Tensor? users, "
      "int folds, int hops, int slots, int seed, int epoch"
      ") -> (Tensor heads, Tensor relations, Tensor tails, Tensor counts, Tensor slot_folds)");
  m.def(
      "sample_neighbors("
      "Tensor indptr, Tensor relations, Tensor tails, "
      "Tensor nodes, "
      "int count, int seed, int epoch, bool repeat"
      ") -> (Tensor relations, Tensor tails, Tensor counts)");
  m.def(
      "sample_triples("
      "Tensor indptr, Tensor relations, Tensor tails, "
      "int count, int first, int seed, int step"
      ") -> (Tensor heads, Tensor relations, Tensor tails)");

  // Mini-batches of user groups
  m.def(
      "group_pairs("
      "Tensor user_indptr, "
      "int group_size, int seed, int epoch"
      ") -> (Tensor order, Tensor group_indptr, Tensor group_users)");
  m.def(
      "localize_batch("
      "Tensor heads, Tensor relations, Tensor tails, Tensor counts, "
      "Tensor group_users, "
      "Tensor items, Tensor extra"
      ") -> ("
      "Tensor rows, "
      "Tensor heads, Tensor relations, Tensor tails, Tensor counts, "
      "Tensor items, Tensor extra)");
  m.def(
      "localize_fold_batch("
      "Tensor heads, Tensor relations, Tensor tails, Tensor counts, Tensor slot_folds, "
      "Tensor group_users, Tensor group_indptr, "
      "Tensor items, Tensor pair_folds, Tensor extra"
      ") -> ("
      "Tensor rows, "
      "Tensor heads, Tensor relations, Tensor tails, Tensor counts, Tensor slot_folds, "
      "Tensor items, Tensor extra)");

  // The fused propagation (eq. 8-16) and its gradient; replace: o^p = rho^p W_e + b_e in eq. 12
  m.def(
      "ripple_attention("
      "Tensor entity, Tensor relation, Tensor W_e, Tensor b_e, "
      "Tensor heads, Tensor relations, Tensor tails, Tensor counts, "
      "Tensor group_indptr, Tensor items, "
      "bool replace=False"
      ") -> (Tensor z, Tensor match)");
  m.def(
      "ripple_attention_backward("
      "Tensor dz, Tensor dmatch, "
      "Tensor entity, Tensor relation, Tensor W_e, Tensor b_e, "
      "Tensor heads, Tensor relations, Tensor tails, Tensor counts, "
      "Tensor group_indptr, Tensor items, "
      "bool replace=False"
      ") -> (Tensor dentity, Tensor drelation, Tensor dW_e, Tensor db_e)");
  m.def(
      "ripple_attention_weights("
      "Tensor entity, Tensor relation, Tensor W_e, Tensor b_e, "
      "Tensor heads, Tensor relations, Tensor tails, Tensor counts, "
      "Tensor group_indptr, Tensor items, "
      "bool replace=False"
      ") -> Tensor alpha");

  // The prediction layers (eq. 17, 18) and their gradient; activation 0 tanh, 1 relu, 2 sigmoid.
  // `keep` asks for what the gradient needs of the forward pass; a GPU computes that again.
  m.def(
      "deep_score("
      "Tensor z, "
      "Tensor weights, Tensor biases, Tensor w_out, Tensor b_out, "
      "int activation, bool keep"
      ") -> (Tensor logit, Tensor hidden)");
  m.def(
      "deep_score_backward("
      "Tensor dlogit, Tensor hidden, Tensor z, "
      "Tensor weights, Tensor biases, Tensor w_out, Tensor b_out, "
      "int activation"
      ") -> (Tensor dz, Tensor dweights, Tensor dbiases, Tensor dw_out, Tensor db_out)");

  // The translation loss (eq. 22) and its gradient
  m.def(
      "triple_loss("
      "Tensor entity, Tensor relation, "
      "Tensor heads, Tensor relations, Tensor tails, Tensor labels"
      ") -> Tensor");
  m.def(
      "triple_loss_backward("
      "Tensor grad, "
      "Tensor entity, Tensor relation, "
      "Tensor heads, Tensor relations, Tensor tails, Tensor labels"
      ") -> (Tensor dentity, Tensor drelation)");

  // The loss of lists of at most 16 pairs each, lists [L + 1], summed over their positives: 1 BPR, 2
  // sampled softmax, of a positive against the negatives of its list; dlogits is the gradient of the
  // sum divided by B.
  m.def(
      "list_loss("
      "Tensor logits, Tensor labels, Tensor lists, int loss"
      ") -> (Tensor loss, Tensor dlogits)");

  // The whole loss of EKPNet over a mini-batch (eq. 24) and its gradients, in one pass. Without the
  // layers' parameters the prediction is that of eq. 15. The terms are pairs, kg, weights, rows;
  // the gradient of the touched rows lacks their decay, which row_adam_ adds. loss 0 cross-entropy of
  // each pair; 1 BPR, 2 sampled softmax of a user's positives against the negatives of their list.
  // A negative row is none. Pairs count by `real`, the divisor is `real_pairs`. Sorted references to
  // rows, for a GPU, are [heads | tails | items | triple_heads | triple_tails] and [relations |
  // triple_relations]; the key of a masked slot is n or R.
  m.def(
      "ekpnet_gradients("
      "Tensor table, Tensor relation, Tensor W_e, Tensor b_e, "
      "Tensor? weights, Tensor? biases, Tensor? w_out, Tensor? b_out, "
      "Tensor rows, "
      "Tensor heads, Tensor relations, Tensor tails, Tensor counts, "
      "Tensor group_indptr, Tensor items, Tensor labels, Tensor? offset, "
      "Tensor triple_heads, Tensor triple_relations, Tensor triple_tails, Tensor triple_labels, "
      "Tensor? slot_folds, Tensor? pair_folds, "
      "Tensor? real, Tensor? real_pairs, "
      "Tensor? entity_keys, Tensor? entity_references, "
      "Tensor? relation_keys, Tensor? relation_references, "
      "int activation, int loss, float lambda1, float lambda2, float lambda3"
      ") -> ("
      "Tensor terms, "
      "Tensor dentity, Tensor drelation, Tensor dW_e, Tensor db_e, "
      "Tensor dweights, Tensor dbiases, Tensor dw_out, Tensor db_out)");

  // The wide part of EKPNet+. Products of sparse matrices: the `count` largest entries of each row of
  // one by another, but for those that `full` [I] products meet, and one by a dense matrix. Affinities of items to histories: what a source (by
  // its indptr rows of neighbours, else by the affinity's columns vectors, else all items by all) has
  // of two items, summed over a history; affinities [A, 3] (source, first column, end), means [A, I].
  // Responses [N, 2] (affinity, scale: 0 none, 1 root of the length, 2 by the mean) with constants
  // [N, 2] (added, smoothing); their features are logarithms, their curves knots [N, P + 1] and
  // slopes [N, P]. Of source `of_users` (-1 for none) the rows are those of users with means [U]: those
  // of the users near a history are summed, each times its value. Without pairs the logits are those
  // of all items, [G, I].
  m.def(
      "strongest_products("
      "Tensor left_indptr, Tensor left_columns, Tensor left_values, "
      "Tensor right_indptr, Tensor right_columns, Tensor right_values, "
      "int num_columns, int count, Tensor? full"
      ") -> (Tensor indptr, Tensor columns, Tensor values)");
  m.def(
      "sparse_product("
      "Tensor indptr, Tensor columns, Tensor values, "
      "Tensor x"
      ") -> Tensor");
  m.def(
      "local_ridge("
      "Tensor gram_indptr, Tensor gram_items, Tensor gram_values, "
      "Tensor indptr, Tensor neighbours, "
      "float weight"
      ") -> Tensor");
  m.def(
      "wide_features("
      "Tensor history_indptr, Tensor history_items, "
      "Tensor[] indptrs, Tensor[] neighbours, Tensor[] values, Tensor[] transposed, "
      "Tensor affinities, Tensor means, Tensor responses, Tensor constants, "
      "int of_users, Tensor user_means, "
      "Tensor? near_indptr, Tensor? near_users, Tensor? near_values, "
      "Tensor group_indptr, Tensor items"
      ") -> Tensor");
  m.def(
      "wide_logits("
      "Tensor history_indptr, Tensor history_items, "
      "Tensor[] indptrs, Tensor[] neighbours, Tensor[] values, Tensor[] transposed, "
      "Tensor affinities, Tensor means, Tensor responses, Tensor constants, "
      "int of_users, Tensor user_means, "
      "Tensor? near_indptr, Tensor? near_users, Tensor? near_values, "
      "Tensor knots, Tensor slopes, Tensor item_terms, "
      "Tensor? group_indptr, Tensor? items"
      ") -> Tensor");

  // Rows that processes share. Row i of `count` is at position i factor mod count; the positions are
  // cut into shards, and each process has as many of them.
  // place_rows: ids are those of some parts of a batch, of `lengths`; rows come by process, then by
  // part, `order` says which id each is, `places` where each id is.
  // take_rows_: `out` becomes the rows, one after the other.
  // add_rows_: total[positions[i]] += rows[picked[i]] in this order.
  // square_norms: of the rows from each start on, [S] float64.
  m.def(
      "place_rows("
      "Tensor ids, Tensor lengths, "
      "int count, int factor, int shards, int processes"
      ") -> (Tensor rows, Tensor order, Tensor places, Tensor counts)");
  m.def(
      "take_rows_("
      "Tensor(a!) out, "
      "Tensor table, Tensor rows"
      ") -> ()");
  m.def(
      "add_rows_("
      "Tensor(a!) total, "
      "Tensor positions, Tensor rows, Tensor? picked"
      ") -> ()");
  m.def(
      "square_norms("
      "Tensor table, Tensor rows, Tensor starts"
      ") -> Tensor");

  // Threads of the calling thread's ops from now on; 0 = as many as torch has. Returns what it was.
  m.def("team_threads(int threads) -> int");

  // A thread that works beside the ops comes or goes; meanwhile it has the place of one of theirs.
  // Returns how many there are now.
  m.def("team_beside(bool comes) -> int");

  // Optimizer and ranking. A bfloat16 table has float32 moments and gradients and is rounded at random
  // by `seed`; other tables do not look at it.
  m.def(
      "row_adam_("
      "Tensor(a!) table, Tensor(b!) m, Tensor(c!) v, "
      "Tensor rows, Tensor grad, "
      "Tensor step, Tensor l2, "
      "float lr, float beta1, float beta2, float eps, int seed"
      ") -> ()");
  m.def(
      "top_items("
      "Tensor scores, "
      "Tensor seen_indptr, Tensor seen, "
      "int k"
      ") -> Tensor");
}
// clang-format on
