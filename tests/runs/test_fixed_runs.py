"""Runs on data that come split: the default protocol, training again, what is stored."""

from __future__ import annotations

import json
import weakref

import numpy as np
import pytest
import torch

from ekpnet_fast import evaluate as evaluate_command
from ekpnet_fast import train as train_command
from ekpnet_fast.data import load_dataset, prepare
from ekpnet_fast.data.splits import with_validation
from ekpnet_fast.errors import ConfigError, DataError
from ekpnet_fast.evaluation.ranking import evaluate_ranking, popularity_scores, ranking_task
from ekpnet_fast.models import MODELS
from ekpnet_fast.recommender import Recommender
from ekpnet_fast.runs import run
from ekpnet_fast.runs.fit import chosen_epochs, fit_run
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.training import loop
from ekpnet_fast.training.progress import EpochRecord


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Clicks within two groups of items; the graph names the groups."""
    root = tmp_path_factory.mktemp("fixed") / "shop"
    root.mkdir()
    stream = np.random.default_rng(0)
    train, test = [], []
    for user in range(60):
        items = stream.permutation(20)[:12] + 20 * (user % 2)
        train.append([user, *items[:9]])
        test.append([user, *items[9:], *items[:1]])  # one that is in train too
    for name, lines in (("train", train), ("test", test)):
        text = "".join(" ".join(map(str, line)) + "\n" for line in lines)
        (root / f"{name}.txt").write_text(text)
    (root / "kg_final.txt").write_text("".join(f"{i} 0 {40 + i // 20}\n" for i in range(40)))
    return root


def options(folder, model, **more):
    small = {"shape.width": 4, "train.batch_size": 128, "threads": 1, "model": model}
    return {"dataset": str(folder), **small, **more}


def test_fixed_is_the_default_of_split_files(folder):
    assert resolve(options(folder, "mf")).protocol == "fixed"
    assert resolve(options("shop", "mf", data_root=str(folder.parent))).protocol == "fixed"
    assert resolve(options(folder, "mf", protocol="recbole")).protocol == "recbole"
    assert resolve({"model": "mf"}).protocol == "ripplenet"
    with pytest.raises(ConfigError, match="--protocol fixed only ranks"):
        resolve(options(folder, "mf", ranking=False))
    with pytest.raises(ConfigError, match="synthetic is not split"):
        run({"model": "popularity", "protocol": "fixed"})


def test_a_run_says_and_stores_its_split_and_evaluates_again(folder, tmp_path, capsys):
    output = tmp_path / "run"
    words = ["--dataset", str(folder), "--model", "mf", "--epochs", "3", "--refit"]
    words += ["--shape.width", "4", "--threads", "1", "--ks", "[3, 7]", "--output", str(output)]
    assert train_command.main(words) == 0
    out = capsys.readouterr().out
    assert "validation 60 positives of 60 users held out of train; test 240 positives" in out
    assert "60 test positives are in train or validation too, never relevant" in out
    assert "Epochs are chosen by the lists of 60 users; lists on test are of 60." in out
    assert "Trained anew on train and validation together for the epochs chosen (train " in out
    assert "protocol fixed)" in out and "Recall@20" in out and "valid NDCG@20" in out
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["protocol"] == "fixed" and metrics["test"] is None
    assert metrics["split"]["held_out_users"] == 60 and metrics["split"]["overlapping"] == 60
    scores = [record["valid_ndcg"] for record in metrics["epochs"]]
    assert len(scores) == 3 and all(0 < score < 1 for score in scores)
    epochs = metrics["refit"]["epochs"]["train"]
    assert epochs == 1 + int(np.argmax(scores))
    assert [record["valid_ndcg"] for record in metrics["refit"]["records"]] == [None] * epochs
    assert {"3", "7", "10", "20"} < metrics["ranking"].keys()
    at = metrics["ranking"]["20"]
    assert at["recall_low"] < at["recall"] < at["recall_high"]
    assert at["ndcg_low"] < at["ndcg"] < at["ndcg_high"] and 0 <= at["map"] <= at["recall"]
    assert evaluate_command.main([str(output)]) == 0
    assert "reproduced exactly" in capsys.readouterr().out
    histories = Recommender.load(output).state.history_items
    assert len(histories) == 540


def test_training_again_is_training_on_all_of_train(folder):
    config = resolve(options(folder, "mf", epochs=3, refit=True))
    dataset = load_dataset(str(folder))
    prepared = prepare(dataset, 0, "fixed")
    graph = Graph.from_dataset(dataset, inverse=True)
    fitted = fit_run(config, prepared, graph)
    whole = with_validation(prepared)
    assert np.array_equal(fitted.prepared.train.items, whole.train.items)
    epochs = fitted.refit["epochs"]["train"]
    again = loop.train(resolve(options(folder, "mf", epochs=epochs)), whole, graph, validate=False)
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, fitted.outcome.model.state_dict()[name])
    assert len(fitted.outcome.records) == 3 and "refit" in fitted.outcome.seconds


def test_the_first_model_is_gone_when_training_again(folder, monkeypatch):
    """Two models and their data would stand beside each other."""
    train, alive = loop.train, []

    def watched(*args, **options):
        left = [model() is not None for model in alive]
        outcome = train(*args, **options)
        alive.append(weakref.ref(outcome.model))
        assert not any(left)
        return outcome

    monkeypatch.setattr(loop, "train", watched)
    dataset = load_dataset(str(folder))
    config = resolve(options(folder, "mf", epochs=2, refit=True))
    fit_run(config, prepare(dataset, 0, "fixed"), Graph.from_dataset(dataset))
    assert len(alive) == 2


def test_a_signal_stops_training_again(folder):
    config = resolve(options(folder, "mf", epochs=2, refit=True))
    dataset = load_dataset(str(folder))
    seen = []

    def check():
        if len(seen) > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_run(
            config,
            prepare(dataset, 0, "fixed"),
            Graph.from_dataset(dataset),
            lambda progress: seen.append(progress.stage) if progress.stage == "refit" else None,
            check=check,
        )
    assert seen == ["refit", "refit"]


def record(stage, epoch, valid):
    return EpochRecord(stage, epoch, 0, 0, 0, 0, 0, float("nan"), float("nan"), valid, 1, 1)


def test_epochs_chosen_are_the_first_best_of_each_stage():
    nan = float("nan")
    records = [record("pretrain", 1, nan), record("pretrain", 2, nan)]
    records += [record("train", n, x) for n, x in enumerate((0.1, 0.3, 0.2, 0.3), 1)]
    assert chosen_epochs(records) == {"pretrain": 2, "train": 2}
    assert chosen_epochs([record("train", 0, 0.4), *records])["train"] == 0
    assert chosen_epochs([]) == {}


def test_popularity_counts_all_of_train_after_a_refit(folder):
    found = [run(options(folder, "popularity", refit=refit)) for refit in (False, True)]
    assert found[1]["ranking"] == found[1]["popularity_ranking"]
    assert found[0]["ranking"] != found[1]["ranking"]
    assert found[0]["data_hash"] == found[1]["data_hash"]


def test_a_recommender_of_split_data(folder):
    small = {"shape.width": 4, "refit": True}
    recommender = Recommender.fit(
        load_dataset(str(folder)), "mf", options=small, epochs=1, threads=1
    )
    assert len(recommender.state.history_items) == 540


@pytest.fixture
def clicks_alone(folder, tmp_path):
    """The same without the graph."""
    place = tmp_path / "clicks"
    place.mkdir()
    for part in ("train", "test"):
        (place / f"{part}.txt").write_bytes((folder / f"{part}.txt").read_bytes())
    return place


def test_every_stage_learns_without_a_graph(clicks_alone, capsys):
    for model in ("ekpnet", "cke"):
        found = run(options(clicks_alone, model, epochs=1, **{"shape.slots": 4}))
        assert found["epochs"][-1]["kg"] == 0 and 0 < found["ranking"][20]["recall"] < 1
        told = capsys.readouterr().err
        kind = "which cke reads" if model == "cke" else f"by which alone {model} tells users apart"
        assert told.count(f" has no triples of its items, {kind}: ") == 1


@pytest.mark.parametrize("graph", ["", "50 0 51\n51 0 52\n"], ids=["none", "of no item"])
@pytest.mark.parametrize("model", ["ekp_no", "ekp_att", "ripplenet", "ripp_mkr"])
def test_a_model_of_paths_alone_is_refused_where_none_leads_anywhere(model, graph, clicks_alone):
    """Its scores would all be 0, and its lists those of the items' numbers."""
    if graph:
        (clicks_alone / "kg_final.txt").write_text(graph)
    with pytest.raises(DataError, match=f"no triple with an item, .* --model {model} ") as no:
        run(options(clicks_alone, model, epochs=1))
    others = str(no.value).rpartition("another model: ")[2].split(", ")
    assert {"linear", "ekpnet_plus", "mf", "popularity"} <= {*others} < {*MODELS}
    assert not {"ekpnet", "ripplenet", "dkn"} & {*others}


def test_numbers_with_gaps_and_another_split_are_told(clicks_alone):
    """Of a folder as it is nothing is said."""

    def told(**more):
        found = []
        run(options(clicks_alone, "item_knn", **more), warn=found.append)
        return found

    assert not told()
    (anew,) = told(protocol="recbole")
    assert "comes split, and is split anew by --protocol recbole" in anew
    for part in ("train", "test"):
        path = clicks_alone / f"{part}.txt"
        lists = [list(map(int, line.split())) for line in path.read_text().splitlines()]
        rows = (" ".join(map(str, [user, *(3 * item for item in items)])) for user, *items in lists)
        path.write_text("\n".join(rows) + "\n")
    (gaps,) = told()
    assert "numbers of items are in no row" in gaps and "`ekpnet data import`" in gaps


def test_what_is_missed_without_a_graph_is_told_of_models_that_read_it():
    told = {name: kind.without_triples() for name, kind in MODELS.items()}
    silent = {name for name, words in told.items() if words is None}
    refused = {name for name, kind in MODELS.items() if kind.paths_alone}
    assert refused == {"ekp_no", "ekp_att", "ripplenet", "ripp_mkr"}
    clicks = {"popularity", "item_knn", "user_knn", "p3alpha", "local_ridge", "mf"}
    assert silent == clicks | refused
    assert "ekpnet_plus reads: its signals by the graph" in told["ekpnet_plus"]
    assert "cke reads: its neighbours and losses in the graph" in told["cke"]


@pytest.mark.parametrize(
    ("model", "graph"), [("linear", ""), ("linear", "50 0 51\n51 0 52\n"), ("ekpnet_plus", "")]
)
def test_without_a_graph_the_wide_part_is_of_clicks(model, graph, clicks_alone, tmp_path):
    if graph:  # of no item
        (clicks_alone / "kg_final.txt").write_text(graph)
    small = {"train.batch_size": 128, "shape.width": 4, "epochs": 1} if model != "linear" else {}
    given = {"dataset": str(clicks_alone), "model": model, "threads": 1, **small}
    found = run({**given, "output": str(tmp_path / "run")})
    assert found["auto"][f"{model}.joint_spectral"] == ()
    assert found["auto"][f"{model}.joint_ridge"] == found["auto"][f"{model}.relations"] == 0
    names = [name for name, rise in found["weights"].items() if abs(rise) > 1e-2]
    assert names and not any("KG" in name or "joint" in name for name in names)
    recommender = Recommender.load(tmp_path / "run")
    # Users of the two groups get lists of their group, and no word that the graph is silent.
    for user in ("0", "1"):
        answer = recommender.recommend(user, k=3)
        assert not answer.notes
        assert {int(item.item) // 20 for item in answer.items} == {int(user)}
    told = recommender.explain("0", answer.items[0].item).to_text()
    assert "because you clicked" in told and "graph together" not in told


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "recall", "ndcg"),
    [("alibaba-ifashion", 0.0311860, 0.0167371), ("last-fm-kgat", 0.0225, 0.0196)],
)
def test_popularity_of_public_benchmarks(name, recall, ndcg, data_root):
    """Counts published for popularity, over all users of test.

    Users whose test positives are all in train are left out here, and are misses there.
    """
    prepared = with_validation(prepare(load_dataset(name, data_root), 0, "fixed"))
    users = len(np.unique(prepared.test.users))
    ranked = len(ranking_task(prepared).users)
    at = evaluate_ranking(popularity_scores(prepared), prepared, [20])[20]
    assert at["recall"] * ranked / users == pytest.approx(recall, abs=5e-5)
    assert at["ndcg"] * ranked / users == pytest.approx(ndcg, abs=5e-5)
