// Bindings of team_threads and team_beside.
#include <climits>
#include <utility>

#include "bindings/checks.h"
#include "bindings/parallel.h"

namespace ekpnet {
namespace {

int64_t team_threads(int64_t threads) {
  check_range("threads", threads, 0, INT_MAX);
  return std::exchange(chosen_threads, threads);
}

int64_t team_beside(bool comes) { return work_beside(comes ? 1 : -1); }

}  // namespace
}  // namespace ekpnet

STABLE_TORCH_LIBRARY_IMPL(ekpnet, CompositeExplicitAutograd, m) {
  m.impl("team_threads", TORCH_BOX(&ekpnet::team_threads));
  m.impl("team_beside", TORCH_BOX(&ekpnet::team_beside));
}
