"""EKPNet and its relatives, fast: recommending over a knowledge graph.

Three names: the distribution and package `ekpnet_fast`, the torch library `ekpnet` (its ops are
wrapped in `ekpnet_fast.ops`), and the native files `_module` (facts of the build)
and `libekpnet_cpu.so` / `libekpnet_cuda.so` (the ops, loaded with `ekpnet_fast.ops`).
"""

from pkgutil import extend_path
from typing import TYPE_CHECKING

from ekpnet_fast.lazy import lazy_names

if TYPE_CHECKING:
    from ekpnet_fast.data import SyntheticConfig as SyntheticConfig
    from ekpnet_fast.data import load_dataset as load_dataset
    from ekpnet_fast.data import make_synthetic as make_synthetic
    from ekpnet_fast.native.build import BuildInfo as BuildInfo
    from ekpnet_fast.native.build import CudaKernel as CudaKernel
    from ekpnet_fast.native.build import __version__ as __version__
    from ekpnet_fast.native.build import build_info as build_info
    from ekpnet_fast.native.build import cuda_kernels as cuda_kernels
    from ekpnet_fast.recommender import Recommender as Recommender

# In the source folder `python -m` finds this package there, without its native files: those of the
# installed copy are taken then.
__path__ = extend_path(__path__, __name__)

# Imported on first use, so that commands start quickly and `doctor` runs where the native files or
# a package that these need are broken.
_LAZY = {
    "BuildInfo": "ekpnet_fast.native.build",
    "CudaKernel": "ekpnet_fast.native.build",
    "Recommender": "ekpnet_fast.recommender",
    "SyntheticConfig": "ekpnet_fast.data",
    "__version__": "ekpnet_fast.native.build",
    "build_info": "ekpnet_fast.native.build",
    "cuda_kernels": "ekpnet_fast.native.build",
    "load_dataset": "ekpnet_fast.data",
    "make_synthetic": "ekpnet_fast.data",
}

__all__ = [*_LAZY]
__getattr__ = lazy_names(__name__, _LAZY)
