#include "cpu/team.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

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
// A helper that has waited so long for a processor inside of a region holds the region up.
constexpr microseconds kHeldUp{300};
// How long regions then have no helpers; doubled each time that the next ones are held up too.
constexpr microseconds kFirstPause{10'000}, kLongestPause{160'000};

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

// Threads of the program that work on something else.
std::atomic<int64_t> beside{0};

microseconds cpu_time() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::duration_cast<microseconds>(std::chrono::seconds(now.tv_sec) +
                                                  std::chrono::nanoseconds(now.tv_nsec));
}

// What this thread waits for a processor, or for memory, from now on.
class Waiting {
 public:
  microseconds so_far() const {
    const auto passed = std::chrono::duration_cast<microseconds>(steady_clock::now() - begin_);
    return passed - (cpu_time() - cpu_begin_);
  }

 private:
  const steady_clock::time_point begin_ = steady_clock::now();
  const microseconds cpu_begin_ = cpu_time();
};

// On the stack of the thread that asks. Others touch it under the team's mutex, or while `active`
// counts them.
struct Region {
  Region(int64_t pieces, int64_t threads, Work work)
      : work(work), threads(threads), slots(std::min(pieces, threads)) {
    std::fegetenv(&environment);
  }

  // Whether one helper more would leave threads that work on something else without a processor.
  bool is_full() const {
    return active.load(std::memory_order_relaxed) + 1 + beside.load(std::memory_order_relaxed) >=
           threads;
  }

  const Work work;
  const int64_t threads, slots;
  const steady_clock::time_point begin = steady_clock::now();
  std::fenv_t environment;  // rounding and denormals as the asking thread has them
  int64_t wanted = 0;       // helpers that may still join
  std::atomic<int64_t> active{0};
  bool had_helpers = false, held_up = false;
  std::exception_ptr error;
  Region* next = nullptr;
};

class Team {
 public:
  void run(int64_t pieces, int64_t threads, Work work) {
    Region region(pieces, threads, work);
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

  // A place is free again.
  void call() {
    calls_.fetch_add(1);
    calls_.notify_all();
  }

 private:
  void open(Region& region) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      hire(region.slots - 1);
      region.wanted = std::min(region.slots - 1, helpers_);
      region.next = open_;
      open_ = &region;
    }
    calls_.fetch_add(1);
    // Some that are called may have no place; they do not call others.
    const int64_t called = region.slots + beside.load(std::memory_order_relaxed);
    for (int64_t i = 1; i < called; ++i) calls_.notify_one();
  }

  // No helper can join any more; waits for those inside.
  void close(Region& region) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      Region** link = &open_;
      while (*link != nullptr && *link != &region) link = &(*link)->next;
      *link = region.next;
    }
    const auto done = [&] { return region.active.load(std::memory_order_acquire) == 0; };
    const auto ended = steady_clock::now();
    spin_until(done);
    while (!done()) {
      const uint32_t seen = leaves_.load();
      if (!done()) leaves_.wait(seen);
    }
    if (!region.had_helpers) return;
    // The end of a long region may wait for a helper, which has done its share of the rest.
    const auto waited = steady_clock::now() - ended;
    learn(!region.held_up || waited < kHeldUp || 2 * waited < ended - region.begin);
  }

  // From a region that was held up or not, whether to ask for help in the next ones.
  void learn(bool in_time) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (in_time && pause_ == microseconds::zero()) return;
    const auto now = steady_clock::now();
    if (!in_time) {
      pause_ = std::clamp(2 * pause_, kFirstPause, kLongestPause);
      alone_until_ = now + pause_;
    } else if (now > alone_until_ + pause_) {
      pause_ = microseconds::zero();
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

  // A region to help in; where there is one only later, sets when.
  Region* join(int64_t slot, steady_clock::time_point& later) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (Region* region = open_; region != nullptr; region = region->next)
      if (region->wanted > 0 && !region->is_full() &&
          !place_is_taken(slot % region->slots, region->threads)) {
        if (pause_ > microseconds::zero() && steady_clock::now() < alone_until_) {
          later = alone_until_;
          return nullptr;
        }
        --region->wanted;
        region->had_helpers = true;
        region->active.fetch_add(1, std::memory_order_relaxed);
        return region;
      }
    return nullptr;
  }

  void leave(Region& region, int64_t slot, bool held_up) {
    const std::lock_guard<std::mutex> lock(mutex_);
    // Who leaves because its place is taken may come back.
    if (place_is_taken(slot % region.slots, region.threads)) ++region.wanted;
    region.held_up |= held_up;
    region.active.fetch_sub(1, std::memory_order_release);
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
    int64_t slots = slot + 1, threads = slot + 1;  // of the last region
    for (;;) {
      const uint32_t seen = calls_.load();
      steady_clock::time_point later{};
      if (Region* region = join(slot, later)) {
        const Waiting waiting;
        slots = region->slots, threads = region->threads;
        std::fesetenv(&region->environment);
        try {
          region->work(slot % region->slots);
        } catch (...) {
          keep_error(*region, std::current_exception());
        }
        leave(*region, slot, waiting.so_far() > kHeldUp);
        // The region may be gone by now; the counter is the team's.
        leaves_.fetch_add(1);
        leaves_.notify_all();
        continue;
      }
      if (later != steady_clock::time_point{}) {
        std::this_thread::sleep_until(later);
        continue;
      }
      const auto away = [&] { return place_is_taken(slot % slots, threads); };
      const auto called = [&] { return calls_.load() != seen || away(); };
      if (away() || (!spin_until(called) && !yield_until(called))) calls_.wait(seen);
    }
  }

  std::mutex mutex_;  // guards the rest but for the counters
  Region* open_ = nullptr;
  int64_t helpers_ = 0;
  microseconds pause_{0};
  steady_clock::time_point alone_until_;
  // Regions opened and calls that ended, modulo 2^32: what helpers and closing threads sleep on.
  std::atomic<uint32_t> calls_{0}, leaves_{0};
};

// Never destroyed, because its threads never end. A child has none of them, so it starts anew.
std::atomic<Team*> the_team{nullptr};

Team& team() {
  Team* found = the_team.load(std::memory_order_acquire);
  if (found != nullptr) return *found;
  static const int registered = pthread_atfork(nullptr, nullptr, [] {
    the_team.store(nullptr, std::memory_order_relaxed);
    beside.store(0, std::memory_order_relaxed);
  });
  static_cast<void>(registered);
  Team* made = new Team;
  if (the_team.compare_exchange_strong(found, made)) return *made;
  delete made;
  return *found;
}

}  // namespace

int64_t work_beside(int64_t change) {
  Team& of_process = team();
  const int64_t now = beside.fetch_add(change) + change;
  if (change < 0) of_process.call();
  return now;
}

bool place_is_taken(int64_t slot, int64_t threads) {
  return slot > 0 && slot + beside.load(std::memory_order_relaxed) >= threads;
}

void run_team(int64_t pieces, int64_t threads, Work work) {
  if (std::min(pieces, threads) <= 1 || inside)
    work(0);
  else
    team().run(pieces, threads, work);
}

}  // namespace ekpnet
