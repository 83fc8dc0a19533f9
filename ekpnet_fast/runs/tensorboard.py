"""`--track DIR`: a run as TensorBoard shows it. Needs tensorboard (the extra `track`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from ekpnet_fast.errors import ConfigError
from ekpnet_fast.training.progress import Progress

__all__ = ["tracking"]


@contextmanager
def tracking(
    folder: Path, on_progress: Callable[[Progress], None], first: int
) -> Iterator[Callable[[Progress], None]]:
    """A progress callback that also writes each epoch's record for TensorBoard.

    Args:
        folder: where TensorBoard's files go.
        on_progress: told everything, too.
        first: the first epoch of the run, from 1, that will be told; what is there of it and of
            later ones, of a run that was stopped and is resumed, is taken back.

    Raises:
        ConfigError: tensorboard is missing, or the folder cannot be written.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "--track needs tensorboard, which is missing; pip install 'ekpnet_fast[track]'"
        ) from error
    try:
        writer = SummaryWriter(str(folder), purge_step=first if first > 1 else None)
    except OSError as error:
        raise ConfigError(f"--track {folder} cannot be written ({error.strerror})") from error
    number = first - 1

    def told(progress: Progress) -> None:
        nonlocal number
        on_progress(progress)
        if progress.record is None:
            return
        number += 1
        for name, value in asdict(progress.record).items():
            if name not in ("stage", "epoch") and math.isfinite(value):
                writer.add_scalar(f"{progress.stage}/{name}", value, number)
        writer.flush()

    try:
        yield told
    finally:
        writer.close()
