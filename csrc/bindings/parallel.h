// Parallel ranges of the CPU bindings.
#pragma once

#include <algorithm>

#include "bindings/checks.h"
#include "cpu/team.h"

namespace ekpnet {

// Threads of this thread's ops where they are not torch's; see team_threads on the page of ops.
inline thread_local int64_t chosen_threads = 0;

// Threads that an op may use, the calling one included.
inline int64_t num_threads() {
  return chosen_threads > 0 ? chosen_threads : torch::stable::get_num_threads();
}

// Calls f(chunk) for chunks 0 .. n - 1. A thread takes the next one when it is done, so that one
// that other load holds up leaves its share to the rest.
template <class F>
void for_each_chunk(int64_t n, F f) {
  run_chunks(n, num_threads(), f);
}

// Calls f(begin, end) for pieces of 0 .. n - 1 that do not depend on the threads.
template <class F>
void for_each_piece(int64_t n, int64_t grain, F f) {
  for_each_chunk((n + grain - 1) / grain,
                 [&](int64_t piece) { f(piece * grain, std::min(n, (piece + 1) * grain)); });
}

}  // namespace ekpnet
