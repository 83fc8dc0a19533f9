"""TensorBoard's record of a run, `--track DIR`. Needs tensorboard (the extra `track`)."""

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
    """Progress callback that also writes each epoch's record for TensorBoard.

    Args:
        folder: of TensorBoard's files.
        on_progress: called with the same.
        first: the first epoch, from 1, that will be recorded; records of it and of later ones, of
            a run that was stopped and is resumed, are taken back.

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

    def record(progress: Progress) -> None:
        nonlocal number
        on_progress(progress)
        if progress.record is None:
            return
        number += progress.record.epoch > 0
        for name, value in asdict(progress.record).items():
            if name not in ("stage", "epoch") and math.isfinite(value):
                writer.add_scalar(f"{progress.stage}/{name}", value, number)
        writer.flush()

    try:
        yield record
    finally:
        writer.close()
