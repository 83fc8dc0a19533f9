// Threads that share the work of a region with the thread that asks for it.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <type_traits>

namespace ekpnet {

// Reference to a callable without arguments, which must outlive it.
class Work {
 public:
  template <class F>
    requires(!std::is_same_v<std::remove_cv_t<F>, Work>)  // which is copied
  explicit Work(F& f) : call_([](void* f) { (*static_cast<F*>(f))(); }), f_(std::addressof(f)) {}
  void operator()() const { call_(f_); }

 private:
  void (*call_)(void*);
  void* f_;
};

// Calls `work` on this thread and, as far as they come in time, once on each of up to threads - 1
// helpers. `work` takes pieces of the region from a counter until none are left, so it may be
// called any number of times; the region ends when all calls that have begun are done. A helper
// that has not begun by then is not waited for: beside other programs it may not run for
// milliseconds.
//
// Several threads may ask at a time. Within a region, `work` is called on the asking thread alone.
// The first exception is thrown here, after the region's end. A child that was forked has a team of
// its own.
void run_team(int64_t threads, Work work);

// Calls f(chunk) for chunks 0 .. n - 1, each once, in any order, on up to so many threads. When one
// throws, those that have not begun are left out, and the exception of the lowest is thrown here.
template <class F>
void run_chunks(int64_t n, int64_t threads, F f) {
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  int64_t failed = n;
  std::exception_ptr error;
  auto work = [&] {
    for (int64_t chunk; (chunk = next.fetch_add(1, std::memory_order_relaxed)) < n;) {
      try {
        f(chunk);
      } catch (...) {
        next.store(n, std::memory_order_relaxed);
        const std::lock_guard<std::mutex> lock(mutex);
        if (chunk < failed) {
          failed = chunk;
          error = std::current_exception();
        }
      }
    }
  };
  run_team(n < threads ? n : threads, Work(work));
  if (error) std::rethrow_exception(error);
}

}  // namespace ekpnet
