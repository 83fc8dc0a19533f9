"""Reference ops under torch.compile, for sizes that change from batch to batch."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import torch
import torch._inductor.config

from ekpnet_fast.ops import reference

NAMES = ("ripple_attention", "deep_score", "triple_loss", "row_adam_")


def compiled() -> SimpleNamespace:
    """Differentiable ops and optimizer of the reference, each compiled by itself."""
    # Benchmarks walk back through one graph many times, so its buffers may not be given away.
    torch._functorch.config.donated_buffer = False
    # Compiling processes would stay, and take time from what is measured later.
    torch._inductor.config.compile_threads = 1
    # Its trace of every compilation would be all that pytest has to show.
    logging.getLogger("torch.__trace").propagate = False
    return SimpleNamespace(
        **{name: torch.compile(getattr(reference, name), dynamic=True) for name in NAMES}
    )
