// The team of threads: every piece of a region is done once, whoever comes in time to help.
// With the argument "no-fork" a child is not tried: user-mode emulators and the thread sanitizer
// end when one starts a thread. Exit code 0: every check holds; 1: some do not.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cfenv>
#include <chrono>
#include <cstdio>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu/team.h"

namespace {

using ekpnet::run_chunks;

std::atomic<int> failures = 0;

void check(bool holds, const std::string& what) {
  if (holds) return;
  ++failures;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
}

bool each_once(int64_t n, int64_t threads) {
  std::vector<std::atomic<int>> times(n);
  run_chunks(n, threads, [&](int64_t chunk) { ++times[chunk]; });
  for (const auto& count : times)
    if (count != 1) return false;
  return true;
}

void test_every_chunk_once() {
  for (int64_t threads : {1, 2, 3, 8})
    for (int64_t n : {0, 1, 2, 7, 1000})
      for (int round = 0; round < 50; ++round)
        check(each_once(n, threads), "a chunk was left out or done twice");
}

// Opens regions until a helper is in one, and calls f there on both threads: on a busy machine the
// first ones may have no helpers. Whether one came at all.
template <class F>
bool with_a_helper(F f) {
  bool came = false;
  for (int tries = 0; !came && tries < 2000; ++tries) {
    std::atomic<int> inside = 0;
    auto work = [&](int64_t) {
      ++inside;
      const auto stop = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
      while (inside < 2 && std::chrono::steady_clock::now() < stop) std::this_thread::yield();
      if (inside == 2) f();
    };
    ekpnet::run_team(2, 2, ekpnet::Work(work));
    came = inside == 2;
  }
  return came;
}

void test_helpers_come() {
  check(with_a_helper([] {}), "no helper came");
}

// How many of the chunks of a region another thread does.
int done_elsewhere(int64_t n, int64_t threads) {
  const auto self = std::this_thread::get_id();
  std::atomic<int> elsewhere = 0;
  run_chunks(n, threads, [&](int64_t) { elsewhere += std::this_thread::get_id() != self; });
  return elsewhere;
}

void test_a_thread_beside_takes_a_helpers_place() {
  ekpnet::work_beside(1);
  std::atomic<int> elsewhere = 0;
  for (int round = 0; round < 200; ++round) elsewhere += done_elsewhere(50, 2);
  check(elsewhere == 0, "a helper came although another thread had its place");
  check(each_once(100, 8), "with a thread beside");
  for (int round = 0; round < 200; ++round) elsewhere += done_elsewhere(50, 2);
  check(elsewhere == 0, "one of many helpers came although another thread had its place");
  // Of eight threads one works on something else; a region of two pieces has a helper all the same.
  for (int tries = 0; elsewhere == 0 && tries < 2000; ++tries)
    run_chunks(2, 8, [&, self = std::this_thread::get_id()](int64_t) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (std::this_thread::get_id() != self) elsewhere = 1;
    });
  check(elsewhere == 1, "no helper came to a region of few pieces beside another thread");
  ekpnet::work_beside(-1);
  test_helpers_come();
}

// A helper that sleeps in a region waits as one does that other programs keep from running.
void test_a_region_that_was_held_up_is_followed_by_some_without_helpers() {
  using std::chrono::milliseconds, std::chrono::steady_clock;
  const auto self = std::this_thread::get_id();
  with_a_helper([&] {
    if (std::this_thread::get_id() != self) std::this_thread::sleep_for(milliseconds(20));
  });
  const auto stop = steady_clock::now() + milliseconds(5);
  std::atomic<int> elsewhere = 0;
  while (steady_clock::now() < stop) {
    const int more = done_elsewhere(50, 2);
    if (steady_clock::now() < stop) elsewhere += more;
  }
  check(elsewhere == 0, "a helper was asked for at once after it had held up a region");
  // A long region that begins meanwhile has one when that is over.
  const bool held_again = with_a_helper([&] {
    if (std::this_thread::get_id() != self) std::this_thread::sleep_for(milliseconds(20));
  });
  elsewhere = 0;
  run_chunks(400, 2, [&](int64_t) {
    std::this_thread::sleep_for(milliseconds(1));
    elsewhere += std::this_thread::get_id() != self;
  });
  check(held_again && elsewhere > 0, "no helper came to a long region after the one held up");
  test_helpers_come();
}

// The one helper is held inside a region until another region has ended.
void test_nobody_waits_for_a_helper_that_does_not_come() {
  std::atomic<bool> held = false, ended = false;
  std::thread other([&] {
    with_a_helper([&] {
      held = true;
      while (!ended) std::this_thread::yield();
    });
  });
  while (!held) std::this_thread::yield();
  check(each_once(100, 2), "a region without helpers");
  ended = true;
  other.join();
}

void test_nested() {
  std::atomic<int> done = 0, elsewhere = 0;
  run_chunks(20, 4, [&](int64_t) {
    const auto self = std::this_thread::get_id();
    run_chunks(10, 4, [&](int64_t) {
      ++done;
      elsewhere += std::this_thread::get_id() != self;
    });
  });
  check(done == 200, "nested regions: chunks are missing");
  check(elsewhere == 0, "nested regions: a chunk left its thread");
}

void test_exceptions() {
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> begun = 0;
    std::string told;
    try {
      run_chunks(1000, 4, [&](int64_t chunk) {
        ++begun;
        if (chunk >= 10) throw std::runtime_error(std::to_string(chunk));
      });
    } catch (const std::runtime_error& error) {
      told = error.what();
    }
    check(told == "10", "the exception told is that of chunk '" + told + "', expected the lowest");
    check(begun == 1000, "a chunk was left out because another one threw");
  }
  check(each_once(100, 4), "after an exception");
}

void test_many_callers() {
  std::vector<std::thread> callers;
  for (int i = 0; i < 8; ++i)
    callers.emplace_back([] {
      for (int round = 0; round < 200; ++round)
        check(each_once(50, 3), "several callers at a time");
    });
  for (std::thread& caller : callers) caller.join();
}

void test_floating_point_environment() {
  std::fesetround(FE_UPWARD);
  std::atomic<int> other = 0;
  with_a_helper([&] { other += std::fegetround() != FE_UPWARD; });
  std::fesetround(FE_TONEAREST);
  check(other == 0, "a helper rounds otherwise than the thread that asked");
}

void test_fork() {
  check(each_once(100, 4), "before a fork");
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    test_helpers_come();  // of the child's own
    _exit(each_once(100, 4) ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  check(status == 0, "a forked child ended with status " + std::to_string(status));
  check(each_once(100, 4), "after a fork");
}

}  // namespace

int main(int argc, char** argv) {
  alarm(300);  // a region that never ends is a failure, not a wait
  test_nobody_waits_for_a_helper_that_does_not_come();
  test_helpers_come();
  test_a_thread_beside_takes_a_helpers_place();
  test_a_region_that_was_held_up_is_followed_by_some_without_helpers();
  test_every_chunk_once();
  test_nested();
  test_exceptions();
  test_many_callers();
  test_floating_point_environment();
  if (argc == 2 && std::string(argv[1]) == "no-fork")
    std::fprintf(stderr, "a forked child: not tried\n");
  else
    test_fork();
  return failures == 0 ? 0 : 1;
}
