"""Choice of what shares the tables, and whether it can be had."""

from __future__ import annotations

from importlib import metadata

from ekpnet_fast.config import ParallelConfig
from ekpnet_fast.errors import ConfigError

__all__ = ["check_backend"]

_TRIED = {"2.13": "1.8.0"}  # minor versions of torch, and the one of TorchRec and FBGEMM for each
_FBGEMM = ("fbgemm-gpu-cpu", "fbgemm-gpu")


def check_backend(parallel: ParallelConfig, size: int) -> None:
    """Check that so many processes can share tables by the backend that is asked for.

    Raises:
        ConfigError: they cannot; says what is expected.
    """
    if parallel.table == "rows":
        return
    if size == 1:
        raise ConfigError(
            "--parallel.table is torchrec, but there is one process; expected two or more, which"
            " torchrun starts"
        )
    torch = metadata.version("torch")
    minor = ".".join(torch.split(".")[:2])
    if minor not in _TRIED:
        raise ConfigError(
            f"--parallel.table is torchrec, but torch is {torch}; expected"
            f" {' or '.join(_TRIED)}, with which TorchRec was tried"
        )
    wanted = _TRIED[minor]
    torchrec, fbgemm = _version("torchrec"), _version(*_FBGEMM)
    if (torchrec, fbgemm) != (wanted, wanted):
        raise ConfigError(
            f"--parallel.table is torchrec: found torchrec {torchrec or 'missing'} and fbgemm-gpu"
            f" {fbgemm or 'missing'}, expected {wanted} of both with torch {torch}: pip install"
            f" 'ekpnet_fast[torchrec]' && pip install --no-deps torchrec=={wanted}"
        )


def _version(*distributions: str) -> str | None:
    """Version of the first distribution that is installed, without what its build adds."""
    for name in distributions:
        try:
            return metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return None
