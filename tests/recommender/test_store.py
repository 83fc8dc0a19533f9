"""Folders of recommenders and of runs, which need nothing else."""

from __future__ import annotations

import json
import shutil

import pytest

from ekpnet_fast.data.formats.imported import write_imported
from ekpnet_fast.errors import ConfigError, DataError
from ekpnet_fast.models import MODELS
from ekpnet_fast.recommender import Recommender
from ekpnet_fast.runs import runner
from ekpnet_fast.runs.options import parse_command
from ekpnet_fast.storage.tensor_file import read, write
from support.cinema import cinema, fitted
from support.sealing import reseal

WORDS = ["--epochs", "1", "--shape.width", "4", "--shape.slots", "8", "--ranking", "false"]


@pytest.mark.parametrize("model", MODELS)
def test_saved_and_loaded(model, tmp_path):
    recommender = fitted(model, epochs=1)
    recommender.save(tmp_path / "r")
    loaded = Recommender.load(tmp_path / "r", device="cpu")
    assert loaded.recommend(user="ann") == recommender.recommend(user="ann")
    assert loaded.recommend_batch() == recommender.recommend_batch()
    assert loaded.user_ids() == recommender.user_ids()
    assert loaded.explain("ann", "eden") == recommender.explain("ann", "eden")
    assert loaded.history("ann") == recommender.history("ann")


def test_with_live_changes(tmp_path):
    recommender = fitted()
    recommender.graph.add_items(
        {"gladiator": [("directed by", "m/ridley"), ("genre", "m/epic")]}, names={"m/epic": "Epic"}
    )
    recommender.graph.remove_triples([("m/dune", "genre", "m/scifi")])
    recommender.save(tmp_path / "r")
    loaded = Recommender.load(tmp_path / "r")
    history = ["alien", "gladiator"]
    assert loaded.recommend(history=history, k=9) == recommender.recommend(history=history, k=9)
    assert loaded.explain(history=history, item="blade") == recommender.explain(
        history=history, item="blade"
    )
    for each in (recommender, loaded):  # what was added follows its triples afterwards too
        each.graph.remove_triples([("gladiator", "directed by", "m/ridley")])
    assert loaded.recommend(history=history) == recommender.recommend(history=history)


def test_numbers_stay_numbers(numbered, tmp_path):
    numbered.save(tmp_path / "r")
    loaded = Recommender.load(tmp_path / "r")
    assert loaded.recommend(user=3) == numbered.recommend(user=3)
    assert type(loaded.recommend(user=3)[0].item) is int


@pytest.fixture
def trained(tmp_path):
    """A run's folder, and its data set."""
    data = tmp_path / "data" / "cinema"
    write_imported(cinema(), data, {}, overwrite=False)
    words = ["--dataset", "cinema", "--data-root", str(data.parent), *WORDS]
    runner.run(parse_command([*words, "--output", str(tmp_path / "run")]).config)
    return tmp_path / "run", data


def test_a_run_is_a_recommender(trained, tmp_path, monkeypatch):
    folder, data = trained
    recommender = Recommender.load(folder)
    best = recommender.recommend(user="ann")
    assert best[0].name in {"Casablanca", None}
    recommender.save(tmp_path / "alone")
    shutil.rmtree(data)
    monkeypatch.chdir(tmp_path)
    for place in (folder, "alone"):
        assert Recommender.load(place).recommend(user="ann") == best


def test_a_run_without_its_context_reads_the_data_again(trained, tmp_path):
    folder, data = trained
    stored = Recommender.load(folder)
    (folder / "context.safetensors").unlink()
    shutil.move(data.parent, tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"data root .* is no folder"):
        Recommender.load(folder)
    found = Recommender.load(folder, data_root=tmp_path / "elsewhere")
    assert found.recommend_batch() == stored.recommend_batch()
    assert found.explain("ann", "eden") == stored.explain("ann", "eden")
    assert found.user_ids() == stored.user_ids() and found.item_ids() == stored.item_ids()
    before, after = stored.state, found.state
    assert [n.ids.names for n in (before.items, before.entities, before.relations)] == [
        n.ids.names for n in (after.items, after.entities, after.relations)
    ]


def test_a_run_on_other_data(trained):
    folder, data = trained
    frame = json.loads((data / "dataset.json").read_text())
    assert frame["users"] == 20
    best = Recommender.load(folder).recommend(user="ann")
    write_imported(cinema(repeats=5), data, {}, overwrite=True)
    assert Recommender.load(folder).recommend(user="ann") == best
    (folder / "context.safetensors").unlink()
    with pytest.raises(DataError, match=r"does not fit|trained on data with hash"):
        Recommender.load(folder)


def test_places_that_are_taken(tmp_path):
    recommender = fitted()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    with pytest.raises(ConfigError, match="other: found other files, expected a new folder"):
        recommender.save(tmp_path / "other")
    recommender.save(tmp_path / "r")
    with pytest.raises(ConfigError, match="holds a recommender; say overwrite=True"):
        recommender.save(tmp_path / "r")
    recommender.graph.add_items({"heat": [("genre", "m/drama")]})
    recommender.save(tmp_path / "r", overwrite=True)
    assert "heat" in Recommender.load(tmp_path / "r").item_ids()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "r"]


def test_what_is_no_recommender(tmp_path):
    with pytest.raises(DataError, match=r"found neither recommender\.json nor metrics\.json"):
        Recommender.load(tmp_path)
    with pytest.raises(DataError, match="found neither"):
        Recommender.load(tmp_path / "nowhere")


def _manifest(folder, **changes):
    reseal(folder / "recommender.json", **changes)


def _history(folder):
    path = folder / "state.safetensors"
    tensors, _ = read(path, "state", "a test")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    tensors["history_items"][0] = 99
    write(path, "state", tensors, {})
    reseal(folder / "recommender.json")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "recommender.json").write_text("{"), r"recommender\.json: not valid JSON"),
        (lambda f: _manifest(f, version=0), r"found format .* version 0, expected"),
        (lambda f: (f / "items.parquet").write_bytes(b"x"), r"items\.parquet: found 1 bytes"),
        (lambda f: (f / "items.parquet").unlink(), r"items\.parquet: no such file"),
        (lambda f: shutil.copy(f / "users.parquet", f / "items.parquet"), r"items\.parquet: found"),
        (lambda f: (f / "graph.safetensors").unlink(), r"graph\.safetensors: no such file"),
        (lambda f: (f / "state.safetensors").unlink(), r"state\.safetensors: no such file"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"x"),
            r"model\.safetensors: found 1 bytes, expected",
        ),
        (_history, r"found ids in history_items beyond 9"),
    ],
)
def test_damaged_folders(tmp_path, damage, message):
    fitted(epochs=1).save(tmp_path / "r")
    damage(tmp_path / "r")
    with pytest.raises(DataError, match=message):
        Recommender.load(tmp_path / "r")


def test_files_of_two_recommenders(tmp_path):
    recommender = fitted(epochs=1)
    recommender.save(tmp_path / "a")
    recommender.graph.add_triples([("m/new", "genre", "m/drama")])
    recommender.save(tmp_path / "b")
    shutil.copy(tmp_path / "b" / "graph.safetensors", tmp_path / "a")
    with pytest.raises(DataError, match=r"graph\.safetensors: (found|damaged)"):
        Recommender.load(tmp_path / "a")
