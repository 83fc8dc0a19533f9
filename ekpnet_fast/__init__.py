"""EKPNet and its relatives, fast: recommending over a knowledge graph.

Three names: the distribution and package `ekpnet_fast`, the torch library `ekpnet` (its ops are
wrapped in `ekpnet_fast.ops`), and the native files `_module` (facts of the build, imported first)
and `libekpnet_cpu.so` / `libekpnet_cuda.so` (the ops, loaded with `ekpnet_fast.ops`).
"""

import sys
from pkgutil import extend_path

# In the source folder `python -m` finds this package there, without its native files: those of the
# installed copy are taken then.
__path__ = extend_path(__path__, __name__)

try:
    from ekpnet_fast._library import BuildInfo, CudaKernel, build_info, cuda_kernels

    __version__ = build_info().version
except Exception:
    # `python -m ekpnet_fast.doctor` comes by here too, to say what is broken; nothing else may.
    if "ekpnet_fast.doctor" not in sys.orig_argv:
        raise

__all__ = ["BuildInfo", "CudaKernel", "__version__", "build_info", "cuda_kernels"]
