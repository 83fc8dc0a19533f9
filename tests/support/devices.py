"""Devices of the ops, all called with CPU tensors: the CPU, an emulated GPU, a real one.

The emulated GPU runs the CUDA kernels' own source thread by thread on the host (tests/csrc). A test
that takes the fixture `device` runs on all three; `on_gpus` keeps it to two, and `sized` gives it
sizes besides.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ekpnet_fast import build_info, ops
from ekpnet_fast.ops import optimizer, prediction
from support.places import PACKAGE, ROOT, SUPPORT
from support.problems import flat
from support.programs import PATIENCE, tool

# Ops with a gradient, and how many of their first arguments have one.
DIFFERENTIABLE = {"ripple_attention": 4, "deep_score": 5, "triple_loss": 2}
# Ops with an option to keep the tensors of their gradient, and return them; `call` hides both.
KEEPING = {"deep_score"}


class Cpu:
    """Ops of the library on the CPU."""

    name = "cpu"

    def call(self, name, *arguments, **options):
        return _op(name)(*arguments, **options)

    def gradients(self, problem, **options):
        """Results of `ops.ekpnet_gradients` one after the other."""
        terms, drows, dense = ops.ekpnet_gradients(*problem, **options)
        return [terms, drows, *dense]


class EmulatedGpu:
    """Ops of the emulated GPU, differentiable where those of the library are."""

    name = "emulated"

    def __init__(self, path: Path) -> None:
        torch.ops.load_library(str(path))
        self.path = path
        self.ops = torch.ops.ekpnet_emulated
        self._library = ctypes.CDLL(str(path))
        self._library.emulated_launches.restype = ctypes.c_int64

    @property
    def launches(self):
        """Kernels launched so far."""
        return self._library.emulated_launches()

    def gradients(self, problem, **options):
        with self.in_place_of_the_cpu():
            return Cpu().gradients(problem, **options)

    @contextmanager
    def in_place_of_the_cpu(self):
        """Context in which the ops of a training step call the kernels."""
        with pytest.MonkeyPatch.context() as patch:
            for module in (prediction, optimizer):
                patch.setattr(module, "ekpnet", self.ops)
            yield

    def call(self, name, *arguments, **options):
        if name in _SCHEMA:
            arguments = _SCHEMA[name](*arguments, **options)
        if name not in DIFFERENTIABLE:
            return getattr(self.ops, name)(*arguments)
        return _with_gradient(self.ops, name).apply(*arguments)


class RealGpu:
    """Ops of the library on cuda:0, called with copies on the GPU."""

    name = "cuda"

    def call(self, name, *arguments, **options):
        moved = [x.cuda() if isinstance(x, Tensor) else x for x in arguments]
        result = _op(name)(*moved, **options)
        if result is None:  # an op that works in place
            for x, y in zip(arguments, moved, strict=True):
                if isinstance(x, Tensor):
                    x.copy_(y)
            return None
        return result.cpu() if isinstance(result, Tensor) else tuple(x.cpu() for x in result)

    def gradients(self, problem, **options):
        moved = tree_map_only(Tensor, Tensor.cuda, problem)
        return [x.cpu() for x in Cpu().gradients(moved, **options)]


def _op(name):
    """Op of the library, with its tensors one by one as the schema has them."""
    if name == "list_loss":  # whose gradient is an output of the schema
        return torch.ops.ekpnet.list_loss
    op = getattr(ops, name)
    return flat(op) if name in ("ripple_attention", "ripple_attention_weights") else op


def _schema_of_row_adam(*tensors, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, l2=0.0, seed=0):
    numbers = torch.as_tensor(step), torch.as_tensor(l2, dtype=torch.float64)
    return (*tensors, *numbers, lr, beta1, beta2, eps, seed)


# Arguments that `ops` makes for an op whose schema has others.
_SCHEMA = {
    "deep_score": lambda *layers: (*layers[:5], ops.ACTIVATIONS.index(layers[5])),
    "row_adam_": _schema_of_row_adam,
}

# ---- where a test runs ---------------------------------------------------------------------------

GPUS = ["emulated", pytest.param("cuda", marks=pytest.mark.cuda)]
on_gpus = pytest.mark.parametrize("device", GPUS, indirect=True)


def sized(sizes, *, sample, on_gpus=None):
    """Parametrise `device` and `size`.

    Args:
        sizes: the options of a problem by its name.
        sample: names of those that the emulated GPU, which is slow, gets in every run of the tests.
        on_gpus: names of those that GPUs get at all; None means all of them.
    """
    on_gpus = list(sizes) if on_gpus is None else on_gpus
    assert set(sample) <= set(on_gpus) <= set(sizes)
    cases = [pytest.param("cpu", size, id=f"cpu-{name}") for name, size in sizes.items()]
    for name in on_gpus:
        slow = [] if name in sample else [pytest.mark.slow]
        cases += [
            pytest.param("emulated", sizes[name], id=f"emulated-{name}", marks=slow),
            pytest.param("cuda", sizes[name], id=f"cuda-{name}", marks=pytest.mark.cuda),
        ]
    return pytest.mark.parametrize(("device", "size"), cases, indirect=["device"])


# ---- the emulated GPU ----------------------------------------------------------------------------


def _with_gradient(namespace, name):
    forward, backward = getattr(namespace, name), getattr(namespace, f"{name}_backward")

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *arguments):
            ctx.arguments, ctx.kept = arguments, ()
            if name not in KEEPING:
                return forward(*arguments)
            result, *ctx.kept = forward(*arguments, True)
            return result

        @staticmethod
        def backward(ctx, *upstream):
            upstream = [x.contiguous() for x in upstream]
            gradients = backward(*upstream, *ctx.kept, *ctx.arguments)
            return (*gradients, *[None] * (len(ctx.arguments) - DIFFERENTIABLE[name]))

    return Function


def build_emulated_gpu(folder: Path) -> Path:
    """Build the library into the folder, once for any number of test processes."""
    folder.mkdir(exist_ok=True)
    library = folder / "libekpnet_emulated.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if library.exists():
            return library
        cmake = tool("cmake")
        configure = [
            *(cmake, "-S", ROOT, "-B", folder, "-G", "Ninja"),
            *("-DEKPNET_CUDA=OFF", "-DEKPNET_TESTS=ON", f"-DPython_EXECUTABLE={sys.executable}"),
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
        ]
        for command in (configure, [cmake, "--build", folder, "--target", "ekpnet_emulated"]):
            done = subprocess.run(
                [str(word) for word in command], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
    return library


# ---- other processes -----------------------------------------------------------------------------


def under_isa(isa, directory, function, argument):
    """Call function(device, argument) in a process whose ops use the instruction set, on its CPU.

    The choice is made once per process. `function` is a test module's own, by name; argument and
    result are what `torch.save` takes.
    """
    if isa not in build_info().isas_supported:
        pytest.skip(f"this processor does not run {isa}")
    used, value = _elsewhere(
        directory, function, argument, "", EKPNET_CPU_ISA=isa, OMP_NUM_THREADS="1"
    )
    assert used == isa
    return value


def under_other_order(library, directory, function, argument):
    """Call function(device, argument) in a process whose emulated GPU draws other orders.

    Of blocks, and of threads between two barriers. They must not matter; where they do, threads
    race for memory.
    """
    return _elsewhere(directory, function, argument, str(library), EKPNET_EMULATION_SEED="2")[1]


def _elsewhere(directory, function, argument, library, **changes):
    given, result = directory / "given.pt", directory / "result.pt"
    torch.save(argument, given)
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    code = (
        "import sys, torch, ekpnet_fast; sys.path.insert(0, sys.argv[1]);"
        "from support import devices, places; module, library = sys.argv[2], sys.argv[4];"
        "device = devices.EmulatedGpu(library) if library else devices.Cpu();"
        "function = getattr(places.module_of(module), sys.argv[3]);"
        "value = function(device, torch.load(sys.argv[5]));"
        "torch.save((ekpnet_fast.build_info().isa, value), sys.argv[6])"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, str(SUPPORT.parent)),
            *(function.__code__.co_filename, function.__name__, library, str(given), str(result)),
        ],
        env={**os.environ, "PYTHONPATH": path, **changes},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(result)
