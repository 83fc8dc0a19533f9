"""Device of a run, and the reason why a GPU cannot be used."""

from __future__ import annotations

import ctypes
import re
import sys
from functools import cache
from pathlib import Path

import torch

from ekpnet_fast.errors import ConfigError
from ekpnet_fast.native.build import build_info
from ekpnet_fast.native.loading import fits_cuda


def resolve_device(name: str) -> torch.device:
    """Device that an option names.

    Args:
        name: "cpu", "cuda", or "auto": a GPU where one can be used, else the CPU; why a GPU that
            is there is not used is said on stderr, once.

    Raises:
        ConfigError: "cuda", but it cannot be used; says why and what to do.
    """
    if name == "cpu":
        return torch.device("cpu")
    reason = why_no_cuda()
    if reason is None:
        return torch.device("cuda", torch.cuda.current_device())
    if name == "cuda":
        raise ConfigError(f"--device cuda: {reason}, or use --device cpu")
    if _has_gpu():
        say_once(f"the GPU is not used: {reason}; --device cpu asks for no GPU")
    return torch.device("cpu")


def unused_gpu() -> str | None:
    """Reason why `auto` leaves a GPU that is there; None if there is none, or it is used."""
    return why_no_cuda() if _has_gpu() else None


def _has_gpu() -> bool:
    """Whether torch finds a GPU, or would by a newer driver."""
    return torch.cuda.is_available() or (_old_driver() is not None and has_device_file())


def has_device_file() -> bool:
    """Whether the system has an NVIDIA GPU, as a file of its own or by Windows below it."""
    devices = Path("/dev")
    return any(devices.glob("nvidia[0-9]*")) or (devices / "dxg").exists()


@cache
def say_once(text: str) -> None:
    """Say something on stderr, the first time."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def describe_device(device: torch.device) -> str:
    """Name of a device for display: "cpu", or "cuda" with the GPU's name."""
    if device.type != "cuda":
        return device.type
    return f"{device} ({torch.cuda.get_device_name(device)})"


def why_no_cuda() -> str | None:
    """Reason why the ops cannot run on a GPU here, and the remedy; None if they can."""
    info = build_info()
    if torch.version.cuda is None:
        return f"torch {torch.__version__} has no CUDA; install a CUDA build of torch"
    if not info.cuda_archs:
        return (
            f"the native files of ekpnet_fast have no GPU code ({info.cuda_reason});"
            " put nvcc on PATH and build again: pip install --no-build-isolation ."
        )
    if not fits_cuda(info, torch.version.cuda):
        return (
            f"the GPU code was built by nvcc {info.cuda_compiler}, torch has CUDA"
            f" {torch.version.cuda}; build again with an nvcc of the same major version:"
            " pip install --no-build-isolation ."
        )
    if not torch.cuda.is_available():
        return _old_driver() or "torch finds no GPU; check the driver with nvidia-smi"
    driver = driver_cuda()
    if driver is not None and driver[0] < int(info.cuda_compiler.split(".")[0]):
        return (
            f"the GPU code was built by nvcc {info.cuda_compiler}, the driver runs CUDA"
            f" {driver[0]}.{driver[1]}; update the driver, or build again with an nvcc {driver[0]}:"
            " pip install --no-build-isolation ."
        )
    major, minor = torch.cuda.get_device_capability()
    if not covers(info.cuda_archs, major, minor):
        return (
            f"{torch.cuda.get_device_name()} is sm_{major}{minor}, built were"
            f" {', '.join(info.cuda_archs)}; build for it:"
            f' TORCH_CUDA_ARCH_LIST="{major}.{minor}" pip install --no-build-isolation .'
        )
    return None


def _old_driver() -> str | None:
    """Reason why torch finds no GPU: the driver is older than torch's CUDA; None if it is not."""
    driver, asked = driver_cuda(), torch.version.cuda
    if driver is None or asked is None or driver[0] >= int(asked.split(".")[0]):
        return None
    return (
        f"the driver runs CUDA {driver[0]}.{driver[1]}, torch {torch.__version__} has CUDA {asked};"
        f" update the driver, or install a torch for CUDA {driver[0]}"
    )


def driver_cuda() -> tuple[int, int] | None:
    """CUDA version that the driver runs, which may be later than torch's; None without a driver.

    It runs what any nvcc of its major version, or of an earlier one, built.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def covers(archs: list[str], major: int, minor: int) -> bool:
    """Whether code built for `archs` runs on a GPU of compute capability major.minor.

    Machine code (sm_xy) runs on the same major and any later minor number, code for a later
    assembler (compute_xy) on everything from there on; sm_90a and its like on that GPU alone,
    sm_100f and its like on the same major number.
    """
    for arch in archs:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)
        if found is None:
            continue
        kind, built_major, built_minor, only = found.groups()
        built = (int(built_major), int(built_minor))
        if only == "a":
            if built == (major, minor):
                return True
        elif kind == "sm" or only == "f":
            if built[0] == major and built[1] <= minor:
                return True
        elif built <= (major, minor):
            return True
    return False
