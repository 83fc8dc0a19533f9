"""The CUDA ops on CPU tensors: through the emulated GPU, and through a real one where there is one.

The emulated GPU runs the kernels' own source thread by thread on the host (tests/csrc).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import ekpnet_fast
from ekpnet_fast import ops
from support.places import ROOT

# Ops with a gradient, and how many of their first arguments have one.
DIFFERENTIABLE = {"ripple_attention": 4, "deep_score": 5, "triple_loss": 2}
# Ops that are asked to keep what their gradient needs, and return it too; `call` hides both.
KEEPING = {"deep_score"}


class EmulatedGpu:
    """Ops of the emulated GPU by name, differentiable where those of the library are."""

    name = "emulated"

    def __init__(self, library: Path) -> None:
        torch.ops.load_library(str(library))
        self.library = library
        self.ops = torch.ops.ekpnet_emulated

    def call(self, name, *arguments):
        """The op on CPU tensors."""
        if name not in DIFFERENTIABLE:
            return getattr(self.ops, name)(*arguments)
        return _with_gradient(self.ops, name).apply(*arguments)


class RealGpu:
    """Ops of the library on cuda:0; takes and gives CPU tensors."""

    name = "cuda"

    def call(self, name, *arguments):
        """The op on copies on the GPU."""
        moved = [x.cuda() if isinstance(x, Tensor) else x for x in arguments]
        if name in KEEPING:
            return getattr(torch.ops.ekpnet, name)(*moved, True)[0].cpu()
        result = getattr(torch.ops.ekpnet, name)(*moved)
        if result is None:  # an op that works in place
            for x, y in zip(arguments, moved, strict=True):
                if isinstance(x, Tensor):
                    x.copy_(y)
            return None
        return result.cpu() if isinstance(result, Tensor) else tuple(x.cpu() for x in result)


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
    """Build the library into the folder, once, whatever number of test processes ask for it."""
    folder.mkdir(exist_ok=True)
    library = folder / "libekpnet_emulated.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if library.exists():
            return library
        cmake = _tool("cmake")
        configure = [
            *(cmake, "-S", ROOT, "-B", folder, "-G", "Ninja"),
            *("-DEKPNET_CUDA=OFF", "-DEKPNET_TESTS=ON", f"-DPython_EXECUTABLE={sys.executable}"),
            f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}",
        ]
        for command in (configure, [cmake, "--build", folder, "--target", "ekpnet_emulated"]):
            done = subprocess.run(
                [str(word) for word in command], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
    return library


def _tool(name):
    found = shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here")
    return found


def under_other_order(library, directory, function, argument):
    """function(gpu, argument) in a process whose emulated GPU runs threads in reverse order.

    Between two barriers the order must not matter; where it does, threads race for memory.
    `function` is a test module's own, by name; argument and result are what `torch.save` takes.
    """
    given, result = directory / "given.pt", directory / "result.pt"
    torch.save(argument, given)
    package_root = str(Path(ekpnet_fast.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); from support import gpus, places;"
        "module = places.module_of(sys.argv[2]);"
        "gpu = gpus.EmulatedGpu(sys.argv[4]);"
        "value = getattr(module, sys.argv[3])(gpu, torch.load(sys.argv[5]));"
        "torch.save(value, sys.argv[6])"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, str(ROOT / "tests")),
            *(function.__code__.co_filename, function.__name__, str(library)),
            *(str(given), str(result)),
        ],
        env={**os.environ, "EKPNET_EMULATION_ORDER": "backwards", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(result)


assert ops is not None  # loads the library whose ops RealGpu calls
