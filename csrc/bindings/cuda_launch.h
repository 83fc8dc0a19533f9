// What the CUDA bindings share. Compiled for the emulated GPU of the tests, they register the same
// ops for CPU tensors in a library of another name.
#pragma once

#include <initializer_list>
#include <type_traits>
#include <utility>

#include "bindings/checks.h"
#include "cuda/types.h"

#if defined(EKPNET_EMULATED)
#define EKPNET_CUDA_OPS(m) STABLE_TORCH_LIBRARY_IMPL(ekpnet_emulated, CPU, m)
#else
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#define EKPNET_CUDA_OPS(m) STABLE_TORCH_LIBRARY_IMPL(ekpnet, CUDA, m)
#endif

namespace ekpnet {

#if defined(EKPNET_EMULATED)
struct OnDevice {
  explicit OnDevice(const Tensor&) {}
  int most_shared_bytes() const { return 163 * 1024; }  // as sm_80
  cudaStream_t stream = nullptr;
};

inline void check_launch() {}
inline void check_same_device(const Tensor&, const char*,
                              std::initializer_list<std::pair<const Tensor*, const char*>>) {}
#else
// Makes the tensor's GPU the current one for the rest of the scope; kernels go to torch's stream.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& tensor)
      : guard_(tensor.get_device_index()), index_(tensor.get_device_index()) {
    // A runtime that is linked in may have another current GPU than torch's, which the guard sets.
    int mine = -1;
    STD_CUDA_CHECK(cudaGetDevice(&mine));
    if (mine != index_) STD_CUDA_CHECK(cudaSetDevice(index_));
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &current));
    stream = static_cast<cudaStream_t>(current);
  }

  // That a block can ask for.
  int most_shared_bytes() const {
    int bytes = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, index_));
    return bytes;
  }

  cudaStream_t stream;

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  int index_;
};

// A GPU that was not built for is told so, with the remedy; other errors are told as torch tells
// them.
inline void check_launch() {
  const cudaError_t error = cudaPeekAtLastError();
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction ||
      error == cudaErrorUnsupportedPtxVersion) {
    cudaGetLastError();  // forgets it, or the next launch would be blamed
    int device = 0, major = 0, minor = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    STD_TORCH_CHECK(false, "this GPU is sm_", major, minor,
                    ", ekpnet_fast was built for " EKPNET_CUDA_ARCHS
                    "; build for it: TORCH_CUDA_ARCH_LIST=\"",
                    major, ".", minor, "\" pip install --no-build-isolation .");
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// All tensors on the device of `first`; the message says how to move one.
inline void check_same_device(const Tensor& first, const char* first_name,
                              std::initializer_list<std::pair<const Tensor*, const char*>> others) {
  STD_TORCH_CHECK(first.is_cuda(), first_name,
                  " is not on a GPU, but other arguments are; move it with .cuda()");
  const int32_t index = first.get_device_index();
  for (const auto& [tensor, name] : others) {
    if (tensor->is_cuda() && tensor->get_device_index() == index) continue;
    std::ostringstream found;
    if (tensor->is_cuda())
      found << "cuda:" << tensor->get_device_index();
    else
      found << "another device";
    STD_TORCH_CHECK(false, name, " is on ", found.str(), ", expected cuda:", index, " as ",
                    first_name, "; move it with .to('cuda:", index, "')");
  }
}
#endif

// Rows that kernels read four values at a time must start where such a read may.
template <class S>
void check_aligned(const Tensor& tensor, const char* name) {
  constexpr uintptr_t kBytes = sizeof(S) * 4 < 16 ? sizeof(S) * 4 : 16;
  STD_TORCH_CHECK(reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % kBytes == 0, name,
                  " starts at an address that is no multiple of ", kBytes, "; call .clone() first");
}

// Calls f with a value of the storage type of the tensor.
template <class F>
auto dispatch_storage(const Tensor& tensor, const char* name, F f) {
  const ScalarType dtype = tensor.scalar_type();
  STD_TORCH_CHECK(
      dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16,
      name, " is ", dtype_name(dtype), ", expected float32, bfloat16 or float64");
  switch (dtype) {
    case ScalarType::Float:
      return f(float());
    case ScalarType::Double:
      return f(double());
    default:
      return f(Bf16());
  }
}

// The dtype of values that S is computed in.
template <class S>
constexpr ScalarType kComputeDtype =
    std::is_same_v<S, double> ? ScalarType::Double : ScalarType::Float;

inline Tensor empty_beside(const Tensor& other, std::initializer_list<int64_t> shape,
                           ScalarType dtype) {
  return torch::stable::new_empty(
      other, torch::headeronly::IntHeaderOnlyArrayRef(shape.begin(), shape.size()), dtype);
}

inline Tensor zeros_beside(const Tensor& other, std::initializer_list<int64_t> shape,
                           ScalarType dtype) {
  return torch::stable::new_zeros(
      other, torch::headeronly::IntHeaderOnlyArrayRef(shape.begin(), shape.size()), dtype);
}

}  // namespace ekpnet
