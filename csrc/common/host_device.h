// Functions that run on the host and in kernels.
#pragma once

#if defined(__CUDACC__)
#define EKPNET_HOST_DEVICE __host__ __device__
#else
#define EKPNET_HOST_DEVICE
#endif
