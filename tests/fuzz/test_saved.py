"""Every saved format, damaged: one line, or what was saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st

from ekpnet_fast.errors import ConfigError, DataError, EkpnetError
from ekpnet_fast.recommender import Recommender
from ekpnet_fast.recommender.store import FILES, FITTED_FILE, INDEX_FILE, MANIFEST
from ekpnet_fast.runs import runner, tune
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.storage import checkpoint
from ekpnet_fast.storage.yaml_file import read_yaml
from support.cinema import fitted
from support.fuzzing import damage, fuzzed, tell_seed

READ = tuple(name for name in (*FILES, MANIFEST) if name not in (INDEX_FILE, FITTED_FILE))
OF_A_RUN = ("config.yaml", "context.safetensors", "metrics.json", "model.safetensors")
SIZES = {"users": 60, "items": 80, "positives": 10, "attributes": 16, "parents": 4, "triples": 435}


@pytest.fixture(scope="module")
def recommender():
    return fitted(epochs=1)


@pytest.fixture(scope="module")
def clicked():
    """Recommender whose wide part was fitted to fewer clicks than it has."""
    found = fitted("linear")
    found.add_clicks({"zoe": ["alien", "dune"]})
    return found


@pytest.fixture(scope="module")
def folders(recommender, clicked, tmp_path_factory):
    """Saved recommenders, a run, a graph, checkpoints; and a place to damage copies of them."""
    root = tmp_path_factory.mktemp("saved")
    recommender.save(root / "recommender")
    clicked.save(root / "clicked")
    recommender.state.graph.save(root / "graph")
    run = {"epochs": 1, "ranking": False, "threads": 1, "synthetic": SIZES}
    runner.run({**run, "output": root / "run"})
    (root / "checkpoints").mkdir()
    with checkpoint.CheckpointWriter(root / "checkpoints", {"whose": "ours"}) as writer:
        for number in (1, 2):
            writer.save({"elapsed": 0}, {"x": torch.full((40,), float(number))})
    return root


def damaged(folder: Path, name: str, how) -> Path:
    """A copy of a folder, one file of which is damaged."""
    copy = folder.with_name("damaged")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    content = (copy / name).read_bytes()
    new = how(content)
    (copy / name).write_bytes(content + b"\0" if means(name, new) == means(name, content) else new)
    return copy


def means(name: str, content: bytes) -> object:
    """What a file says: JSON with other blanks is as good as before."""
    try:
        return json.loads(content) if name.endswith(".json") else content.split()
    except ValueError:
        return content


@fuzzed(name=st.sampled_from(READ), how=damage())
def test_recommenders(folders, recommender, name, how):
    tell_seed()
    copy = damaged(folders / "recommender", name, how)
    try:
        found = Recommender.load(copy)
    except EkpnetError as error:
        assert "\n" not in str(error) and str(copy) in str(error)
    else:
        assert name == MANIFEST  # spaces at the end of JSON say nothing
        assert found.recommend(user="ann") == recommender.recommend(user="ann")


@fuzzed(how=damage())
def test_what_a_wide_part_was_fitted_to(folders, clicked, how):
    tell_seed()
    assert Recommender.load(folders / "clicked").history("zoe") == clicked.history("zoe")
    copy = damaged(folders / "clicked", FITTED_FILE, how)
    with pytest.raises(DataError) as found:
        Recommender.load(copy)
    assert "\n" not in str(found.value) and str(copy) in str(found.value)


@fuzzed(name=st.sampled_from(OF_A_RUN), how=damage())
def test_runs(folders, name, how):
    tell_seed()
    with pytest.raises(EkpnetError) as found:
        Recommender.load(damaged(folders / "run", name, how))
    assert "\n" not in str(found.value)


@fuzzed(how=damage())
def test_graphs(folders, how):
    tell_seed()
    path = folders / "damaged graph"
    path.write_bytes(how((folders / "graph").read_bytes()))
    try:
        found = Graph.load(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert path.read_bytes() == (folders / "graph").read_bytes()
        assert found.num_triples > 0


@fuzzed(kind=st.sampled_from(("json", "safetensors")), how=damage())
def test_checkpoints(folders, kind, how):
    """The newest one that is whole."""
    tell_seed()
    copy = damaged(folders / "checkpoints", f"checkpoint-2.{kind}", how)
    told: list[str] = []
    found = checkpoint.latest(copy, told.append)
    assert found is not None and found.tensors["x"][0] == found.number
    assert found.number == 2 or len(told) == 1


def flat_yaml() -> st.SearchStrategy[str]:
    marks = (*"[]{},'\"#?|%\t\n", ": ", "- ", "  ", "&a ", "*a", "!!python/object:os.system ")
    words = st.sampled_from(("seed", "train", "lr", "null", "1e400", "9" * 5000, *marks))
    return st.lists(words | st.text(max_size=5), max_size=30).map("".join)


@fuzzed(text=flat_yaml() | st.integers(1, 3000).map(lambda n: "seed: " + "[" * n))
def test_yaml(folders, text):
    tell_seed()
    path = folders / "options.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        options = read_yaml(path)
    except DataError as error:
        assert str(path) in str(error) and len(str(error)) < 2100
        return
    if isinstance(options, dict):
        try:
            resolve({str(name): value for name, value in options.items()})
        except EkpnetError as error:
            assert "\n" not in str(error)


@fuzzed(text=flat_yaml())
def test_search_spaces(folders, text):
    tell_seed()
    path = folders / "space.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        tune.read_space(path)
    except ConfigError as error:
        assert len(str(error)) < 2100


@fuzzed(how=damage())
def test_journals_of_searches(folders, how):
    """What is left is whole lines."""
    tell_seed()
    path = folders / "study.log"
    whole = "".join(json.dumps({"op_code": n}) + "\n" for n in range(20)).encode()
    path.write_bytes(how(whole))
    told: list[str] = []
    try:
        tune.mend_journal(path, told.append)
    except DataError as error:
        assert str(path) in str(error)
        return
    content = path.read_bytes()
    assert all(isinstance(json.loads(line), dict) for line in content.splitlines())
    assert content.endswith(b"\n") or not content


IDS = st.text(max_size=4) | st.integers() | st.floats() | st.none() | st.binary(max_size=3)
THINGS = st.recursive(IDS, lambda x: st.lists(x, max_size=3) | st.dictionaries(IDS, x, max_size=3))


@fuzzed(items=THINGS, names=THINGS)
def test_changes_of_the_graph(recommender, items, names):
    """Refused, or an item more of an id that no other item has."""
    tell_seed()
    copy = recommender.snapshot()
    for change in (copy.graph.add_items, copy.graph.add_triples):
        try:
            change(items, names)
        except EkpnetError as error:
            assert "\n" not in str(error)
    ids = [str(item) for item in copy.item_ids()]
    assert len(set(ids)) == len(ids)
