"""Where a run computes, and what is said where it cannot."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import ekpnet_fast
from ekpnet_fast import train
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.native import device

BUILT = ["sm_80", "sm_90", "compute_90"]


@pytest.mark.parametrize(
    ("archs", "capability", "expected"),
    [
        (BUILT, (8, 0), True),
        (BUILT, (8, 6), True),  # same major number, later minor one
        (BUILT, (9, 0), True),
        (BUILT, (10, 0), True),  # translated by the driver
        (BUILT, (7, 5), False),
        (["sm_86"], (8, 0), False),
        (["sm_90"], (10, 0), False),
        (["sm_90a"], (9, 0), True),
        (["sm_90a"], (9, 1), False),
        (["sm_120"], (12, 0), True),
        (["sm_100f", "compute_100f"], (10, 3), True),
        (["sm_100f", "compute_100f"], (12, 0), False),
        ([], (9, 0), False),
    ],
)
def test_covers(archs, capability, expected):
    assert device.covers(archs, *capability) is expected


def built(monkeypatch, **facts):
    info = replace(ekpnet_fast.build_info(), cuda_compiler="13.0.88", **facts)
    monkeypatch.setattr(device, "build_info", lambda: info)


def test_cpu_needs_nothing(monkeypatch):
    built(monkeypatch, cuda_archs=[])
    assert device.resolve_device("cpu") == torch.device("cpu")


def with_gpu(monkeypatch, capability):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(device, "driver_cuda", lambda: (13, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)


def test_auto_takes_a_gpu_that_was_built_for(monkeypatch):
    built(monkeypatch, cuda_archs=BUILT)
    with_gpu(monkeypatch, (9, 0))
    for name in ("auto", "cuda"):
        assert device.resolve_device(name) == torch.device("cuda", 0)
    assert device.describe_device(torch.device("cuda", 0)) == "cuda:0 (Some GPU)"


def test_gpu_that_was_not_built_for(monkeypatch):
    built(monkeypatch, cuda_archs=BUILT)
    with_gpu(monkeypatch, (7, 5))
    assert device.resolve_device("auto") == torch.device("cpu")
    with pytest.raises(
        ConfigError, match=r'sm_75, built were sm_80.*TORCH_CUDA_ARCH_LIST="7.5" pip install'
    ):
        device.resolve_device("cuda")


def test_auto_says_once_why_a_gpu_is_not_used(monkeypatch, capsys):
    device.say_once.cache_clear()
    built(monkeypatch, cuda_archs=[], cuda_reason="no CUDA compiler (nvcc) was found")
    with_gpu(monkeypatch, (9, 0))
    for _ in range(2):
        assert device.resolve_device("auto") == torch.device("cpu")
    said = capsys.readouterr().err
    assert said.count("note: the GPU is not used: the native files of ekpnet_fast have no GPU") == 1
    assert "put nvcc on PATH" in said and said.count("\n") == 1
    assert device.unused_gpu() == device.why_no_cuda() is not None
    assert device.resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device.say_once.cache_clear()
    assert device.resolve_device("auto") == torch.device("cpu")
    assert capsys.readouterr().err == "" and device.unused_gpu() is None


def test_native_files_without_gpu_code(monkeypatch):
    built(monkeypatch, cuda_archs=[], cuda_reason="no CUDA compiler (nvcc) was found")
    with_gpu(monkeypatch, (9, 0))
    with pytest.raises(ConfigError, match=r"no GPU code \(no CUDA compiler .*put nvcc on PATH"):
        device.resolve_device("cuda")


def test_gpu_code_with_the_runtime_of_another_cuda(monkeypatch):
    built(monkeypatch, cuda_archs=BUILT, cuda_runtime="shared")
    with_gpu(monkeypatch, (9, 0))
    assert device.why_no_cuda() is None
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(ConfigError, match=r"built by nvcc 13.0.88, torch has CUDA 12.8; build"):
        device.resolve_device("cuda")


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        ((13, 0), None),
        ((14, 1), None),
        (None, None),  # cannot be asked
        ((12, 9), "nvcc 13.0.88, the driver runs CUDA 12.9; update the driver, or build again"),
    ],
)
def test_gpu_code_with_its_own_runtime_asks_the_driver(monkeypatch, driver, expected):
    """Whatever CUDA torch has."""
    built(monkeypatch, cuda_archs=BUILT, cuda_runtime="static")
    with_gpu(monkeypatch, (9, 0))
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(device, "driver_cuda", lambda: driver)
    found = device.why_no_cuda()
    assert found is None if expected is None else expected in found


@pytest.mark.parametrize("there", [True, False])
def test_driver_that_is_older_than_torch(monkeypatch, capsys, there):
    """By which torch finds no GPU."""
    device.say_once.cache_clear()
    built(monkeypatch, cuda_archs=BUILT)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "driver_cuda", lambda: (12, 4))
    monkeypatch.setattr(device, "has_device_file", lambda: there)
    expected = f"the driver runs CUDA 12.4, torch {torch.__version__} has CUDA 13.0; update the"
    for _ in range(2):
        assert device.resolve_device("auto") == torch.device("cpu")
    said = capsys.readouterr().err
    assert said.count(expected) == said.count("\n") == (1 if there else 0)
    assert device.unused_gpu() == (device.why_no_cuda() if there else None)
    with pytest.raises(ConfigError, match="install a torch for CUDA 12, or use --device cpu"):
        device.resolve_device("cuda")
    monkeypatch.setattr(device, "driver_cuda", lambda: (13, 0))
    assert device.why_no_cuda() == "torch finds no GPU; check the driver with nvidia-smi"


def test_version_of_the_driver(monkeypatch):
    def asked(version):
        version._obj.value = 13010
        return 0

    driver = SimpleNamespace(cuDriverGetVersion=asked)
    monkeypatch.setattr(device.ctypes, "CDLL", lambda name: driver)
    assert device.driver_cuda() == (13, 1)
    driver.cuDriverGetVersion = lambda version: 100  # no GPU
    assert device.driver_cuda() is None

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(device.ctypes, "CDLL", missing)
    assert device.driver_cuda() is None


def test_torch_without_gpu(monkeypatch):
    built(monkeypatch, cuda_archs=BUILT)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch finds no GPU"):
        device.resolve_device("cuda")


def test_torch_without_cuda(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.version, "cuda", None)
    # Told before any data are read.
    assert train.main(["--device", "cuda", "--data_root", str(tmp_path), "--dataset", "none"]) == 2
    message = capsys.readouterr().err
    assert "--device cuda: torch" in message and "or use --device cpu" in message
