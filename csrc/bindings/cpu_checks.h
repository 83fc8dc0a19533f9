// Arguments of the model's ops on the CPU, whose ids are within their tables: a kernel that reads
// outside of one would end the process.
#pragma once

#include <algorithm>
#include <utility>

#include "bindings/checks.h"
#include "bindings/ripple_attention.h"
#include "bindings/triple_loss.h"

namespace ekpnet {

template <class T>
AttentionArgs<T> checked_attention(const AttentionTensors& t) {
  const auto args = attention_args<T>(t, t.entity.scalar_type());
  const int64_t G = args.num_groups, H = args.hops, M = args.slots, B = args.num_pairs;
  const int64_t n = args.num_rows, R = args.num_relations;
  check_indptr(args.group_indptr, G, B, "group_indptr");
  check_ids(args.items, B, n, "items", "rows of entity");
  check_ids(args.counts, G * H, M + 1, "counts", "slots");
  // Masked slots hold 0, which is a row even where a table has none, so that case is told by
  // counts.
  for (const auto& [size, name] : {std::pair(n, "entity"), std::pair(R, "relation")})
    if (size == 0)
      for (int64_t i = 0; i < G * H; ++i)
        STD_TORCH_CHECK(args.counts[i] == 0, "counts holds ", args.counts[i], " at position ", i,
                        ", expected 0 because ", name, " has no rows");
  check_ids(args.heads, G * H * M, std::max<int64_t>(n, 1), "heads", "rows of entity");
  check_ids(args.tails, G * H * M, std::max<int64_t>(n, 1), "tails", "rows of entity");
  check_ids(args.relations, G * H * M, std::max<int64_t>(R, 1), "relations", "rows of relation");
  return args;
}

template <class T>
TripleLossArgs<T> checked_triples(const Tensor& entity, const Tensor& relation, const Tensor& heads,
                                  const Tensor& relations, const Tensor& tails,
                                  const Tensor& labels) {
  const auto args = triple_loss_args<T>(entity, relation, heads, relations, tails, labels);
  check_ids(args.heads, args.num_triples, args.num_rows, "heads", "rows of entity");
  check_ids(args.relations, args.num_triples, args.num_relations, "relations", "rows of relation");
  check_ids(args.tails, args.num_triples, args.num_rows, "tails", "rows of entity");
  check_labels(args.labels, args.num_triples, "labels");
  return args;
}

}  // namespace ekpnet
