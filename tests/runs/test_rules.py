"""Options that follow from the data: their values, what is left open, and what is given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from ekpnet_fast.config import RunConfig
from ekpnet_fast.data import load_dataset, prepare
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models import MODELS
from ekpnet_fast.models.rules import (
    DataFacts,
    batch_size,
    by_density,
    by_measure,
    if_dense,
    if_triples,
    row_decay,
    walks_back,
)
from ekpnet_fast.runs import runner
from ekpnet_fast.runs.options import parse_command
from ekpnet_fast.runs.resolve import flat, from_data, resolve, settle
from ekpnet_fast.storage import tensor_file
from support.cinema import cinema

USERS, ITEMS = 60, 40


def facts(rows=10_000, clicks_per_item=10.0, heads_per_tail=2.0):
    return DataFacts(rows, clicks_per_item, heads_per_tail)


@pytest.fixture
def folders(tmp_path):
    """Folders of one data set: by a name that has a preset of the paper, and by another."""
    draw = np.random.default_rng(0)
    pairs = draw.permutation(USERS * ITEMS)[: USERS * 20]
    rows = "".join(f"{pair // ITEMS}\t{pair % ITEMS}\t{n % 2}\n" for n, pair in enumerate(pairs))
    triples = "".join(f"{item}\t{item % 3}\t{ITEMS + item % 7}\n" for item in range(ITEMS))
    for name in ("movielens-1m", "copy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ratings_final.txt").write_text(rows)
        (tmp_path / name / "kg_final.txt").write_text(triples)
    return tmp_path


# ---- the rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (25_397, 256),  # 338 would leave 75 steps
        (80_499, 1024),  # 1,073
        (452_264, 4096),  # 6,030
        (75 * 512, 512),
        (75 * 512 - 1, 256),
        (10**8, 4096),
        (1, 64),
        (0, 64),
    ],
)
def test_batch_size(rows, expected):
    assert batch_size(facts(rows)) == expected
    assert batch_size(facts(rows), most=1024) == min(expected, 1024)


@pytest.mark.parametrize(
    ("clicks", "expected"),
    [(0.0, 0.1), (3.0, 0.1), (90.0, 0.001), (500.0, 0.001), ((3 * 90) ** 0.5, 0.01), (5.0, 0.05)],
)
def test_by_density(clicks, expected):
    # 5 clicks: 0.1 * 0.01 ** (log(5 / 3) / log(30)) = 0.1 * 0.01 ** 0.15019 = 0.05007
    assert by_density(0.1, 0.001)(facts(clicks_per_item=clicks)) == expected


@pytest.mark.parametrize(
    ("rows", "clicks", "expected"),
    [
        (75 * 4096, 90.0, 0.01),
        (75 * 512, 36.0, 0.0022),  # of 512 pairs: by density it would be 0.0054
        (75 * 64, 90.0, 0.00028),
        (75 * 1024, 3.0, 0.001),
    ],
)
def test_rows_decay_by_density_and_by_the_pairs_of_a_mini_batch(rows, clicks, expected):
    assert row_decay(1e-3, 1e-2)(facts(rows, clicks)) == expected


def test_if_dense():
    rule = if_dense("few", "many")
    assert [rule(facts(clicks_per_item=clicks)) for clicks in (15.9, 16.0)] == ["few", "many"]


def test_walks_back():
    assert [walks_back(facts(heads_per_tail=heads)) for heads in (0.0, 31.9, 32.0)] == [
        True,
        True,
        False,
    ]


def test_if_triples():
    rules = if_triples("some", "none"), if_triples(by_measure("click", "list"), "none")
    assert [rule(facts(heads_per_tail=0.0)) for rule in rules] == ["none", "none"]
    assert [rule(facts()) for rule in rules] == ["some", "click"]


@pytest.mark.parametrize(
    ("lists", "users", "items", "clicks_per_item", "fine"),
    [
        (True, 114_737, 30_040, 45.3, True),  # Alibaba-iFashion
        (True, 23_566, 48_123, 22.6, True),  # Last-FM as KGAT splits it
        (True, 16_384, 16_384, 16.0, True),
        (True, 16_384, 16_383, 16.0, False),
        (True, 16_384, 16_384, 15.9, False),
        (True, 300, 48_000, 60.0, False),
        (False, 10**6, 10**6, 100.0, False),
    ],
)
def test_many_clicks_of_many_users_on_many_items_are_projected_finer(
    lists, users, items, clicks_per_item, fine
):
    found = replace(facts(0, clicks_per_item), lists=lists, users=users, items=items)
    expected = (32, 128, 512) if fine else (32, 128)
    assert MODELS["linear"].rules["linear.low_pass"](found) == expected


def test_options_of_known_data():
    """What the rules of EKPNet and MF say for the sizes of MovieLens-1M and of Last.FM."""

    def of(model, found):
        return {name: rule(found) for name, rule in MODELS[model].rules.items()}

    movielens, last_fm = facts(452_264, 92.5, 4.6), facts(25_397, 3.3, 2.8)
    assert of("ekpnet", movielens) == {
        "sampling.inverse": True,
        "pretrain.epochs": 20,
        "pretrain.batch_size": 4096,
        "pretrain.patience": 8,
        "pretrain.lambda3": 0.01,
        "train.epochs": 15,
        "train.batch_size": 4096,
    }
    assert of("mf", movielens) == {
        "shape.width": 64,
        "train.loss": "bce",
        "train.batch_size": 4096,
        "train.lambda3": 0.05,
    }
    # log(3.3 / 3) / log(30) = 0.0280: 0.001 * 10 ** 0.0280 = 0.00107, 0.5 * 0.1 ** 0.0280 = 0.469
    assert of("ekpnet", last_fm) == {
        "sampling.inverse": True,
        "pretrain.epochs": 15,
        "pretrain.batch_size": 256,
        "pretrain.patience": 3,
        "pretrain.lambda3": 0.0011,
        "train.epochs": 10,
        "train.batch_size": 256,
    }
    assert of("mf", last_fm) == {
        "shape.width": 16,
        "train.loss": "bce",
        "train.batch_size": 256,
        "train.lambda3": 0.47,
    }


def test_facts_of_data():
    dataset = cinema()
    prepared = prepare(dataset, seed=0)
    found = DataFacts.of(prepared)
    assert found.rows == len(prepared.train) > 0
    assert found.clicks_per_item == len(prepared.history_items) / 6
    assert found.heads_per_tail == 9 / 4  # tails 6, 7, 8 and 9
    assert found.items == 6 and not found.lists
    # A negative is drawn to each positive.
    ranked = prepare(dataset, seed=0, protocol="recbole")
    assert DataFacts.of(ranked).rows == 2 * len(ranked.train)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("clicks", [0.0, 20.0, 100.0])
@pytest.mark.parametrize("rows", [0, 10**8])
def test_every_rule_gives_options_that_can_be_run(model, clicks, rows):
    found = facts(rows, clicks)
    given = {name: rule(found) for name, rule in MODELS[model].rules.items()}
    config = resolve({"model": model, **given})
    assert config.auto == ()
    assert given.items() <= flat(config.as_dict()).items()


# ---- left open, given, settled -------------------------------------------------------------------


def test_what_is_not_given_is_left_open():
    config = resolve({"model": "mf", "dataset": "x", "train.batch_size": 17})
    assert config.auto == ("shape.width", "train.loss", "train.lambda3")
    written = config.as_dict()
    assert "auto" not in written and "width" not in written["shape"]
    assert "lambda3" not in written["train"] and written["train"]["batch_size"] == 17
    assert resolve(written) == config
    assert resolve({"preset": "paper", "dataset": "movielens-1m"}).auto == ()
    assert resolve(RunConfig()).auto == ()


def test_epochs_are_given_by_their_short_name():
    assert "train.epochs" in resolve({"model": "ekpnet"}).auto
    config = resolve({"model": "ekpnet", "epochs": 7})
    assert not any(name.endswith(".epochs") for name in config.auto)
    settled = settle(config, prepare(cinema(), seed=0))
    assert (settled.pretrain.epochs, settled.train.epochs) == (7, 7)


def test_auto_is_a_word_for_what_is_not_given(tmp_path):
    bare = parse_command(["--model", "kgcn"]).config
    words = ["--kgcn.aggregator", "auto", "--train.lambda3", "auto"]
    assert parse_command(["--model", "kgcn", *words]).config == bare
    file = tmp_path / "run.yaml"
    file.write_text("model: kgcn\ntrain:\n  lambda3: auto\n  lr: 0.5\n")
    assert parse_command(["--config", str(file)]).config == resolve(
        {"model": "kgcn", "train.lr": 0.5}
    )
    for given in (
        {"train.group_size": "auto"},
        {"train.batch_size": "auto", "preset": "paper", "dataset": "movielens-1m"},
        {"model": "linear", "train.batch_size": "auto"},
    ):
        with pytest.raises(ConfigError, match=r"--train\.\w+ is auto, expected a whole number$"):
            resolve(given)
    with pytest.raises(ConfigError, match=r"batch_size is aut, expected a whole number or auto"):
        parse_command(["--train.batch_size", "aut"])
    with pytest.raises(ConfigError, match="auto"):
        resolve({"auto": ("train.lr",)})


def test_settled_by_hand():
    prepared = prepare(cinema(), seed=0)
    found = DataFacts.of(prepared)
    config = resolve({"model": "kgcn", "dataset": "cinema", "train.lr": 0.5})
    settled = settle(config, prepared)
    assert settled.auto == () and settle(settled, prepared) == settled
    dense = found.clicks_per_item >= 16
    assert not dense and settled.options.aggregator == "concat"
    assert settled.train.batch_size == 64  # fewer than 75 * 64 rows
    assert settled.train.lr == 0.5
    # Between 0.2 at 3 clicks and 0.02 at 90; the data has 36 to 44 of its 60 clicks in train.
    share = np.log(found.clicks_per_item / 3) / np.log(30)
    assert 0 < share < 1 and settled.train.lambda3 == float(f"{0.2 * 0.1**share:.1e}")
    assert from_data(settled, prepared) == {
        "kgcn.aggregator": "concat",
        "train.batch_size": 64,
        "train.lambda3": settled.train.lambda3,
    }


def test_only_stages_that_are_run_are_told():
    prepared = prepare(cinema(), seed=0)
    plus = settle(resolve({"model": "ekpnet_plus"}), prepared)
    assert not any(name.startswith("pretrain.") for name in from_data(plus, prepared))
    att = settle(resolve({"model": "ekp_att"}), prepared)
    assert not any(name.startswith("train.") for name in from_data(att, prepared))
    paper = resolve({"preset": "paper", "dataset": "movielens-1m"})
    assert from_data(paper, prepared) == {}


# ---- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["ekpnet", "ekpnet_plus", "mf"])
def test_a_renamed_copy_has_the_same_options_and_bits(folders, model):
    found = []
    for name in ("movielens-1m", "copy"):
        output = folders / f"run of {name}"
        given = {"dataset": str(folders / name), "model": model, "output": output, "epochs": 1}
        told = []
        metrics = runner.run({**given, "threads": 1}, on_options=told.append)
        config = yaml.safe_load((output / "config.yaml").read_text())
        assert told == [metrics["auto"]]
        assert metrics["auto"]["train.batch_size"] == config["train"]["batch_size"] == 64
        weights, _ = tensor_file.read(output / "model.safetensors", "model", "a run")
        del config["dataset"], config["output"]
        found.append((config, metrics["auto"], metrics["test"], metrics["ranking"], weights))
    (*named, weights), (*copied, copied_weights) = found
    assert named == copied
    assert weights.keys() == copied_weights.keys()
    assert all(torch.equal(value, copied_weights[key]) for key, value in weights.items())


def test_given_options_win(folders):
    given = {
        "dataset": str(folders / "copy"), "model": "mf", "threads": 1, "epochs": 1,
        "train.batch_size": 100, "shape.width": 3,
    }  # fmt: skip
    output = folders / "run"
    metrics = runner.run({**given, "output": output, "ranking": False})
    stored = yaml.safe_load((output / "config.yaml").read_text())
    assert (stored["train"]["batch_size"], stored["shape"]["width"]) == (100, 3)
    assert metrics["auto"] == {
        "train.loss": "bce",
        "train.lambda3": stored["train"]["lambda3"],
    }
    # What is stored is whole: nothing of it follows from data again.
    assert resolve(stored).auto == ()


def test_the_data_may_ask_not_to_walk_back(folders):
    dataset = load_dataset(str(folders / "copy"))
    one_tail = replace(dataset, tails=np.full_like(dataset.tails, ITEMS))
    assert settle(resolve({}), prepare(dataset, seed=0)).sampling.inverse
    assert not settle(resolve({}), prepare(one_tail, seed=0)).sampling.inverse
