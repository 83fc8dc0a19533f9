"""EKPNet and its relatives, fast: recommending over a knowledge graph.

Three names: the distribution and package `ekpnet_fast`, the torch library `ekpnet` (its ops are
wrapped in `ekpnet_fast.ops`), and the native files `_module` (facts of the build, imported first)
and `libekpnet_cpu.so` / `libekpnet_cuda.so` (the ops, loaded with `ekpnet_fast.ops`).
"""

import sys
from importlib import import_module
from itertools import pairwise
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ekpnet_fast.data import SyntheticConfig as SyntheticConfig
    from ekpnet_fast.data import load_dataset as load_dataset
    from ekpnet_fast.data import make_synthetic as make_synthetic
    from ekpnet_fast.recommender import Recommender as Recommender

# In the source folder `python -m` finds this package there, without its native files: those of the
# installed copy are taken then.
__path__ = extend_path(__path__, __name__)

try:
    from ekpnet_fast._library import BuildInfo, CudaKernel, build_info, cuda_kernels

    __version__ = build_info().version
except Exception:
    # `python -m ekpnet_fast.doctor` and `ekpnet doctor` come by here too, to say what is broken;
    # nothing else may.
    _words = [word.rsplit("/", 1)[-1] for word in sys.orig_argv]
    if "ekpnet_fast.doctor" not in _words and not {
        ("ekpnet", "doctor"),
        ("ekpnet_fast", "doctor"),
    } & set(pairwise(_words)):
        raise

# Imported when they are asked for, so that commands start quickly and `doctor` runs where a package
# that these need is missing.
_LATER = {
    "Recommender": "ekpnet_fast.recommender",
    "SyntheticConfig": "ekpnet_fast.data",
    "load_dataset": "ekpnet_fast.data",
    "make_synthetic": "ekpnet_fast.data",
}

__all__ = ["BuildInfo", "CudaKernel", "__version__", "build_info", "cuda_kernels", *_LATER]


def __getattr__(name: str) -> Any:
    """What is imported later."""
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
