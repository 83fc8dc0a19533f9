"""Loading of the native ops into torch."""

from __future__ import annotations

import struct
from pathlib import Path

from ekpnet_fast.errors import NativeLibraryError
from ekpnet_fast.native.build import HERE, BuildInfo, build_info

OLDEST_TORCH = (2, 10)  # the Stable ABI that the ops are built against


def fits_cuda(info: BuildInfo, running: str | None) -> bool:
    """Whether the CUDA library can be loaded into a torch with CUDA `running`.

    With CUDA's runtime linked in it can be into any, and the driver decides what runs; else it
    takes the runtime from a torch of nvcc's major version.
    """
    if not info.cuda_archs or running is None:
        return False
    same_major = info.cuda_compiler.split(".")[0] == running.split(".")[0]
    return info.cuda_runtime == "static" or same_major


def _torch_version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def _expect_whole(library: Path) -> None:
    """Raise OSError where a file was cut off, because mapping one kills the process by SIGBUS."""
    with library.open("rb") as file:
        header = file.read(64)
    if header[:5] != b"\x7fELF\x02":
        return  # not a 64-bit ELF file: the loader says what is wrong with it
    # The table of sections is at the end: its offset, the size of an entry, their number.
    offset, size, count = struct.unpack_from("<40xQ10xHH", header.ljust(64, b"\0"))
    expected, found = offset + size * count, library.stat().st_size
    if found < expected:
        raise OSError(f"file cut off: {found} bytes, expected {expected}")


def load_ops() -> None:
    """Load the ops into torch: the CPU library, and the CUDA library where torch has CUDA.

    Raises:
        NativeLibraryError: a library is missing, or does not fit the installed torch. The message
            names the versions it was built for and that are running.
    """
    info = build_info()
    versions = f"built for torch {info.built_for_torch}, running torch {info.running_torch}"
    if _torch_version(info.running_torch) < OLDEST_TORCH:
        raise NativeLibraryError(
            f"ekpnet_fast needs torch >= {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]} ({versions}); "
            "install a newer torch: pip install 'torch>=2.10,<2.14'"
        )
    import torch

    libraries = [HERE / "libekpnet_cpu.so"]
    if fits_cuda(info, torch.version.cuda):
        # It needs the libraries of a torch that has CUDA, so decide before loading.
        libraries.append(HERE / "libekpnet_cuda.so")
    for library in libraries:
        try:
            _expect_whole(library)
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except OSError as error:
            raise NativeLibraryError(
                # torch hides the loader's own words behind its error.
                f"{library} cannot be loaded ({versions}): {error.__cause__ or error}; "
                "rebuild it against the installed torch: pip install --no-build-isolation ."
            ) from error
