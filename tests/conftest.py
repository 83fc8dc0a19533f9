"""Fixtures that several test files share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from support.devices import GPUS, Cpu, EmulatedGpu, RealGpu, build_emulated_gpu
from support.places import ROOT

# For the tests of benchmarks/; last, so that an installed ekpnet_fast stays the one that is tested.
sys.path.append(str(ROOT))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets; skips where there is none."""
    named = os.environ.get("EKPNET_DATA")
    root = Path(named) if named else ROOT.parent / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"no real data: {root} is no folder (set EKPNET_DATA)")
    return root


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's threads; afterwards there are as many as before."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> EmulatedGpu:
    """The CUDA kernels, compiled for the host and run thread by thread."""
    root = tmp_path_factory.getbasetemp()
    # Processes of one parallel run share the folder above their own.
    shared = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    return EmulatedGpu(build_emulated_gpu(shared / "emulated"))


@pytest.fixture(params=["cpu", *GPUS])
def device(request: pytest.FixtureRequest) -> Cpu | EmulatedGpu | RealGpu:
    """The CPU, the emulated GPU, and a real one, which skips where there is none."""
    if request.param == "emulated":
        return request.getfixturevalue("emulated")
    return Cpu() if request.param == "cpu" else RealGpu()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, visibly."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, torch finds none"))
