"""Cross-fitting: what training rows see of the other folds, and nothing of their own."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from rich.console import Console

from ekpnet_fast.config import ModelConfig, RunConfig, SamplingConfig
from ekpnet_fast.data import Examples, make_synthetic, prepare
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.evaluation import scoring
from ekpnet_fast.models import MODELS
from ekpnet_fast.runs.display import Display
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.batches import BatchStream
from ekpnet_fast.sampling.examples import UserExamples
from ekpnet_fast.sampling.folds import Folds
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories, distinct_keys, fold_histories, fold_of
from ekpnet_fast.sampling.negatives import RedrawnNegatives
from ekpnet_fast.sampling.pairs import TrainContext
from ekpnet_fast.sampling.ripple_sets import LazyRippleSets, RippleSets
from ekpnet_fast.training import loop
from ekpnet_fast.training.data import TrainingData
from support.graphs import csr, path
from support.small_folds import COUNT, SMALL, STAGE

CONFIG = RunConfig(
    folds=COUNT,
    shape=ModelConfig(width=4, hops=2, slots=4, layers=2),
    pretrain=STAGE,
    train=STAGE,
    synthetic=SMALL,
)


def lists(histories):
    ends = histories.indptr.tolist()
    return [histories.items[a:b].tolist() for a, b in pairwise(ends)]


def test_histories_of_ids():
    histories = Histories(*csr([[3, 5], [], [1]]))
    assert len(histories) == 3
    found = histories.of(torch.tensor([2, 0, 1, 0], dtype=torch.int32))
    assert lists(found) == [[1], [3, 5], [], [3, 5]]
    assert lists(histories.of(torch.tensor([], dtype=torch.int32))) == []


@pytest.mark.parametrize(
    ("keys", "expected"), [([], []), ([7], [7]), ([3, 1, 3, -5, 1], [-5, 1, 3])]
)
def test_distinct_keys_rise(keys, expected):
    given = np.array(keys, dtype=np.int64)
    assert distinct_keys(given).tolist() == expected
    assert given.tolist() == keys


def test_virtual_histories_by_hand():
    users, items = np.array([0, 0, 0, 1]), np.array([7, 2, 4, 2])
    folds = np.array([0, 1, 1, 0])
    found = fold_histories(users, items, folds, num_users=3, count=2)
    assert lists(found) == [[2, 4], [7], [], [2], [], []]


def test_folds_are_even_and_depend_on_seed_user_and_item_alone():
    users, items = np.meshgrid(np.arange(200), np.arange(100), indexing="ij")
    users, items = users.ravel().astype(np.int32), items.ravel().astype(np.int32)
    found = fold_of(users, items, 5, seed=1)
    counts = np.bincount(found, minlength=5)
    assert len(counts) == 5 and abs(counts / len(users) - 0.2).max() < 0.02
    order = np.random.default_rng(0).permutation(len(users))
    assert np.array_equal(fold_of(users[order], items[order], 5, seed=1), found[order])
    other = fold_of(users, items, 5, seed=2)
    assert 0.7 < (other != found).mean() < 0.9
    # No user's items, and no item's users, are all in one fold.
    assert (np.ptp(found.reshape(200, 100), axis=0) > 0).all()
    assert (np.ptp(found.reshape(200, 100), axis=1) > 0).all()


def test_every_row_is_left_once_and_sees_no_click_of_its_own_fold(prepared, folds):
    rows = scoring.examples_by_user(prepared.train, prepared)
    users = np.repeat(np.arange(prepared.dataset.num_users), rows.indptr.diff().numpy())
    items, labels = rows.items.numpy(), rows.labels.numpy()
    drawn = fold_of(users, items, COUNT, seed=5)
    kept = folds.kept.numpy()
    assert len(set(kept.tolist())) == len(kept)
    assert np.array_equal(folds.rows.items.numpy(), items[kept])
    assert np.array_equal(folds.rows.labels.numpy(), labels[kept])
    assert np.array_equal(folds.rows.order.numpy(), rows.order.numpy()[kept])
    owners = np.repeat(np.arange(len(folds.histories)), folds.rows.indptr.diff().numpy())
    assert np.array_equal(owners, users[kept] * COUNT + drawn[kept])
    for user in range(prepared.dataset.num_users):
        own = users == user
        for k in range(COUNT):
            seen = lists(folds.histories)[user * COUNT + k]
            assert seen == sorted(set(items[own & (labels == 1) & (drawn != k)].tolist()))
            mine = np.flatnonzero(own & (drawn == k))
            # Left out where nothing else was clicked, and only there.
            assert np.isin(mine, kept).all() if seen else not np.isin(mine, kept).any()
            assert not set(items[mine][labels[mine] == 1].tolist()) & set(seen)


def test_a_repeated_row_does_not_tell_its_label():
    rows = UserExamples.from_examples(
        Examples(
            np.zeros(5, dtype=np.int32),
            np.array([1, 1, 1, 2, 3], dtype=np.int32),
            np.ones(5, dtype=np.int8),
        ),
        1,
    )
    for seed in range(20):
        folds = Folds.cut(rows, 4, seed)
        seen = lists(folds.histories)
        owners = torch.repeat_interleave(folds.rows.indptr.diff()).tolist()
        for owner, item in zip(owners, folds.rows.items.tolist(), strict=True):
            assert item not in seen[owner]


def test_ripple_sets_of_a_virtual_user_depend_on_seed_and_id_alone(prepared, folds):
    graph = Graph.from_dataset(prepared.dataset, inverse=True)
    shared = {"hops": 2, "slots": 4, "seed": 3, "epoch": 2, "repeat": False}
    at_once = RippleSets.sample(graph, folds.histories.indptr, folds.histories.items, **shared)
    drawn = LazyRippleSets(graph, folds.histories, **shared)
    ids = torch.tensor([7, 0, 7, 100], dtype=torch.int32)
    for found, all_of_them in zip(
        vars(drawn.of_users(ids)).values(), vars(at_once).values(), strict=True
    ):
        assert torch.equal(found, all_of_them[ids.long()])


def test_a_ripple_set_starts_outside_the_rows_fold():
    graph = Graph.from_triples(*path(20))
    rows = Examples(np.zeros(10, np.int32), np.arange(10, dtype=np.int32), np.ones(10, np.int8))
    folds = Folds.cut(UserExamples.from_examples(rows, 1), 2, seed=0)
    drawn = LazyRippleSets(graph, folds.histories, 1, 16, seed=0, epoch=0, repeat=False)
    stream = BatchStream(
        graph, folds.rows, batch_size=4, group_size=4, triples=0, seed=0, folds=folds
    )
    seen = 0
    for batch in stream.epoch(1, drawn):
        for group in range(len(batch.counts)):
            heads = batch.rows[batch.heads[group, 0, : batch.counts[group, 0]].long()]
            first, last = batch.group_indptr[group : group + 2].tolist()
            items = batch.rows[batch.items[first:last].long()]
            assert not set(heads.tolist()) & set(items.tolist())
            assert len(heads) in map(len, lists(folds.histories))
            seen += len(items)
    assert seen == len(folds.kept)


def test_requests_carry_user_fold_and_rows(prepared, folds):
    requests = []

    class Spy(MODELS["akupm"]):
        def inputs(self, request):
            requests.append(request)
            return super().inputs(request)

    config = resolve(replace(CONFIG, model="akupm"))
    graph = Graph.from_dataset(prepared.dataset, inverse=True)
    model = Spy(config, TrainContext.of(prepared, graph, 0))
    stream = BatchStream(
        graph, folds.rows, batch_size=16, group_size=4, triples=0, seed=0, folds=folds,
        reads=model.reads,
    )  # fmt: skip
    drawn = LazyRippleSets(graph, folds.histories, 2, 4, seed=0, epoch=0, repeat=False)
    batches = list(stream.epoch(1, drawn))
    owner_of_row = torch.repeat_interleave(folds.rows.indptr.diff())
    for batch, request in zip(batches, requests, strict=True):
        assert request.folds == COUNT and request.histories is folds.histories
        assert torch.equal(request.ids // COUNT, request.users)
        ids = torch.repeat_interleave(request.ids, request.group_indptr.diff())
        assert torch.equal(owner_of_row[request.rows], ids.long())
        assert torch.equal(folds.rows.items[request.rows], request.items)
        clicked, counts = batch.inputs["clicked"], batch.inputs["clicked_counts"]
        for group, seen in enumerate(lists(folds.histories.of(request.ids))):
            named = batch.rows[clicked[group, : counts[group]].long()].tolist()
            assert set(named) <= set(seen)


@pytest.mark.parametrize(
    "model", [n for n, k in MODELS.items() if k.stages and (k.ripple or k.history)]
)
def test_models_train_on_folds(model, prepared):
    config = replace(CONFIG, model=model)
    graph = Graph.from_dataset(prepared.dataset, inverse=True)
    if MODELS[model].lacking(prepared.dataset):
        names = tuple(f"item {i}" for i in range(prepared.dataset.num_items))
        prepared = replace(prepared, dataset=replace(prepared.dataset, item_names=names))
    plain = loop.train(resolve(replace(config, folds=1)), prepared, graph)
    outcome = loop.train(resolve(config), prepared, graph)
    # The wide part alone, before the first epoch, has no loss.
    losses, others = ([r.loss for r in x.records if r.epoch > 0] for x in (outcome, plain))
    assert np.isfinite(losses).all() and losses[0] != others[0]


def test_redrawn_negatives_keep_to_their_rows():
    prepared = prepare(make_synthetic(SMALL), 0, "recbole")
    redrawn = RedrawnNegatives(prepared, 0)
    folds = Folds.cut(redrawn.rows, COUNT, seed=0)
    graph = Graph.from_dataset(prepared.dataset)
    stream = BatchStream(
        graph, folds.rows, batch_size=32, group_size=4, triples=0, seed=0, folds=folds,
        redraw=lambda epoch: redrawn(epoch)[folds.kept],
    )  # fmt: skip
    order = stream.order(2)
    users = torch.repeat_interleave(order.group_users // COUNT, order.group_indptr.diff())
    clicked = {
        (user, item)
        for user, seen in enumerate(lists(Histories(*map(torch.from_numpy, (
            prepared.history_indptr, prepared.history_items
        )))))
        for item in seen
    }  # fmt: skip
    for user, item, label in zip(
        users.tolist(), order.items.tolist(), order.labels.tolist(), strict=True
    ):
        assert ((user, item) in clicked) == (label == 1)


def test_folds_are_refused_where_they_would_do_nothing():
    with pytest.raises(ConfigError, match="--folds is 3, expected 1: mf does not look at histor"):
        resolve(replace(CONFIG, model="mf"))
    with pytest.raises(ConfigError, match="--folds is 0, expected 1 to 64"):
        resolve(replace(CONFIG, model="ekpnet", folds=0))


def test_a_stalled_stage_says_what_to_change(prepared):
    held = replace(STAGE, lr=1e-12, lambda3=0.0)
    config = resolve(replace(CONFIG, model="mf", folds=1, train=held))
    graph = Graph.from_dataset(prepared.dataset)
    model = MODELS["mf"]
    told = []
    shown = io.StringIO()

    class Zero(model):
        def __init__(self, *args):
            super().__init__(*args)
            self.user.zero_()

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "mf", Zero)
        with Display(Console(file=shown, width=1000)) as display:
            loop.train(config, prepared, graph, lambda x: (told.append(x.warning), display(x)))
    (warning,) = filter(None, told)
    assert "after the first epoch of the train stage: the model tells nothing apart" in warning
    assert "--train.lr (now 1e-12)" in warning and warning in shown.getvalue()


def test_sampling_option_resample_off_repeats_the_draw(prepared):
    config = resolve(replace(CONFIG, sampling=SamplingConfig(resample=False)))
    graph = Graph.from_dataset(prepared.dataset, inverse=True)
    once = TrainingData(config, prepared, graph)
    first = once.ripple_sets(1).sets.tails
    assert torch.equal(once.ripple_sets(3).sets.tails, first)
    anew = TrainingData(replace(config, sampling=SamplingConfig()), prepared, graph)
    assert torch.equal(anew.ripple_sets(1).sets.tails, first)
    assert not torch.equal(anew.ripple_sets(3).sets.tails, first)
