"""Context of a run: written, read, and refused where it is damaged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ekpnet_fast.data import Interactions, prepare
from ekpnet_fast.errors import DataError
from ekpnet_fast.runs.context_file import TABLES, RunContext
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.storage import tensor_file
from support.cinema import FILMS, LIKES, RELATIONS, cinema

TENSORS = ("history_indptr", "history_items", "consumed_indptr", "consumed_items")


def context_of(dataset, *, inverse=True):
    prepared = prepare(dataset, 0)
    return RunContext.of(prepared, Graph.from_dataset(dataset, inverse=inverse))


def same(a, b):
    for name in TENSORS:
        assert getattr(a, name).dtype == getattr(b, name).dtype
        assert torch.equal(getattr(a, name), getattr(b, name))
    for name in ("indptr", "relations", "tails"):
        assert torch.equal(getattr(a.graph, name), getattr(b.graph, name))
    counts = ("num_entities", "num_relations", "inverse")
    assert [getattr(a.graph, x) for x in counts] == [getattr(b.graph, x) for x in counts]
    for table, kind in TABLES.items():
        assert (a.ids[table].ids, a.ids[table].names) == (b.ids[table].ids, b.ids[table].names)
        assert a.ids[table].kind == b.ids[table].kind == kind
    return (a.numbered, a.data_hash) == (b.numbered, b.data_hash)


@pytest.mark.parametrize("inverse", [False, True])
def test_written_and_read(tmp_path, inverse):
    context = context_of(cinema(), inverse=inverse)
    context.write(tmp_path)
    found = RunContext.read(tmp_path)
    assert same(found, context)
    assert found.ids["items"].ids == FILMS and found.ids["relations"].ids == RELATIONS
    assert not any(found.numbered.values())


def test_numbers_and_any_text(tmp_path):
    texts = ("Amélie\n", "", "龍", "🎬 x", "a", " ")
    dataset = replace(cinema(), user_ids=None, item_ids=None, item_names=texts, entity_names=None)
    context = context_of(dataset)
    context.write(tmp_path)
    found = RunContext.read(tmp_path)
    assert same(found, context)
    assert found.ids["items"].ids == tuple("012345") and found.ids["items"].names == texts
    assert found.ids["entities"].names is None
    assert found.numbered == {"users": True, "items": True, "entities": False, "relations": False}


def test_what_users_have_touched():
    """Positives of labelled examples, of the whole data set; every interaction where there are."""
    dataset = cinema(repeats=1)
    context = context_of(dataset)
    likes = [item for liked in LIKES.values() for item in liked]
    assert context.consumed_items.tolist() == likes
    assert context.consumed_indptr.tolist() == np.cumsum([0, *map(len, LIKES.values())]).tolist()
    users, items = np.repeat(np.arange(5, dtype=np.int32), 2), np.tile(np.int32([1, 4]), 5)
    clicks = Interactions(users, items, np.tile([True, False], 5))
    touched = context_of(replace(dataset, rows=None, interactions=clicks))
    assert touched.consumed_items.tolist() == [1, 4] * 5


def rewritten(folder, facts=None, **changes):
    """Write the file again with other tensors or facts."""
    path = folder / "context.safetensors"
    tensors, known = tensor_file.read(path, "context", "a test")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()} | changes
    known.pop("kind")
    tensor_file.write(path, "context", tensors, known | (facts or {}))


def counts(**changes):
    return {"counts": {"users": 20, "items": 6, "entities": 10, "relations": 3} | changes}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            {"history_items": torch.tensor([99] * 31, dtype=torch.int32)},
            "found ids in history_items",
        ),
        ({"history_indptr": torch.zeros(3, dtype=torch.int64)}, "found 3 history_indptr, expected"),
        (
            {"tails": torch.zeros(3, dtype=torch.int32)},
            "found 11 row .* and 3 tails, expected 11 row",
        ),
        ({"facts": {"num_entities": 11}}, "found 11 row pointers, .*, expected 12 row"),
        ({"facts": counts(items=7)}, r"found 6 texts of .* in items\.ids, expected 7"),
        ({"users.ids": torch.zeros(2, dtype=torch.uint8)}, r"20 texts of 2 characters in users"),
        ({"items.names": torch.tensor([255], dtype=torch.uint8)}, r"items\.names is not readable"),
    ],
)
def test_damaged(tmp_path, damage, message):
    context_of(cinema()).write(tmp_path)
    rewritten(tmp_path, **damage)
    with pytest.raises(DataError, match=rf"context\.safetensors: {message}|{message}"):
        RunContext.read(tmp_path)


def test_ids_beyond_the_items(tmp_path):
    context = context_of(cinema())
    context.consumed_items[0] = 6
    context.write(tmp_path)
    with pytest.raises(DataError, match=r"context\.safetensors: found ids in consumed_items bey"):
        RunContext.read(tmp_path)


def test_no_context(tmp_path):
    (tmp_path / "context.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match=r"context\.safetensors: not a readable context file"):
        RunContext.read(tmp_path)
