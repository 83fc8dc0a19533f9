"""Facts of the native build: versions, instruction sets, GPU kernels."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType

from ekpnet_fast.errors import NativeLibraryError


def _import_module() -> ModuleType:
    try:
        return importlib.import_module("ekpnet_fast._module")
    except ImportError as error:
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise NativeLibraryError(
            f"the native module of ekpnet_fast in {Path(__file__).parents[1]} cannot be imported"
            f" ({error}); build it for this Python {python} with `pip install .` in the source"
            " directory"
        ) from error


_native = _import_module()
HERE = Path(str(_native.__file__)).resolve().parent  # beside the other native files
__version__: str = _native.build_facts()["version"]


@dataclass(frozen=True)
class BuildInfo:
    """Facts of the native build, and what of it runs here.

    Attributes:
        version: version of the package the native code belongs to.
        compiler: C++ compiler and version.
        sanitizers: sanitizers compiled in, empty for none.
        built_for_torch: torch it was compiled with; any later torch can load it.
        running_torch: torch that is installed.
        isas_built: CPU instruction sets compiled, plainest first.
        isas_supported: those of them that this processor runs.
        isa: the instruction set in use (`EKPNET_CPU_ISA` forces one).
        cuda_archs: GPU architectures compiled, empty for none.
        cuda_reason: why there are none, else empty.
        cuda_compiler: version of nvcc, empty for none.
        cuda_runtime: "static" where CUDA's runtime is linked in, "shared" where it is torch's,
            empty for none.
    """

    version: str
    compiler: str
    sanitizers: str
    built_for_torch: str
    running_torch: str
    isas_built: list[str]
    isas_supported: list[str]
    isa: str
    cuda_archs: list[str]
    cuda_reason: str
    cuda_compiler: str
    cuda_runtime: str


def build_info() -> BuildInfo:
    """Facts of the native build; importing torch is not needed for them.

    Raises:
        NativeLibraryError: `EKPNET_CPU_ISA` names an instruction set that was not built or that
            this processor does not run.
    """
    try:
        isa = _native.chosen_isa()
    except RuntimeError as error:
        raise NativeLibraryError(str(error)) from error
    return BuildInfo(isa=isa, running_torch=metadata.version("torch"), **_native.build_facts())


@dataclass(frozen=True)
class CudaKernel:
    """Resources of one GPU kernel, as its assembler printed them at build time.

    Attributes:
        kernel: its name, with template arguments.
        arch: such as "sm_90".
        registers: per thread, of 255.
        stack_bytes, spill_bytes: local memory per thread; 0 in a good kernel.
        shared_bytes: static shared memory per block; a launch may add dynamic memory.
    """

    kernel: str
    arch: str
    registers: int
    stack_bytes: int
    spill_bytes: int
    shared_bytes: int


def cuda_kernels() -> list[CudaKernel]:
    """GPU kernels that were built, by name and architecture; empty without CUDA.

    Raises:
        NativeLibraryError: the file that the build wrote about them is missing.
    """
    if not build_info().cuda_archs:
        return []
    path = HERE / "cuda_kernels.json"
    try:
        return [CudaKernel(**facts) for facts in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError) as error:
        raise NativeLibraryError(
            f"{path} cannot be read ({error}); build again: pip install ."
        ) from error
