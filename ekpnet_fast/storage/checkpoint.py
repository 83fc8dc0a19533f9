"""Checkpoints: from the last one a run goes on to the same bits as if nothing had happened.

`checkpoint-N.safetensors`   tensors: `model.*`, `best.*` (the stage's best epoch so far),
                             `optimizer.*` (moments of the tables, Adam's state and step counts of
                             the rest), `rng.model` (the one generator that a model holds)
`checkpoint-N-shard-K.safetensors`   the same of shard K of the tables, where a run is trained in
                             parts; the process that has the shard writes it
`checkpoint-N.json`          written last: a hash of itself, and size and hash of the others, so
                             that what is truncated or has rotted is found; the configuration, the
                             hash of the data, versions, epoch records, and the position of the run

Hardly any state of random numbers is needed, because every draw of training is a function of
(seed, epoch, batch): the seed is in the configuration, epoch and batch in `progress.Position`.

The last two are kept. A file is written beside its place, brought to the disk and renamed, and the
folder with it, before the checkpoint before the last is removed. Writing happens in a thread of its
own, from a copy, while the next epoch computes.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ekpnet_fast.errors import DataError
from ekpnet_fast.native.build import __version__
from ekpnet_fast.storage import tensor_file
from ekpnet_fast.storage.files import to_json, write_text, write_whole
from ekpnet_fast.storage.seals import check_files, read_json, seal_files, text_hash

__all__ = ["Checkpoint", "CheckpointWriter", "Seals", "latest", "read", "remove_all"]

FORMAT = "ekpnet_fast.checkpoint/2"
KEPT = 2
Seals = dict[str, Any]
"""By the name of a file what it must be, as the JSON file says it."""

_NAME = re.compile(r"checkpoint-(\d+)(-shard-\d+)?\.(json|safetensors)")


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoint read from disk.

    Attributes:
        path: its JSON file.
        facts: those given to `CheckpointWriter.save`, and those that it added.
        tensors: by name.
    """

    path: Path
    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def number(self) -> int:
        """Number N of its file name."""
        return int(self.path.stem.removeprefix("checkpoint-"))

    def named(self, prefix: str) -> dict[str, Tensor]:
        """Tensors `prefix.*`, without the prefix."""
        start = f"{prefix}."
        found = self.tensors.items()
        return {name.removeprefix(start): x for name, x in found if name.startswith(start)}

    def shard(self, number: int) -> dict[str, Tensor]:
        """Tensors of a shard, by name.

        Raises:
            DataError: there is none, or it is not as it was written.
        """
        path = _shard(self.path.parent, self.number, number)
        check_files(self.path, self.facts["tensors"], [path.name])
        return tensor_file.read(path, "checkpoint", "a training run", checked=True)[0]


class CheckpointWriter:
    """Writer of the checkpoints of a run into its folder; a context manager.

    Args:
        folder: of the run.
        identity: facts that all its checkpoints share, such as the configuration.
        every: epochs from one checkpoint to the next; 0 for none but where the run is stopped.
        start: the checkpoint that the run goes on from.
        stopped: the signal that stops the run, None without one.
        first: whether this process is the one that writes; another one of the same run writes
            shards only.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        *,
        every: int = 1,
        start: Checkpoint | None = None,
        stopped: Callable[[], int | None] = lambda: None,
        first: bool = True,
    ) -> None:
        self.folder, self._first = folder, first
        self.every = every
        self.start = start
        self.stopped = stopped
        self._identity = dict(identity)
        self._next = 1
        self._earlier: float = 0.0 if start is None else start.facts["elapsed"]
        self.resumed: int = 0 if start is None else start.facts["resumed"] + 1
        self._started = time.perf_counter()
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._given_up = Event()
        if start is not None:
            self._next = start.number + 1
        if first:
            for other in [number for number in _numbers(folder, "*") if number >= self._next]:
                _remove(folder, other)

    def __enter__(self) -> CheckpointWriter:
        """Return the writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the checkpoint being written; raise its error unless there is one already."""
        if error is not None:
            self._given_up.set()
        self._pool.shutdown()
        if error is None:
            self.finish()

    @property
    def elapsed(self) -> float:
        """Seconds of the run in this process and those before, up to their last checkpoints."""
        return self._earlier + time.perf_counter() - self._started

    def due(self, epoch: int) -> bool:
        """Whether the end of an epoch, counted from 1, is to be saved."""
        return self.every > 0 and epoch % self.every == 0

    def save(
        self,
        facts: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        shards: Mapping[int, Mapping[str, Tensor]] | None = None,
        sealed: Callable[[Seals, Event], Seals] = lambda seals, given_up: seals,
    ) -> None:
        """Copy a state and start to write it.

        Args:
            facts: JSON-serialisable.
            tensors: by name; they may change once this returns.
            shards: by number the tensors of those that this process writes; they must not change.
            sealed: called with the seals of these once they are written, in another thread; gives
                the first process those of all shards. The event says that nobody waits any more.

        Raises:
            ConfigError: the checkpoint before this one could not be written.
        """
        self.finish()
        copies = {}
        if self._first:
            copies = {name: x.detach().to("cpu", copy=True) for name, x in tensors.items()}
        added = {"elapsed": self.elapsed, "resumed": self.resumed}
        facts = {**self._identity, **facts, **added}
        self._writing = self._pool.submit(
            self._write, self._next, facts, copies, shards or {}, sealed
        )
        self._next += 1

    def finish(self) -> None:
        """Wait until the last checkpoint saved is on the disk.

        Raises:
            ConfigError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(
        self,
        number: int,
        facts: dict[str, Any],
        tensors: Mapping[str, Tensor],
        shards: Mapping[int, Mapping[str, Tensor]],
        sealed: Callable[[Seals, Event], Seals],
    ) -> None:
        seals: Seals = {}
        for shard, of_shard in shards.items():
            seals |= _write_tensors(_shard(self.folder, number, shard), of_shard)
        seals = sealed(seals, self._given_up)
        if not self._first:
            return
        path = self.folder / f"checkpoint-{number}.safetensors"
        found = {**_write_tensors(path, tensors), **seals}
        versions = {"format": FORMAT, "version": __version__, "torch": torch.__version__}
        content = to_json({**versions, "tensors": found, **facts})
        whole = {"sha256": text_hash(content), "checkpoint": content}
        write_text(path.with_suffix(".json"), json.dumps(whole, indent=1, allow_nan=False) + "\n")
        for old in _numbers(self.folder):
            if old <= number - KEPT:
                _remove(self.folder, old)


def read(folder: Path, number: int) -> Checkpoint:
    """Checkpoint of a number, but for its shards, which are checked when they are read.

    Raises:
        DataError: there is none, or it is damaged.
    """
    return _read(folder / f"checkpoint-{number}.json", shards=False)


def latest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Newest checkpoint of a folder that is whole; None where there is none at all.

    Args:
        folder: of a run.
        warn: called with a text for each damaged file.

    Raises:
        DataError: there are checkpoints, and none of them is whole.
    """
    problems = []
    for number in sorted(_numbers(folder), reverse=True):
        try:
            found = _read(folder / f"checkpoint-{number}.json")
        except DataError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warn(f"{problem}; falling back to {found.path.name}")
        return found
    if problems:
        raise DataError(
            f"{folder}: no checkpoint is whole, expected one to go on from; {'; '.join(problems)};"
            " start anew with --overwrite"
        )
    return None


def remove_all(folder: Path) -> None:
    """Remove the checkpoints of a folder."""
    for path in folder.glob("checkpoint-*"):
        if _NAME.fullmatch(path.name):
            path.unlink()


def _numbers(folder: Path, kind: str = "json") -> set[int]:
    """Numbers of a folder's checkpoints; tensors without JSON are unfinished and do not count."""
    found = (_NAME.fullmatch(path.name) for path in folder.glob(f"checkpoint-*.{kind}"))
    return {int(match[1]) for match in found if match}


def _remove(folder: Path, number: int) -> None:
    # Without its JSON it is no checkpoint any more.
    (folder / f"checkpoint-{number}.json").unlink(missing_ok=True)
    for path in folder.glob(f"checkpoint-{number}*.safetensors"):
        match = _NAME.fullmatch(path.name)
        if match and int(match[1]) == number:
            path.unlink(missing_ok=True)


def _shard(folder: Path, number: int, shard: int) -> Path:
    return folder / f"checkpoint-{number}-shard-{shard}.safetensors"


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Seals:
    """Write tensors whole; returns the file's seal by its name."""
    found: Seals = {}

    def write(part: Path) -> None:
        tensor_file.write(part, "checkpoint", dict(tensors), {})
        found.update(seal_files(part.parent, [part.name]))

    write_whole(path, write)
    return found


def _read(path: Path, *, shards: bool = True) -> Checkpoint:
    """Checkpoint of which every byte is as it was written.

    Raises:
        DataError: it is not; names the file and what is wrong.
    """
    try:
        whole = read_json(path, "a checkpoint")
    except DataError as error:
        raise DataError(f"{path}: damaged, {str(error).removeprefix(f'{path}: ')}") from error
    content = whole.get("checkpoint")
    if not isinstance(content, dict) or whole.get("sha256") != text_hash(content):
        raise DataError(f"{path}: damaged, its hash is another")
    if content.get("format") != FORMAT:
        raise DataError(f"{path}: found format {content.get('format')!r}, expected {FORMAT!r}")
    tensors = path.with_suffix(".safetensors")
    seals = content.get("tensors")
    names = list(seals) if shards and isinstance(seals, dict) else []
    check_files(path, seals, {tensors.name, *names})
    found, _ = tensor_file.read(tensors, "checkpoint", "a training run", checked=True)
    return Checkpoint(path, content, {name: x.clone() for name, x in found.items()})
