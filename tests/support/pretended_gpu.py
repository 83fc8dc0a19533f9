"""Pretended GPU: tensors that call themselves cuda:0, lie on the host, and refuse what it refuses.

It shows, without a GPU, where tensors of two devices meet, where the host would wait for the device
or copy to it, which operations have no CUDA kernel, and what may not be in a captured step.
Operations compute on the CPU, so results are those of the CPU's ops; times mean nothing.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from ekpnet_fast.native import device as native_device
from support.places import ROOT

GPU = torch.device("cuda", 0)
# Operators whose result the host reads, or whose shape depends on values: both wait.
WAITING = {
    *("_local_scalar_dense", "nonzero", "unique2", "_unique2", "unique_dim", "unique_consecutive"),
    *("masked_select", "masked_scatter_backward", "equal", "is_nonzero", "bincount", "argwhere"),
    *("repeat_interleave", "unique_dim_consecutive", "histc"),
}
KNOWN_SIZE = {"repeat_interleave": "output_size"}  # with which they do not wait
DRAWING = {"uniform_", "normal_", "random_", "bernoulli_", "rand", "randn", "randperm", "randint"}
COPYING = {"copy_", "_to_copy"}
# Operators that read some rows of their first argument, as our own read some of a table.
READS_ROWS = {"index_select", "index", "gather", "embedding"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}  # take indices of the host


class RefusedError(RuntimeError):
    """Refusal of what a GPU cannot do."""


class GpuTensor(torch.Tensor):
    """Tensor of the pretended GPU, around one of the host."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> GpuTensor:
        """Wrap a tensor of the host."""
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device="cpu",  # torch without CUDA has no guard for the other
        )
        made.held = held
        return made

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self):
        return f"GpuTensor({self.held})"

    def data_ptr(self):
        return self.held.data_ptr()

    def get_device(self):
        return 0

    def is_pinned(self):
        return False

    def cpu(self):
        return torch.ops.aten._to_copy.default(self, device=torch.device("cpu"))

    def cuda(self, *_, **__):
        return self

    def to(self, *args, **kwargs):
        given = [*args, *kwargs.values()]
        dtype = next((x for x in given if isinstance(x, torch.dtype)), None)
        named = [torch.device(x) for x in given if isinstance(x, (torch.device, str))]
        if named and named[0].type == "cpu":
            options = {} if dtype is None else {"dtype": dtype}
            return torch.ops.aten._to_copy.default(self, device=torch.device("cpu"), **options)
        return self if dtype is None else super().to(dtype)

    def numpy(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if _current is None:
            raise RefusedError(f"{func} of a tensor whose pretended GPU is gone")
        return _current.run(func, args, kwargs or {})


class Graph:
    """What torch.cuda.CUDAGraph is: operations, run again on the same memory."""

    def __init__(self):
        self.steps: list[tuple[Any, Any, Any, Any]] = []
        self.bytes = 0  # that a replay reads and writes, as in `PretendedGpu.counts`

    def replay(self):
        with torch.no_grad(), _disable_current_modes():
            for func, args, kwargs, outputs in self.steps:
                fresh = tree_leaves(func(*args, **kwargs))
                for old, new in zip(tree_leaves(outputs), fresh, strict=True):
                    if isinstance(old, Tensor) and old.numel() and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class PretendedGpu(TorchDispatchMode):
    """Mode in which the device cuda:0 is pretended.

    Attributes:
        counts: launches, waits and copies to the device, and bytes that launches read and write,
            since it was last cleared; of tables that our ops work on, none.
        graphs: the steps captured so far.
    """

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.graphs: list[Graph] = []
        self._graph: Graph | None = None
        self._before: dict[int, tuple[Any, Any]] = {}  # memory that a capture wrote to
        bindings = (ROOT / "csrc" / "bindings").glob("*_cuda.cpp")
        self._ops = set(re.findall(r'm\.impl\("(\w+)"', "".join(x.read_text() for x in bindings)))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.run(func, args, kwargs or {})

    def run(self, func, args, kwargs):
        """Run an operator on the CPU, if a GPU could run it."""
        name = func.name().split("::")[1].split(".")[0]
        if func.namespace == "ekpnet" and name.endswith("_backward"):
            # Autograd makes up gradients that nobody has where the tensor really is.
            args = tree_map(_made_up, args)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_gpu = [x for x in tensors if isinstance(x, GpuTensor)]
        named = kwargs.get("device")
        to_gpu = named is not None and torch.device(named).type == "cuda"
        kwargs = {key: x for key, x in kwargs.items() if key != "pin_memory"}
        if not on_gpu and not to_gpu:
            return func(*args, **kwargs)
        to_host = on_gpu and (
            (name == "_to_copy" and named is not None and not to_gpu)
            or (name == "copy_" and not isinstance(args[0], GpuTensor))
        )
        from_host = name in COPYING and not to_host and len(on_gpu) < len(tensors)
        if on_gpu and name not in COPYING:
            args = self._same_device(func, name, args, tensors)
        waits = bool(to_host) or self._waits_for_indices(name, args)
        waits |= name in WAITING and kwargs.get(KNOWN_SIZE.get(name, "")) is None
        self._count(func, name, waits, from_host)
        held, options = tree_map(_held, args), tree_map(_held, kwargs)
        if to_gpu:
            options["device"] = torch.device("cpu")
        if self._graph is not None:
            self._remember(func, held, options)
        result = func(*held, **options)
        of_it = _bytes(func, name, held, options, result)
        self.counts["bytes"] += of_it
        if self._graph is not None:
            self._graph.bytes += of_it
        if name == "_to_copy" and result.data_ptr() == held[0].data_ptr():
            result = result.clone()
        if self._graph is not None:
            self._graph.steps.append((func, held, options, result))
        if to_host or name == "_local_scalar_dense":
            return result
        if _writes(func):
            known = {id(_held(x)): x for x in tensors}
            return tree_map(lambda x: known.get(id(x), x), result)
        return tree_map(lambda x: GpuTensor(x) if isinstance(x, Tensor) else x, result)

    def moved(self, tensor, dtype=None):
        """Copy of a host's tensor on the GPU."""
        func, options = torch.ops.aten._to_copy.default, {"device": GPU}
        return self.run(func, (tensor.detach(),), {**options, "dtype": dtype or tensor.dtype})

    @contextmanager
    def capture(self, graph, stream=None, capture_error_mode=None, pool=None):
        """Stand for torch.cuda.graph: what runs in it is recorded, and has no effect."""
        self._graph, self._before = graph, {}
        self.graphs.append(graph)
        try:
            yield
        finally:
            self._graph = None
            with _disable_current_modes():
                for storage, copy in self._before.values():
                    storage.copy_(copy)

    def _same_device(self, func, name, args, tensors):
        """Refuse tensors of the host beside those of the GPU; numbers are no tensors."""
        wrong = [x for x in tensors if not isinstance(x, GpuTensor)]
        if name in INDEXING:
            value = args[2] if len(args) > 2 else None
            wrong = [x for x in wrong if x is args[0] or (x is value and x.dim())]
        elif func.namespace == "ekpnet":
            if name not in self._ops:
                raise RefusedError(f"no CUDA kernel: {name}")
        else:
            wrong = [x for x in wrong if x.dim() or name in ("stack", "cat")]
        if wrong and name in ("stack", "cat") and not any(x.any() for x in wrong):
            return tree_map(_made_up, args)
        if wrong:
            raise RefusedError(
                f"tensors of two devices in {func}: {[(x.device, x.shape) for x in tensors]}"
            )
        return args

    def _waits_for_indices(self, name, args):
        if name not in INDEXING:
            return False
        given = [x for x in args[1] if isinstance(x, Tensor)]
        return any(x.dtype == torch.bool or not isinstance(x, GpuTensor) for x in given)

    def _count(self, func, name, waits, from_host):
        if self._graph is not None:
            what = "a wait" if waits else "a copy" if from_host else "a draw"
            if waits or from_host or name in DRAWING:
                raise RefusedError(f"{what} in a captured step: {func}")
        self.counts["waits"] += waits
        self.counts["copies"] += from_host
        self.counts["launches"] += not func.is_view and name not in ("detach", "_unsafe_view")

    def _remember(self, func, args, kwargs):
        """Keep what the operator will write to; a real capture writes nothing."""
        for argument, x in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tree_leaves(x):
                    storage = tensor.untyped_storage()
                    if storage.data_ptr() not in self._before:
                        self._before[storage.data_ptr()] = (storage, storage.clone())


def _bytes(func, name, args, kwargs, result):
    if func.is_view or name in ("detach", "_unsafe_view"):
        return 0
    read = args[1:] if name in READS_ROWS else (args, kwargs)
    if func.namespace == "ekpnet":
        read = ()
    return sum(x.nbytes for x in tree_leaves((read, result)) if isinstance(x, Tensor))


def _held(x):
    return x.held if isinstance(x, GpuTensor) else x


def _made_up(x):
    made_up = isinstance(x, Tensor) and not isinstance(x, GpuTensor) and not x.any()
    return GpuTensor(x) if made_up else x


def _writes(func):
    return any(x.alias_info is not None and x.alias_info.is_write for x in func._schema.arguments)


class _Event:
    def __init__(self, enable_timing=False):
        pass

    def record(self):
        self.at = time.perf_counter()

    def elapsed_time(self, later):
        return 1e3 * (later.at - self.at)


class _Stream:
    def __init__(self, *_):
        pass

    def wait_stream(self, other):
        pass


_current: PretendedGpu | None = None


@contextmanager
def pretended_gpu() -> Iterator[PretendedGpu]:
    """The pretended GPU, as long as the block runs; `--device cuda` takes it."""
    global _current
    gpu = PretendedGpu()
    tensor_of, to = torch.tensor, torch.Tensor.to

    def tensor(*args, device=None, **options):
        made = tensor_of(*args, **options)
        return made if device is None or torch.device(device).type == "cpu" else made.to(GPU)

    def moved(self, *args, **options):
        # Torch without CUDA refuses this before it asks the mode.
        given = [*args, *options.values()]
        named = [torch.device(x) for x in given if isinstance(x, (torch.device, str))]
        if not named or named[0].type == "cpu":
            return to(self, *args, **options)
        return gpu.moved(self, next((x for x in given if isinstance(x, torch.dtype)), None))

    stands_for: dict[str, Any] = dict(
        _lazy_init=lambda: None,
        is_available=lambda: True,
        current_device=lambda: 0,
        set_device=lambda _: None,
        get_device_name=lambda *_: "pretended GPU",
        synchronize=lambda *_: None,
        empty_cache=lambda: None,
        Stream=_Stream,
        current_stream=lambda *_: _Stream(),
        stream=lambda _: nullcontext(),
        CUDAGraph=Graph,
        Event=_Event,
        reset_peak_memory_stats=lambda *_: None,
        memory_allocated=lambda *_: 0,
        max_memory_allocated=lambda *_: 0,
        graph=gpu.capture,
    )
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with pytest.MonkeyPatch.context() as patch, gpu:
            for name, value in stands_for.items():
                patch.setattr(torch.cuda, name, value)
            patch.setattr(torch, "tensor", tensor)
            patch.setattr(torch.Tensor, "to", moved)
            patch.setattr(torch.Tensor, "cuda", lambda self: gpu.moved(self))
            patch.setattr(torch.Tensor, "pin_memory", lambda self, *_: self.clone())
            patch.setattr(native_device, "why_no_cuda", lambda: None)
            _current = gpu
            yield gpu
    finally:
        _current = None
        torch.__future__.set_overwrite_module_params_on_conversion(before)
