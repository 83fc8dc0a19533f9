// How the propagation is laid over a GPU, for shapes in the arguments:
// attention_plan PASS GROUPS PAIRS HOPS SLOTS WIDTH VALUE_BYTES prints
// THREADS TILE_ROWS PAIRS TILES SHARED_BYTES ITEMS TEAMS.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cuda/ripple_attention.h"

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  const auto number = [&](int i) { return std::atoi(argv[i]); };
  const auto plan = std::strcmp(argv[1], "forward") == 0 ? ekpnet::plan_attention_forward
                                                         : ekpnet::plan_attention_backward;
  const ekpnet::AttentionPlan p =
      plan(number(2), number(3), number(4), number(5), number(6), number(7));
  std::printf("%d %d %d %d %lld %lld %lld\n", p.threads, p.tile_rows, p.pairs, p.tiles,
              static_cast<long long>(p.shared_bytes), static_cast<long long>(p.items),
              static_cast<long long>(p.teams));
  return 0;
}
