#include "cpu/team.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <cfenv>
#include <chrono>
#include <system_error>
#include <thread>

namespace ekpnet {
namespace {

using std::chrono::microseconds;
using std::chrono::steady_clock;

// How long a thread looks for work, or for the end of others' work, before it sleeps: about what it
// costs to wake it.
constexpr microseconds kSpin{30};
// How much longer a helper looks for work while it lets every other thread go first: from one op of
// a training step to the next.
constexpr microseconds kYield{100};

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until `done()`, for at most so long.
template <class F>
bool spin_until(F done) {
  const auto stop = steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (done()) return true;
      relax();
    }
  } while (steady_clock::now() < stop);
  return false;
}

template <class F>
bool yield_until(F done) {
  const auto stop = steady_clock::now() + kYield;
  do {
    if (done()) return true;
    std::this_thread::yield();
  } while (steady_clock::now() < stop);
  return false;
}

// Whether this thread is inside a region.
thread_local bool inside = false;

// On the stack of the thread that asks. Others touch it under the team's mutex, or while `active`
// counts them.
struct Region {
  Region(Work work, int64_t threads) : work(work), threads(threads) { std::fegetenv(&environment); }

  const Work work;
  const int64_t threads;
  std::fenv_t environment;  // rounding and denormals as the asking thread has them
  int64_t wanted = 0;       // helpers that may still join
  std::atomic<int64_t> active{0};
  std::exception_ptr error;
  Region* next = nullptr;
};

class Team {
 public:
  void run(int64_t threads, Work work) {
    Region region(work, threads);
    open(region);
    inside = true;
    try {
      work(0);
    } catch (...) {
      keep_error(region, std::current_exception());
    }
    inside = false;
    close(region);
    if (region.error) std::rethrow_exception(region.error);
  }

 private:
  void open(Region& region) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      hire(region.threads - 1);
      region.wanted = std::min(region.threads - 1, helpers_);
      region.next = open_;
      open_ = &region;
    }
    calls_.fetch_add(1);
    for (int64_t i = 1; i < region.threads; ++i) calls_.notify_one();
  }

  // No helper can join any more; waits for those inside.
  void close(Region& region) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      Region** link = &open_;
      while (*link != &region) link = &(*link)->next;
      *link = region.next;
    }
    const auto done = [&] { return region.active.load(std::memory_order_acquire) == 0; };
    if (spin_until(done)) return;
    for (;;) {
      const uint32_t seen = leaves_.load();
      if (done()) return;
      leaves_.wait(seen);
    }
  }

  // Starts threads until there are so many; with fewer, if the system gives no more.
  void hire(int64_t helpers) {
    if (helpers_ >= helpers) return;
    // Signals are for the program's own threads, but for those that a fault of a thread raises.
    sigset_t others, before;
    sigfillset(&others);
    for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&others, fault);
    pthread_sigmask(SIG_BLOCK, &others, &before);
    try {
      for (; helpers_ < helpers; ++helpers_)
        std::thread([this, slot = helpers_ + 1] { help(slot); }).detach();
    } catch (const std::system_error&) {
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  Region* join() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (Region* region = open_; region != nullptr; region = region->next)
      if (region->wanted > 0) {
        --region->wanted;
        region->active.fetch_add(1, std::memory_order_relaxed);
        return region;
      }
    return nullptr;
  }

  void keep_error(Region& region, std::exception_ptr error) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!region.error) region.error = error;
  }

  void help(int64_t slot) {
#if defined(__linux__)
    pthread_setname_np(pthread_self(), "ekpnet");
#endif
    inside = true;
    for (;;) {
      const uint32_t seen = calls_.load();
      if (Region* region = join()) {
        std::fesetenv(&region->environment);
        try {
          region->work(slot % region->threads);
        } catch (...) {
          keep_error(*region, std::current_exception());
        }
        region->active.fetch_sub(1, std::memory_order_release);
        // The region may be gone by now; the counter is the team's.
        leaves_.fetch_add(1);
        leaves_.notify_all();
        continue;
      }
      const auto called = [&] { return calls_.load() != seen; };
      if (!spin_until(called) && !yield_until(called)) calls_.wait(seen);
    }
  }

  std::mutex mutex_;  // guards the rest but for the counters
  Region* open_ = nullptr;
  int64_t helpers_ = 0;
  // Regions opened and calls that ended, modulo 2^32: what helpers and closing threads sleep on.
  std::atomic<uint32_t> calls_{0}, leaves_{0};
};

// Never destroyed, because its threads never end. A child has none of them, so it starts anew.
std::atomic<Team*> the_team{nullptr};

Team& team() {
  Team* found = the_team.load(std::memory_order_acquire);
  if (found != nullptr) return *found;
  static const int registered =
      pthread_atfork(nullptr, nullptr, [] { the_team.store(nullptr, std::memory_order_relaxed); });
  static_cast<void>(registered);
  Team* made = new Team;
  if (the_team.compare_exchange_strong(found, made)) return *made;
  delete made;
  return *found;
}

}  // namespace

void run_team(int64_t threads, Work work) {
  if (threads <= 1 || inside)
    work(0);
  else
    team().run(threads, work);
}

}  // namespace ekpnet
