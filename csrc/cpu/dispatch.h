// Run-time choice of the instruction set.
#pragma once

#include <string>
#include <vector>

#include "cpu/isa/isa_kernels.h"

namespace ekpnet {

// Instruction sets that were compiled, from the plainest to the widest.
std::vector<std::string> built_isas();

// Those of them that this processor runs.
std::vector<std::string> supported_isas();

// The widest one that this processor runs, or the one that EKPNET_CPU_ISA names; chosen once.
// Throws std::runtime_error if that name was not built or is not supported here.
const IsaKernels& isa_kernels();

}  // namespace ekpnet
