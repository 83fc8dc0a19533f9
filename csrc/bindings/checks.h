// What every binding shares: argument checks with readable messages, allocation, parallel ranges.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <sstream>
#include <string>
#include <vector>

namespace ekpnet {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline const char* dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Half:
      return "float16";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Bool:
      return "bool";
    default:
      return "another dtype";
  }
}

template <class Sizes>
std::string shape_text(const Sizes& sizes) {
  std::ostringstream text;
  text << "[";
  const char* separator = "";
  for (int64_t size : sizes) {
    text << separator;
    if (size < 0)
      text << "?";
    else
      text << size;
    separator = ", ";
  }
  text << "]";
  return text.str();
}

// A contiguous tensor of the dtype and shape; -1 in `shape` stands for any size.
inline void check_tensor(const Tensor& tensor, const char* name, ScalarType dtype,
                         std::initializer_list<int64_t> shape) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, " is ", dtype_name(tensor.scalar_type()),
                  ", expected ", dtype_name(dtype));
  const auto sizes = tensor.sizes();
  bool matches = static_cast<size_t>(tensor.dim()) == shape.size();
  int64_t i = 0;
  for (int64_t size : shape) {
    if (!matches) break;
    matches = size < 0 || sizes[i] == size;
    ++i;
  }
  STD_TORCH_CHECK(matches, name, " has shape ", shape_text(sizes), ", expected ",
                  shape_text(shape));
  STD_TORCH_CHECK(tensor.is_contiguous(), name, " is not contiguous; call .contiguous() first");
}

// int32 ids within [0, limit).
inline void check_ids(const int32_t* ids, int64_t n, int64_t limit, const char* name,
                      const char* of) {
  // The unsigned maximum is vectorised by the compiler and catches negative ids too.
  uint32_t top = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t id = static_cast<uint32_t>(ids[i]);
    top = id > top ? id : top;
  }
  if (n == 0 || static_cast<int64_t>(top) < limit) return;
  for (int64_t i = 0; i < n; ++i)
    STD_TORCH_CHECK(ids[i] >= 0 && ids[i] < limit, name, " holds id ", ids[i], " at position ", i,
                    ", expected 0 <= id < ", limit, " (", of, ")");
}

// Row pointers 0 = indptr[0] <= ... <= indptr[n] = total.
inline void check_indptr(const int64_t* indptr, int64_t n, int64_t total, const char* name) {
  STD_TORCH_CHECK(indptr[0] == 0, name, " starts with ", indptr[0], ", expected 0");
  for (int64_t i = 0; i < n; ++i)
    STD_TORCH_CHECK(indptr[i] <= indptr[i + 1], name, " falls from ", indptr[i], " to ",
                    indptr[i + 1], " at position ", i + 1);
  STD_TORCH_CHECK(indptr[n] == total, name, " ends with ", indptr[n], ", expected ", total);
}

// Labels, each 0 or 1.
template <class T>
void check_labels(const T* labels, int64_t n, const char* name) {
  bool other = false;  // without a branch, so that the compiler vectorises it
  for (int64_t i = 0; i < n; ++i) other |= (labels[i] != T(0)) & (labels[i] != T(1));
  if (!other) return;
  for (int64_t i = 0; i < n; ++i)
    STD_TORCH_CHECK(labels[i] == T(0) || labels[i] == T(1), name, " holds ", +labels[i],
                    " at position ", i, ", expected 0 or 1");
}

// Calls f with a value of the tensor's float type.
template <class F>
auto dispatch_float(const Tensor& tensor, const char* name, F f) {
  const ScalarType dtype = tensor.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, name, " is ",
                  dtype_name(dtype), ", expected float32 or float64");
  return dtype == ScalarType::Float ? f(float()) : f(double());
}

// A weight or a rate: a number from 0 up.
inline void check_rate(const char* name, double value) {
  STD_TORCH_CHECK(std::isfinite(value) && value >= 0, name, " is ", value,
                  ", expected a finite number from 0 up");
}

inline void check_range(const char* name, int64_t value, int64_t low, int64_t high) {
  STD_TORCH_CHECK(value >= low && value <= high, name, " is ", value, ", expected ", low, " to ",
                  high);
}

// Rows of the entity table, (v, gamma) or v alone.
inline void check_channels(const Tensor& entity) {
  STD_TORCH_CHECK(entity.dim() == 3 && (entity.size(1) == 1 || entity.size(1) == 2),
                  "entity has shape ", shape_text(entity.sizes()),
                  ", expected [n, C, D] with C = 1 (v) or 2 (v, gamma)");
}

// Rows in the dtype of what is computed, or in bfloat16 beside float32.
inline void check_table(const Tensor& table, ScalarType dtype) {
  const bool small = table.scalar_type() == ScalarType::BFloat16 && dtype == ScalarType::Float;
  check_tensor(table, "table", small ? ScalarType::BFloat16 : dtype, {-1, -1, -1});
}

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// An uninitialised tensor; sizes whose product overflows, or for which there is no memory, are told
// in our words.
inline Tensor empty(std::initializer_list<int64_t> shape, ScalarType dtype) {
  constexpr int64_t kMostElements = int64_t{1} << 44;
  int64_t elements = 1;
  bool fits = true;
  for (int64_t size : shape) fits = fits && !__builtin_mul_overflow(elements, size, &elements);
  if (fits && elements <= kMostElements) {
    try {
      return torch::stable::empty(
          torch::headeronly::IntHeaderOnlyArrayRef(shape.begin(), shape.size()), dtype);
    } catch (const std::exception&) {
    }
  }
  STD_TORCH_CHECK(false, "a result would have shape ", shape_text(shape), " of ", dtype_name(dtype),
                  ", expected one that the memory has room for");
}

// The calling thread's buffer; it only grows, so a training step allocates nothing.
template <class T>
T* thread_buffer(int64_t n) {
  constexpr int64_t kAlign = 64 / sizeof(T);
  thread_local std::vector<T> buffer;
  if (static_cast<int64_t>(buffer.size()) < n + kAlign) buffer.resize(n + kAlign);
  const auto address = reinterpret_cast<uintptr_t>(buffer.data());
  return reinterpret_cast<T*>((address + 63) / 64 * 64);
}

}  // namespace ekpnet
