// Binding of team_threads.
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

}  // namespace
}  // namespace ekpnet

STABLE_TORCH_LIBRARY_IMPL(ekpnet, CompositeExplicitAutograd, m) {
  m.impl("team_threads", TORCH_BOX(&ekpnet::team_threads));
}
