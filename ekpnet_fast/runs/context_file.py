"""File `context.safetensors` of a run: what its model is asked with beside the weights.

The graph, the histories, what users have touched, and the ids. With it a run is a recommender
without its data set, which can take seconds to read and to split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ekpnet_fast.data.ids import Ids, id_maps
from ekpnet_fast.data.pair_keys import history_of
from ekpnet_fast.data.tables import Dataset, Examples, PreparedData
from ekpnet_fast.errors import DataError
from ekpnet_fast.runs.run_folder import CONTEXT_FILE
from ekpnet_fast.sampling.graph import Graph, check_ids, check_rows
from ekpnet_fast.sampling.pairs import history_tensors
from ekpnet_fast.storage import tensor_file
from ekpnet_fast.storage.files import write_whole

__all__ = ["TABLES", "RunContext"]

TABLES = {"users": "user", "items": "item", "entities": "entity", "relations": "relation"}

_KIND, _ORIGIN = "context", "a training run"
_BLOCK = 1 << 18  # texts that are packed together
_GRAPH = ("indptr", "relations", "tails")
_HISTORIES = ("history_indptr", "history_items", "consumed_indptr", "consumed_items")


@dataclass(frozen=True, eq=False)
class RunContext:
    """Context of a trained model.

    Attributes:
        graph: the graph of training.
        history_indptr, history_items: [U + 1] int64 and int32, train histories.
        consumed_indptr, consumed_items: [U + 1] int64 and int32, sorted items that each user has
            touched in the whole data set.
        ids: of users, items, entities and relations; of relations without the inverse.
        numbered: by table, whether the data set has no ids but the numbers themselves.
        data_hash: of the data (`PreparedData.hash`).
    """

    graph: Graph
    history_indptr: Tensor
    history_items: Tensor
    consumed_indptr: Tensor
    consumed_items: Tensor
    ids: Mapping[str, Ids]
    numbered: Mapping[str, bool]
    data_hash: str

    @classmethod
    def of(cls, prepared: PreparedData, graph: Graph) -> RunContext:
        """Context of a model that is trained on these data."""
        dataset = prepared.dataset
        maps = id_maps(dataset)
        numbered = {
            "users": dataset.user_ids is None,
            "items": dataset.item_ids is None,
            "entities": dataset.entity_ids is None,
            "relations": dataset.relation_ids is None and dataset.relation_names is None,
        }
        histories = dict(
            zip(_HISTORIES, (*history_tensors(prepared), *_touched(dataset)), strict=True)
        )
        return cls(
            graph,
            **histories,
            ids={table: getattr(maps, table) for table in TABLES},
            numbered=numbered,
            data_hash=prepared.hash,
        )

    def write(self, folder: Path) -> None:
        """Write the file into a run's folder.

        Raises:
            ConfigError: it cannot be written.
        """
        tensors = {name: getattr(self.graph, name) for name in _GRAPH}
        tensors |= {name: getattr(self, name) for name in _HISTORIES}
        for table, ids in self.ids.items():
            if not self.numbered[table]:
                tensors |= _packed(f"{table}.ids", ids.ids)
            if ids.names is not None:
                tensors |= _packed(f"{table}.names", ids.names)
        facts = {
            "num_entities": self.graph.num_entities,
            "num_relations": self.graph.num_relations,
            "inverse": self.graph.inverse,
            "counts": {table: len(ids) for table, ids in self.ids.items()},
            "data_hash": self.data_hash,
        }
        write_whole(
            folder / CONTEXT_FILE, lambda path: tensor_file.write(path, _KIND, tensors, facts)
        )

    @classmethod
    def read(cls, folder: Path) -> RunContext:
        """Read the file of a run's folder, checked before; graph and histories are mapped.

        Raises:
            DataError: it is damaged, or of another kind.
        """
        path = folder / CONTEXT_FILE
        tensors, facts = tensor_file.read(
            path,
            _KIND,
            _ORIGIN,
            tensors=(*_GRAPH, *_HISTORIES),
            facts=("num_entities", "num_relations", "inverse", "counts", "data_hash"),
            checked=True,
        )
        graph = Graph.stored(path, tensors, facts)
        ids, numbered = {}, {}
        for table, kind in TABLES.items():
            count = facts["counts"][table]
            own = _unpacked(path, tensors, f"{table}.ids", count)
            numbered[table] = own is None
            ids[table] = Ids(
                kind,
                tuple(map(str, range(count))) if own is None else own,
                _unpacked(path, tensors, f"{table}.names", count),
            )
        found = cls(
            graph,
            **{name: tensors[name] for name in _HISTORIES},
            ids=ids,
            numbered=numbered,
            data_hash=facts["data_hash"],
        )
        found._check(path)
        return found

    def _check(self, path: Path) -> None:
        """Check that the parts fit each other, because native code indexes with their numbers."""
        users, items = len(self.ids["users"]), len(self.ids["items"])
        graph = self.graph
        for name, found, expected in (
            ("entities", len(self.ids["entities"]), graph.num_entities),
            ("relations", len(self.ids["relations"]) * (1 + graph.inverse), graph.num_relations),
            ("history_indptr", len(self.history_indptr), users + 1),
            ("consumed_indptr", len(self.consumed_indptr), users + 1),
        ):
            if found != expected:
                raise DataError(f"{path}: found {found} {name}, expected {expected}")
        for name in ("history", "consumed"):
            numbers = getattr(self, f"{name}_items")
            check_rows(path, f"{name}_indptr", getattr(self, f"{name}_indptr"), len(numbers))
            check_ids(path, f"{name}_items", numbers, items)


def _touched(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Items that each user has touched: positives of labelled examples, or all interactions."""
    if dataset.rows is not None:
        examples = dataset.rows
    else:
        clicks = dataset.interactions
        assert clicks is not None
        examples = Examples(clicks.users, clicks.items, np.ones(len(clicks), dtype=np.int8))
    indptr, items = history_of(examples, dataset.num_users, dataset.num_items)
    return torch.from_numpy(indptr), torch.from_numpy(items)


def _packed(name: str, texts: Sequence[str]) -> dict[str, Tensor]:
    """Texts end to end in UTF-8, and their lengths in characters; a block of them is held."""
    joined, lengths, left = bytearray(), np.empty(len(texts), dtype=np.int32), iter(texts)
    for start in range(0, len(texts), _BLOCK):
        block = list(islice(left, _BLOCK))
        joined += "".join(block).encode()
        lengths[start : start + len(block)] = [*map(len, block)]
    characters = torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0).byte()
    return {name: characters, f"{name}.lengths": torch.from_numpy(lengths)}


def _unpacked(
    path: Path, tensors: Mapping[str, Tensor], name: str, count: int
) -> tuple[str, ...] | None:
    """Texts that `_packed` wrote; None where it wrote none.

    Raises:
        DataError: another number of texts, or of characters.
    """
    if name not in tensors:
        return None
    try:
        joined = tensors[name].numpy().tobytes().decode()
        ends = np.cumsum(tensors[f"{name}.lengths"].numpy(), dtype=np.int64)
    except (KeyError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {name} is not readable ({error})") from error
    if len(ends) != count or (count and int(ends[-1]) != len(joined)):
        raise DataError(
            f"{path}: found {len(ends)} texts of {len(joined)} characters in {name}, expected"
            f" {count} that their lengths add up to"
        )
    return tuple(joined[a:b] for a, b in pairwise([0, *ends.tolist()]))
