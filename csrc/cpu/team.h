// Threads that share the work of a region with the thread that asks for it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <type_traits>

namespace ekpnet {

// Reference to a callable that takes the slot of a thread in a region, and must outlive it.
class Work {
 public:
  template <class F>
    requires(!std::is_same_v<std::remove_cv_t<F>, Work>)  // which is copied
  explicit Work(F& f)
      : call_([](void* f, int64_t slot) { (*static_cast<F*>(f))(slot); }), f_(std::addressof(f)) {}
  void operator()(int64_t slot) const { call_(f_, slot); }

 private:
  void (*call_)(void*, int64_t);
  void* f_;
};

// Calls `work` on this thread and, as far as they come in time, once on each of up to
// min(pieces, threads) - 1 helpers. `work` takes pieces of the region until none are left, so it
// may be called any number of times; the region ends when all calls that have begun are done. A
// helper that has not begun by then is not waited for: beside other programs it may not run for
// milliseconds.
//
// Slots are 0 for this thread and 1 .. min(pieces, threads) - 1 for helpers, which keep theirs from
// region to region where they can. Several threads may ask at a time. Within a region, `work` is
// called on the asking thread alone. The first exception is thrown here, after the region's end. A
// child that was forked has a team of its own.
//
// Helpers that other programs keep from running hold up whom they help: after a region that had to
// wait for one of them longer than it worked itself, helpers come again some milliseconds later.
//
// `pieces` is how many threads the region has work for, `threads` how many the program may use.
void run_team(int64_t pieces, int64_t threads, Work work);

// A thread that works on something else meanwhile, such as the next batch, comes (1) or goes (-1).
// It takes a helper's place: no more threads then run than the regions ask for, and none of them
// waits for one that the system runs in turn with another. Returns how many there are now.
int64_t work_beside(int64_t change);

// Whether such threads have taken the place of a slot of a region.
bool place_is_taken(int64_t slot, int64_t threads);

// The chunks 0 .. n - 1 of a region, a share for each slot. A thread takes those of its own share
// first, then what others have left: what one thread wrote to memory in a region is then mostly
// read by the same one in the next, and nobody waits for a share whose thread does not come.
class Chunks {
 public:
  Chunks(int64_t n, int64_t threads)
      : threads_(threads), shares_(std::clamp<int64_t>(std::min(n, threads), 1, kMaxShares)) {
    for (int64_t i = 0; i < shares_; ++i) {
      share_[i].next.store(n * i / shares_, std::memory_order_relaxed);
      share_[i].end = n * (i + 1) / shares_;
    }
  }

  // The next chunk for the thread of a slot; -1 when all are taken, or its place in the team is.
  int64_t take(int64_t slot) {
    if (place_is_taken(slot, threads_)) return -1;
    for (int64_t i = 0; i < shares_; ++i) {
      Share& share = share_[(slot + i) % shares_];
      if (share.next.load(std::memory_order_relaxed) >= share.end) continue;
      const int64_t chunk = share.next.fetch_add(1, std::memory_order_relaxed);
      if (chunk < share.end) return chunk;
    }
    return -1;
  }

 private:
  static constexpr int64_t kMaxShares = 16;
  struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t end;
  };
  const int64_t threads_, shares_;
  Share share_[kMaxShares];
};

// Calls f(chunk) for chunks 0 .. n - 1, each once, in any order, on up to so many threads. When
// some throw, the exception of the lowest is thrown here, after the others are done.
template <class F>
void run_chunks(int64_t n, int64_t threads, F f) {
  Chunks chunks(n, threads);
  std::mutex mutex;
  int64_t failed = n;
  std::exception_ptr error;
  auto work = [&](int64_t slot) {
    for (int64_t chunk; (chunk = chunks.take(slot)) >= 0;) {
      try {
        f(chunk);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (chunk < failed) {
          failed = chunk;
          error = std::current_exception();
        }
      }
    }
  };
  run_team(n, threads, Work(work));
  if (error) std::rethrow_exception(error);
}

}  // namespace ekpnet
