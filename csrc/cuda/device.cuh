// What the kernels are written in. nvcc compiles them for the GPU; tests/csrc/emulation.h stands in
// for the GPU and runs the same source on the host, thread by thread, where nvcc is not at work.
#pragma once

#include <map>
#include <mutex>
#include <type_traits>
#include <utility>

#include "cuda/types.h"

#if defined(__CUDACC__)
// Declared by <cassert> only where NDEBUG is not defined.
extern "C" __device__ void __assert_fail(const char* what, const char* file, unsigned line,
                                         const char* function) noexcept;
#endif

namespace ekpnet {

#if defined(__CUDACC__)
// The block's dynamic shared memory.
inline __device__ unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return bytes;
}

// Lets blocks of a kernel have so much dynamic shared memory on the current GPU. Asking takes the
// host a microsecond, so what was given is kept.
inline cudaError_t allow_shared_memory(const void* kernel, size_t bytes) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, size_t> given;
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  const std::lock_guard<std::mutex> lock(mutex);
  size_t& most = given[{kernel, device}];
  if (bytes <= most) return cudaSuccess;
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error == cudaSuccess) most = bytes;
  return error;
}

template <class Kernel, class... Args>
void launch(Kernel kernel, int64_t blocks, int threads, size_t shared_bytes, cudaStream_t stream,
            const Args&... args) {
  if (blocks == 0) return;
  // Every GPU gives 48 KiB unasked, of which a kernel's static memory takes its part.
  if (shared_bytes > 44 * 1024 &&
      allow_shared_memory(reinterpret_cast<const void*>(kernel), shared_bytes) != cudaSuccess)
    return;  // `check_launch` finds the error
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, stream>>>(args...);
}
#else
using emulation::launch;
using emulation::shared_memory;
#endif

constexpr unsigned kAllLanes = 0xffffffffu;

inline __device__ float to_compute(float x) { return x; }
inline __device__ double to_compute(double x) { return x; }
inline __device__ float to_compute(Bf16 x) { return widened(x); }

template <class S>
__device__ S from_compute(Compute<S> x) {
  if constexpr (std::is_same_v<S, Bf16>) {
    return rounded(x);
  } else {
    return x;
  }
}

// Four neighbours, moved in one or two 16-byte accesses.
template <class T>
struct alignas(sizeof(T) * 4 < 16 ? sizeof(T) * 4 : 16) Vec4 {
  T x[4];
};

// Only the emulated GPU checks; a GPU ends the launch by itself.
template <class S>
__device__ void check_vector([[maybe_unused]] const S* at) {
#if !defined(__CUDACC__)
  emulation::check_aligned(at, alignof(Vec4<S>));
#endif
}

template <class S>
__device__ Vec4<Compute<S>> load4(const S* from) {
  check_vector(from);
  const Vec4<S> stored = *reinterpret_cast<const Vec4<S>*>(from);
  Vec4<Compute<S>> value;
#pragma unroll
  for (int j = 0; j < 4; ++j) value.x[j] = to_compute(stored.x[j]);
  return value;
}

template <class S>
__device__ void store4(S* to, const Vec4<Compute<S>>& value) {
  check_vector(to);
  Vec4<S> stored;
#pragma unroll
  for (int j = 0; j < 4; ++j) stored.x[j] = from_compute<S>(value.x[j]);
  *reinterpret_cast<Vec4<S>*>(to) = stored;
}

// To shared memory, in one or two 16-byte accesses: nvcc makes four of what `store4` says, which
// lie 16 bytes apart between lanes, so that each of them meets conflicts of banks.
template <class A>
__device__ void store4_shared(A* to, const Vec4<A>& value) {
#if defined(__CUDA_ARCH__)
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  if constexpr (sizeof(A) == 4) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(at), "f"(value.x[0]),
                 "f"(value.x[1]), "f"(value.x[2]), "f"(value.x[3])
                 : "memory");
  } else {
    asm volatile("st.shared.v2.f64 [%0], {%1, %2};" ::"r"(at), "d"(value.x[0]), "d"(value.x[1])
                 : "memory");
    asm volatile("st.shared.v2.f64 [%0], {%1, %2};" ::"r"(at + 16), "d"(value.x[2]), "d"(value.x[3])
                 : "memory");
  }
#else
  store4(to, value);
#endif
}

// Sum over aligned runs of `kLanes` lanes, in the same order in every lane; all lanes of the warp
// take part.
template <int kLanes, class T>
__device__ T lane_sum(T x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

template <int kLanes, class T>
__device__ T lane_max(T x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, x, step);
    x = other > x ? other : x;
  }
  return x;
}

// An id that must lie in a table of `limit` rows; stops the launch if it does not, because device
// memory cannot be checked before one without waiting for the GPU.
inline __device__ int64_t checked_id(int32_t id, int64_t limit) {
  if (id < 0 || id >= limit) {
#if defined(__CUDA_ARCH__)
    __assert_fail("0 <= id && id < rows of its table", "ekpnet_fast", 0, "an op's ids");
#elif !defined(__CUDACC__)
    emulation::fail("an id outside of its table");
#endif
  }
  return id;
}

// Row pointers [n + 1] of group g, which must begin with 0, not fall and end with `total`; stops
// the launch where those of the group do not. Where every group is checked by somebody, all are.
inline __device__ void check_group(const int64_t* indptr, int64_t g, int64_t n, int64_t total) {
  const int64_t begin = indptr[g], end = indptr[g + 1];
  const bool right = (g == 0 ? begin == 0 : begin >= 0) && begin <= end &&
                     (g + 1 == n ? end == total : end <= total);
  if (!right) {
#if defined(__CUDA_ARCH__)
    __assert_fail("row pointers rise from 0 to the number of pairs", "ekpnet_fast", 0,
                  "an op's groups");
#elif !defined(__CUDACC__)
    emulation::fail("row pointers that do not rise from 0 to the number of pairs");
#endif
  }
}

// Threads that work on one thing together: a warp, or the whole block.
struct Team {
  int rank, size;

  __device__ void sync() const {
    if (size == kWarp)
      __syncwarp();
    else
      __syncthreads();
  }
};

// One row of D values spread over lanes: kD > 0 gives four neighbours to each of kD / 4 lanes,
// kD = 0 serves any D up to 128 with every 32nd value, four at most, in each lane of a warp.
template <int kD, class T>
struct Fragment {
  static constexpr int kLanes = kD > 0 ? kD / 4 : kWarp;
  static_assert(kLanes <= kWarp && (kLanes & (kLanes - 1)) == 0);
  T x[4];

  static __device__ Fragment zero() { return {{T(0), T(0), T(0), T(0)}}; }

  // Position in the row of x[j].
  static __device__ int at(int lane, int j) { return kD > 0 ? 4 * lane + j : lane + kWarp * j; }

  template <class S>
  static __device__ Fragment load(const S* row, int lane, int D) {
    Fragment f;
    if constexpr (kD > 0) {
      const Vec4<T> v = load4(row + 4 * lane);
#pragma unroll
      for (int j = 0; j < 4; ++j) f.x[j] = v.x[j];
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) f.x[j] = at(lane, j) < D ? to_compute(row[at(lane, j)]) : T(0);
    }
    return f;
  }

  // Writes positions below `limit`; beyond D the values are 0.
  template <class S>
  __device__ void store(S* row, int lane, int limit) const {
    if constexpr (kD > 0) {
      store4(row + 4 * lane, Vec4<T>{{x[0], x[1], x[2], x[3]}});
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (at(lane, j) < limit) row[at(lane, j)] = from_compute<S>(x[j]);
    }
  }

  // The same to a row of values in shared memory.
  __device__ void store_shared(T* row, int lane, int limit) const {
    if constexpr (kD > 0)
      store4_shared(row + 4 * lane, Vec4<T>{{x[0], x[1], x[2], x[3]}});
    else
      store(row, lane, limit);
  }

  __device__ void add(T scale, const Fragment& other) {
#pragma unroll
    for (int j = 0; j < 4; ++j) x[j] += scale * other.x[j];
  }

  // Dot product over the row; all lanes of the warp take part.
  __device__ T dot(const Fragment& other) const {
    T sum = T(0);
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += x[j] * other.x[j];
    return lane_sum<kLanes>(sum);
  }
};

// Calls f(row, lane) for the rows 0 .. n - 1, each by the kLanes lanes of a fragment. Lanes without
// a row get row >= n, because shuffles inside f need the whole warp.
template <int kLanes, class F>
__device__ void for_rows(const Team& team, int n, F f) {
  const int at_once = team.size / kLanes;
  for (int first = 0; first < n; first += at_once)
    f(first + team.rank / kLanes, team.rank % kLanes);
}

}  // namespace ekpnet
