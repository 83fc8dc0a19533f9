"""Knowledge graph in memory and on disk: triples grouped by head (CSR)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast import ops
from ekpnet_fast.data import Dataset
from ekpnet_fast.errors import DataError
from ekpnet_fast.storage import tensor_file


@dataclass(frozen=True)
class Graph:
    """Triples by head: those of head e are positions indptr[e] .. indptr[e + 1].

    Attributes:
        indptr: [E + 1] int64.
        relations: [T] uint8, int16 or int32, the smallest that holds R.
        tails: [T] int32.
        num_entities: E.
        num_relations: R, inverse relations counted.
        inverse: whether (t, r + R / 2, h) was added for each (h, r, t).
    """

    indptr: Tensor
    relations: Tensor
    tails: Tensor
    num_entities: int
    num_relations: int
    inverse: bool

    @property
    def num_triples(self) -> int:
        """Number of triples T, inverse ones counted."""
        return self.tails.numel()

    def relations_between(self, head: int, tail: int) -> list[int]:
        """Relations of the triples that lead from one entity to another."""
        first, last = int(self.indptr[head]), int(self.indptr[head + 1])
        found: list[int] = self.relations[first:last][self.tails[first:last] == tail].tolist()
        return found

    @classmethod
    def from_triples(
        cls,
        heads: np.ndarray,  # [T] int32
        relations: np.ndarray,  # [T] int32
        tails: np.ndarray,  # [T] int32
        num_entities: int,
        num_relations: int,
        *,
        inverse: bool = False,
    ) -> Graph:
        """Group triples by head; with `inverse` each one is also walked backwards.

        Raises:
            DataError: ids that are no integers or out of range; names the column and position.
        """
        h = _ids("heads", heads, num_entities)
        r = _ids("relations", relations, num_relations)
        t = _ids("tails", tails, num_entities)
        if inverse:
            h, r, t = torch.cat([h, t]), torch.cat([r, r + num_relations]), torch.cat([t, h])
            num_relations *= 2
        csr = ops.build_csr(h, r, t, num_entities, num_relations)
        return cls(*csr, num_entities, num_relations, inverse)

    @classmethod
    def from_dataset(cls, dataset: Dataset, *, inverse: bool = False) -> Graph:
        """Graph of a data set; that which its files hold is mapped, not made.

        Of a mapped graph nothing is read here: samplers check what they read of it.
        """
        stored = dataset.graph
        if stored is not None and stored.inverse == inverse:
            indptr, relations, tails = (
                torch.from_numpy(column)
                for column in (stored.indptr, stored.relations, stored.tails)
            )
            ops.leave_checks_to_samplers(indptr, tails)
            return cls(
                indptr, relations, tails, dataset.num_entities, stored.num_relations, inverse
            )
        return cls.from_triples(
            dataset.heads,
            dataset.relations,
            dataset.tails,
            dataset.num_entities,
            dataset.num_relations,
            inverse=inverse,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file."""
        tensors = {"indptr": self.indptr, "relations": self.relations, "tails": self.tails}
        tensor_file.write(
            path,
            "graph",
            tensors,
            {
                "num_entities": self.num_entities,
                "num_relations": self.num_relations,
                "inverse": self.inverse,
            },
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, checked: bool = False) -> Graph:
        """Open a saved graph; its arrays stay on disk and are mapped, so this takes milliseconds.

        Args:
            path: the file.
            checked: that the file is as it was written is known already.

        Raises:
            DataError: the file is missing, damaged, or no saved graph.
        """
        tensors, facts = tensor_file.read(
            path,
            "graph",
            "Graph.save",
            tensors=("indptr", "relations", "tails"),
            facts=("num_entities", "num_relations", "inverse"),
            checked=checked,
        )
        return cls.stored(path, tensors, facts)

    @classmethod
    def stored(
        cls,
        path: str | os.PathLike[str],
        tensors: Mapping[str, Tensor],
        facts: Mapping[str, Any],
    ) -> Graph:
        """Graph of a file's tensors and facts, each row pointer and id of which is checked.

        Raises:
            DataError: it is no graph; names the file.
        """
        expected = {"num_entities": int, "num_relations": int, "inverse": bool}
        for name, kind in expected.items():
            if type(facts[name]) is not kind or facts[name] < 0:
                raise DataError(f"{path}: found {name} {facts[name]!r}, expected {kind.__name__}")
        graph = cls(
            tensors["indptr"],
            tensors["relations"],
            tensors["tails"],
            num_entities=facts["num_entities"],
            num_relations=facts["num_relations"],
            inverse=facts["inverse"],
        )
        of_ids = (torch.uint8, torch.int16, torch.int32)
        for name, kinds in (
            ("indptr", (torch.int64,)),
            ("relations", of_ids),
            ("tails", (torch.int32,)),
        ):
            found = tensors[name]
            if found.dim() != 1 or found.dtype not in kinds:
                raise DataError(
                    f"{path}: found {name} {list(found.shape)} of {found.dtype}, expected one row"
                    f" of {' or '.join(map(str, kinds))}"
                )
        if len(graph.indptr) != graph.num_entities + 1 or len(graph.relations) != len(graph.tails):
            raise DataError(
                f"{path}: found {len(graph.indptr)} row pointers, {len(graph.relations)} relations"
                f" and {len(graph.tails)} tails, expected {graph.num_entities + 1} row pointers"
                " and as many relations as tails"
            )
        check_rows(path, "indptr", graph.indptr, len(graph.tails))
        check_ids(path, "relations", graph.relations, graph.num_relations)
        check_ids(path, "tails", graph.tails, graph.num_entities)
        return graph


def check_rows(
    path: str | os.PathLike[str],
    name: str,
    indptr: Tensor,  # [n + 1]
    total: int,
) -> None:
    """Check the row pointers of a file, because native code indexes with them.

    Raises:
        DataError: they do not rise from 0 to the total.
    """
    fits = indptr.dim() == 1 and indptr.dtype == torch.int64 and len(indptr) > 0
    if not fits or indptr[0] != 0 or indptr[-1] != total:
        shown = f"{int(indptr[0])} to {int(indptr[-1])}" if fits else f"{indptr.dtype}"
        raise DataError(f"{path}: found {name} of {shown}, expected 0 to {total}")
    falls = indptr[1:] < indptr[:-1]
    if bool(falls.any()):
        at = int(falls.nonzero()[0])
        raise DataError(
            f"{path}: found {name} that falls from {int(indptr[at])} to {int(indptr[at + 1])} at"
            f" position {at + 1}, expected rising values"
        )


def check_ids(path: str | os.PathLike[str], name: str, ids: Tensor, limit: int) -> None:
    """Check the ids [n] of a file.

    Raises:
        DataError: one is out of range.
    """
    if ids.dim() != 1 or ids.is_floating_point():
        raise DataError(f"{path}: found {name} of {ids.dtype}, expected a row of ids")
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < limit:
        raise DataError(f"{path}: found ids in {name} beyond {limit - 1}")


def _ids(name: str, ids: np.ndarray, limit: int) -> Tensor:
    """Column of ids as an int32 tensor of its own."""
    if ids.dtype.kind not in "iu":
        raise DataError(f"{name} is {ids.dtype}, expected integer ids")
    if len(ids) and (ids.min() < 0 or ids.max() >= limit):
        at = int(np.flatnonzero((ids < 0) | (ids >= limit))[0])
        raise DataError(f"{name} holds id {ids[at]} at position {at}, expected 0 <= id < {limit}")
    # torch warns of arrays that it may not write to, such as those of a file reader.
    return torch.from_numpy(np.require(ids, dtype=np.int32, requirements=("C", "W")))
