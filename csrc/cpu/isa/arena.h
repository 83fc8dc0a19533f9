// Carving of a thread's workspace.
#pragma once

#include <cstdint>

namespace ekpnet {
namespace {

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// Hands out consecutive pieces that start on cache lines; with a null base it only measures.
template <class T>
class Arena {
 public:
  explicit Arena(T* base) : next_(base) {}
  T* take(int64_t n) {
    T* p = next_;
    next_ += round_up(n, 64 / sizeof(T));
    return p;
  }
  T* next() const { return next_; }

 private:
  T* next_;
};

template <class T>
inline void fill(T* p, int64_t n, T x) {
  for (int64_t i = 0; i < n; ++i) p[i] = x;
}

}  // namespace
}  // namespace ekpnet
