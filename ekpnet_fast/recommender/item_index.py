"""Index of a large catalogue: items in blocks of alike vectors, each with a representative.

An item's vector is its rows of the model's tables, side by side. Blocks come from cutting the
catalogue in two across the direction that its vectors vary most in, and the halves likewise, until
blocks of sqrt(I) / 8 items are left, 125 of a million, so that the exact scores of all
representatives are a small share of an answer. Nothing is drawn, and all is computed on one thread:
the same tables give the same index.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast.data.tables import Int32
from ekpnet_fast.errors import DataError
from ekpnet_fast.models import Model
from ekpnet_fast.ops.deterministic import one_thread
from ekpnet_fast.storage import tensor_file

REPRESENTATIVES = 8  # per square root of the number of items
NEIGHBOURS = 32  # blocks that the slope at a block is fitted to
RIDGE = 1e-3  # added to the squares of the fit to all blocks, whose vectors have variance 1
PRIOR = 10.0  # weight of the slope of all blocks where that at one is fitted
AT_ONCE = 1024  # blocks whose distances to all others are in memory
LATER = 8  # an index is made anew when more than 1 / LATER of an answer's candidates are behind it

Float = NDArray[np.float32]


class HasItems(Protocol):
    """What an index is made from: a state of a recommender."""

    @property
    def model(self) -> Model:
        """Model, whose tables have rows of items."""

    @property
    def tables(self) -> Mapping[str, Tensor]:
        """Tables by name."""

    @property
    def catalogue(self) -> Tensor:
        """Entity [I] int32 of each item."""


@dataclass(frozen=True, eq=False)
class ItemIndex:
    """Index of the first items of a catalogue, J of them in K blocks of L.

    Attributes:
        catalogue: [J] int32, the entities that it was made for.
        items: [K, L] int32, items by block; the first is the representative. Only the last block
            may be short: it is filled up by -1.
        vectors: [K, F, L] float32 their vectors, with mean 0 and variance 1; 0 where no item is.
        centres: [K, F] those of the representatives.
        spreads: [K, F] mean squares of the ways from a representative to its block's items.
        plane: [F + 1, K], gives of the representatives' scores the slope of the plane that fits
            them best, and its height at the origin.
        neighbours: [K, n] blocks with the nearest representatives.
        slopes: [K, n, F], gives of what the plane leaves over, as differences of the neighbours
            from a block, the change of slope there.
    """

    catalogue: Tensor
    items: Int32
    vectors: Float
    centres: Float
    spreads: Float
    plane: Float
    neighbours: NDArray[np.int64]
    slopes: Float

    @classmethod
    def build(cls, state: HasItems) -> ItemIndex:
        """Build it for all items of a state."""
        with one_thread():
            vectors = _scaled(item_vectors(state))
            return cls.of(state.catalogue, _blocks(vectors), vectors)

    @classmethod
    def of(
        cls,
        catalogue: Tensor,  # [J] int32
        items: Int32,  # [K, L]
        vectors: Float,  # [J, F]
    ) -> ItemIndex:
        """Index of blocks that are known."""
        rows = np.empty((len(items), vectors.shape[1], items.shape[1]), np.float32)
        for block, members in enumerate(items):
            rows[block] = np.where(members >= 0, vectors[members].T, np.float32(0))
        centres = np.ascontiguousarray(rows[:, :, 0])
        spreads = np.empty_like(centres)
        for block, (members, here) in enumerate(zip(items, rows, strict=True)):
            away = here[:, members >= 0] - here[:, :1]
            spreads[block] = np.square(away).mean(1)
        with one_thread():
            local = _local(centres)
            return cls(catalogue, items, rows, centres, spreads, _plane(centres), *local)

    def __len__(self) -> int:
        """Number of items, J."""
        return self.catalogue.numel()

    @property
    def representatives(self) -> Int32:
        """Representative [K] of each block, the item nearest to its mean."""
        return self.items[:, 0]

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(x.nbytes for x in vars(self).values())

    def fits(self, state: HasItems, candidates: int) -> bool:
        """Whether it serves a state: made for its first items, with few behind them."""
        return state.catalogue.numel() - len(self) <= max(1, candidates // LATER) and self.is_of(
            state
        )

    def is_of(self, state: HasItems) -> bool:
        """Whether it was made for the first items of a state's catalogue."""
        return torch.equal(state.catalogue[: len(self)], self.catalogue)


class IndexHolder:
    """Holder of the index that all states of a recommender share; it is built when first needed."""

    def __init__(self, index: ItemIndex | None = None) -> None:
        self._index = index
        self._lock = threading.Lock()

    def kept(self, state: HasItems) -> ItemIndex | None:
        """Index that was built or read last, if it is of a state's first items."""
        index = self._index
        return index if index is not None and index.is_of(state) else None

    def of(self, state: HasItems, candidates: int) -> ItemIndex:
        """Index for a state, built if the last one does not fit; other threads wait for it."""
        index = self._index
        if index is not None and index.fits(state, candidates):
            return index
        with self._lock:
            index = self._index
            if index is None or not index.fits(state, candidates):
                index = self._index = ItemIndex.build(state)
            return index


def block_size(num_items: int) -> int:
    """Number of items L of a block of the index of so many items."""
    return max(2, math.ceil(math.sqrt(num_items) / REPRESENTATIVES))


def item_vectors(state: HasItems) -> Float:
    """Vectors [I, F] of the items: their rows of every table of items.

    Of a row with two channels the first, which is the item's vector v.
    """
    parts = []
    for name, space in state.model.tables.items():
        if space in ("entity", "item"):
            rows = state.tables[name]
            rows = rows[:, 0] if rows.dim() == 3 else rows
            parts.append(rows[state.catalogue.to(rows.device)].detach().cpu().float())
    found: Float = torch.cat(parts, 1).numpy()
    return found


# ---- files ---------------------------------------------------------------------------------------


def write_index(path: Path, index: ItemIndex) -> None:
    """Write an index, vectors included, so that reading it is mapping it."""
    arrays = {**vars(index), "catalogue": index.catalogue.numpy()}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tensor_file.write(path, "item index", tensors, {})


def read_index(path: Path, catalogue: Tensor) -> ItemIndex:
    """Read the index of a catalogue [I].

    Raises:
        DataError: the file is damaged, or of another catalogue.
    """
    names = tuple(field.name for field in fields(ItemIndex))
    tensors, _ = tensor_file.read(path, "item index", "Recommender.save", tensors=names)
    arrays = {name: tensors[name].numpy() for name in names}
    items, neighbours = arrays["items"], arrays["neighbours"]
    (K, L), J = items.shape, len(arrays["catalogue"])
    F, n = arrays["vectors"].shape[1], neighbours.shape[1]
    shapes = {
        "vectors": (K, F, L),
        "centres": (K, F),
        "spreads": (K, F),
        "plane": (F + 1, K),
        "slopes": (K, n, F),
    }
    placed = np.zeros(J, dtype=bool)
    inside = items[(items >= 0) & (items < J)]
    placed[inside] = True
    if (
        not torch.equal(tensors["catalogue"], catalogue[:J])
        or any(arrays[name].shape != shape for name, shape in shapes.items())
        or not placed.all()
        or len(inside) != J
        or (items[:, 0] < 0).any()
        or (neighbours.size and not 0 <= neighbours.min() <= neighbours.max() < K)
    ):
        raise DataError(
            f"{path}: found blocks in which the {len(catalogue)} items of the catalogue are not"
            " each once, expected those that Recommender.save wrote beside it"
        )
    return ItemIndex(
        tensors["catalogue"],
        items,
        arrays["vectors"],
        arrays["centres"],
        arrays["spreads"],
        arrays["plane"],
        neighbours,
        arrays["slopes"],
    )


# ---- blocks --------------------------------------------------------------------------------------


def _scaled(vectors: Float) -> Float:
    """Vectors moved and divided by one number, so that together they have mean 0, variance 1."""
    moved = vectors - vectors.mean(0, dtype=np.float64).astype(np.float32)
    deviation = float(np.sqrt(np.square(moved).mean(dtype=np.float64)))
    moved /= np.float32(max(deviation, 1e-12))
    found: Float = moved
    return found


def _blocks(x: Float) -> Int32:
    """Items [K, L] by block."""
    size = block_size(len(x))
    found = np.full((-(-len(x) // size), size), -1, dtype=np.int32)
    waiting = [(0, np.arange(len(x), dtype=np.int32))]
    while waiting:
        block, items = waiting.pop()
        rows = x[items]
        rows -= rows.mean(0, dtype=np.float64).astype(np.float32)
        if len(items) <= size:
            distances = np.einsum("nf,nf->n", rows, rows)
            found[block, : len(items)] = items[np.argsort(distances, kind="stable")]
            continue
        here = torch.from_numpy(rows)
        _, directions = torch.linalg.eigh((here.T @ here).double())
        along = (here @ directions[:, -1].float()).numpy()
        # Whole blocks to the left, so that only the last one is short.
        left = size * (-(-len(items) // size) // 2)
        order = np.argpartition(along, left)
        waiting.append((block, items[order[:left]]))
        waiting.append((block + left // size, items[order[left:]]))
    return found


def _plane(centres: Float) -> Float:
    """Matrix [F + 1, K] of the plane through all representatives."""
    ones = np.ones((len(centres), 1), np.float32)
    x = torch.from_numpy(np.concatenate([centres, ones], 1)).double()
    found: Float = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]), x.T).float().numpy()
    return np.ascontiguousarray(found)


def _local(centres: Float) -> tuple[NDArray[np.int64], Float]:
    """Neighbours [K, n] of each block, and the matrices [K, n, F] of their slopes."""
    x = torch.from_numpy(centres)
    count, width = x.shape
    n = min(NEIGHBOURS, count - 1)
    neighbours = torch.empty(count, n, dtype=torch.int64)
    slopes = torch.empty(count, n, width)
    half = x.square().sum(1) / 2
    for first in range(0, count, AT_ONCE):
        part = slice(first, first + AT_ONCE)
        distances = torch.addmm(half, x[part], x.T, alpha=-1)
        distances[torch.arange(len(distances)), torch.arange(count)[part]] = torch.inf
        neighbours[part] = distances.topk(n, largest=False).indices
        away = x[neighbours[part]] - x[part, None]
        squares = away.mT @ away + PRIOR * torch.eye(width)
        slopes[part] = torch.linalg.solve(squares, away.mT).mT
    return neighbours.numpy(), slopes.numpy()
