"""EKPNet and its relatives, fast: recommending over a knowledge graph.

Three names: the distribution and package `ekpnet_fast`, the torch library `ekpnet` (its ops are
wrapped in `ekpnet_fast.ops`), and the native files `_module` (facts of the build, imported first)
and `libekpnet_cpu.so` / `libekpnet_cuda.so` (the ops, loaded with `ekpnet_fast.ops`).
"""

from ekpnet_fast._library import BuildInfo, build_info

__all__ = ["BuildInfo", "__version__", "build_info"]

__version__ = build_info().version
