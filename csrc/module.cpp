// The module that Python imports first: facts of the build, no torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/dispatch.h"

namespace py = pybind11;

PYBIND11_MODULE(_module, m) {
  m.doc() = "Facts of the native build; importing it loads neither torch nor the ops.";
  m.def(
      "build_facts",
      [] {
        py::dict facts;
        facts["version"] = EKPNET_VERSION;
        facts["compiler"] = EKPNET_COMPILER;
        facts["sanitizers"] = EKPNET_SANITIZE;
        facts["built_for_torch"] = EKPNET_TORCH_VERSION;
        facts["isas_built"] = ekpnet::built_isas();
        facts["isas_supported"] = ekpnet::supported_isas();
        facts["cuda_archs"] = py::str(EKPNET_CUDA_ARCHS).attr("split")();
        facts["cuda_compiler"] = EKPNET_CUDA_COMPILER;
        facts["cuda_runtime"] = EKPNET_CUDA_RUNTIME;
        facts["cuda_reason"] = EKPNET_CUDA_REASON;
        return facts;
      },
      "Version, compiler, instruction sets, CUDA architectures or why there are none.");
  m.def(
      "chosen_isa", [] { return std::string(ekpnet::isa_kernels().name); },
      "The instruction set in use; RuntimeError if EKPNET_CPU_ISA names one that cannot be.");
}
