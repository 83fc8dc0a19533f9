#include "cpu/dispatch.h"

#include <cstdlib>
#include <stdexcept>

namespace ekpnet {
namespace {

struct Entry {
  const char* name;
  const IsaKernels& (*kernels)();
  bool supported;
};

const std::vector<Entry>& entries() {
  static const std::vector<Entry> all = {
#if defined(EKPNET_HAS_GENERIC)
      {"generic", generic::kernels, true},
#endif
#if defined(EKPNET_HAS_NEON)
      {"neon", neon::kernels, true},
#endif
#if defined(EKPNET_HAS_AVX2)
      {"avx2", avx2::kernels, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
#endif
#if defined(EKPNET_HAS_AVX512)
      {"avx512", avx512::kernels,
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")},
#endif
  };
  return all;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

const IsaKernels& choose() {
  const char* forced = std::getenv("EKPNET_CPU_ISA");
  if (forced == nullptr || *forced == '\0') {
    const Entry* best = nullptr;
    for (const auto& entry : entries())
      if (entry.supported) best = &entry;
    return best->kernels();
  }
  for (const auto& entry : entries()) {
    if (entry.name != std::string(forced)) continue;
    if (!entry.supported)
      throw std::runtime_error("EKPNET_CPU_ISA=" + std::string(forced) +
                               ": this processor does not run it; it runs " +
                               joined(supported_isas()));
    return entry.kernels();
  }
  throw std::runtime_error("EKPNET_CPU_ISA=" + std::string(forced) +
                           ": not built; expected one of " + joined(built_isas()));
}

}  // namespace

std::vector<std::string> built_isas() {
  std::vector<std::string> names;
  for (const auto& entry : entries()) names.emplace_back(entry.name);
  return names;
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const auto& entry : entries())
    if (entry.supported) names.emplace_back(entry.name);
  return names;
}

const IsaKernels& isa_kernels() {
  static const IsaKernels& chosen = choose();
  return chosen;
}

}  // namespace ekpnet
