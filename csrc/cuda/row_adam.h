// Adam on the touched rows of a table in device memory.
#pragma once

#include <cuda_runtime.h>

#include "cpu/row_adam.h"

namespace ekpnet {

template <class T>
void launch_row_adam(const RowAdamArgs<T>& args, cudaStream_t stream);

}  // namespace ekpnet
